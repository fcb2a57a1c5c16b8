"""The lab's own apt: packages of any Debian suite, fetched and unpacked without touching the host's apt.

Everything that apt keeps (lists, archives, state) is below the lab's cache, and the installed packages are
said to be none, so that what apt answers is the same on every host, for root and for others. Of the host's
configuration only what says how a mirror is reached is taken over (proxies, certificates, date checks).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import glob
import json
import os
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kpatchlab import proc
from kpatchlab.cache import META, Cache, content_key, disk_bytes, file_digest
from kpatchlab.errors import HostError, LabError, UserError
from kpatchlab.host import dates

UPDATE_HOURS = 12.0
"""Package lists older than this are fetched anew before a question is answered from them."""
RETRY_UPDATE_S = 600.0
"""Lists younger than this are believed when they say that a package does not exist."""
QUERY_TIMEOUT_S = 120.0
UPDATE_TIMEOUT_S = 900.0
FETCH_TIMEOUT_S = 3600.0

_KEYRINGS = ("debian-archive-keyring.gpg", "debian-archive-keyring.pgp")  # .pgp: from trixie on
_ROLLING = {"sid", "unstable", "experimental", "rc-buggy"}
_SUITES = {
    *("bullseye", "bookworm", "trixie", "forky", "duke"),
    *("oldoldstable", "oldstable", "stable", "testing"),
    *_ROLLING,
}
_POCKETS = re.compile(r"(-security|/updates|-updates|-proposed-updates|-backports(-sloppy)?)$")
_ARCHIVE = re.compile(r"(^.*/debian)(/\d{8}T\d{6}Z)?/?$")  # with the stamp of a snapshot archive
_UNREACHABLE = re.compile(
    r"could not resolve|could not connect|cannot initiate|connection (failed|timed out|refused)|unable to connect"
    r"|temporary failure|network is unreachable|no route|timed? ?out|error reading from server|\b50[234]  ",
    re.IGNORECASE,
)
_GONE = re.compile(r"^E: Failed to fetch \S*/(\S+\.deb)  404 ", re.MULTILINE)
UNREACHABLE_HINT = "check the network and apt's proxy, or set `mirror:` in lab.yaml"
_TAKEN_OVER = ("Acquire::http", "Acquire::https", "Acquire::Check-Date", "Acquire::Check-Valid-Until")


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where packages come from: the archive's URL and the security archive's, without trailing slashes."""

    archive: str
    security: str

    @property
    def is_snapshot(self) -> bool:
        """Whether it is an archive as it was once, which never moves."""
        match = _ARCHIVE.match(self.archive)
        return bool(match and match[2])


def parse_mirror(text: str) -> Mirror:
    """Read lab.yaml's `mirror`: the archive's URL, then the security archive's where it is not its sibling.

    >>> parse_mirror("http://mirror.example/debian/").security
    'http://mirror.example/debian-security'

    Raises:
        UserError: not one or two URLs, or no sibling can be told from the first.
    """
    words = [word.rstrip("/") for word in text.split()]
    if not 1 <= len(words) <= 2 or not all(re.match(r"[a-z+]+:/", word) for word in words):
        raise UserError(f"mirror: {text!r} is not a URL", hint="for instance http://mirror.example/debian")
    if len(words) == 2:
        return Mirror(words[0], words[1])
    match = _ARCHIVE.match(words[0])
    if not match:
        raise UserError(
            f"mirror: cannot tell the security archive that belongs to {words[0]}",
            hint="add its URL after a blank",
        )
    return Mirror(words[0], f"{match[1]}-security{match[2] or ''}")


def host_mirror(etc: Path = Path("/etc/apt")) -> Mirror | None:
    """Return the Debian mirrors that the host's own apt uses, None where it uses none."""
    archive = security = ""
    for uri, suite in _host_entries(etc):
        if suite.endswith(("-security", "/updates")):
            security = security or uri
        else:
            archive = archive or uri
    if not archive:
        return None
    with contextlib.suppress(UserError):
        security = security or parse_mirror(archive).security
    return Mirror(archive, security or f"{archive}-security")


def choose_mirror(wanted: str) -> Mirror:
    """Return the mirror of lab.yaml, else the host's own.

    Raises:
        UserError: neither names one.
    """
    if wanted.strip():
        return parse_mirror(wanted)
    if found := host_mirror():
        return found
    raise UserError("no Debian mirror: this host's own apt names none", hint="name one as `mirror` in lab.yaml")


def is_unreachable(text: str) -> bool:
    """Whether apt's words blame the network or the mirror's host."""
    return bool(_UNREACHABLE.search(text))


def explained(text: str, mirror: str, said: Sequence[str] = ()) -> HostError | None:
    """Return what apt's words say of a mirror, where that is what they blame.

    Args:
        said: the lines of these words that people want to see.
    """
    gone = [urllib.parse.unquote(name) for name in _GONE.findall(text)]
    if gone:  # seen of a mirror that has one architecture's point release in its lists alone
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        hint = "try later, or name another one, or a snapshot, with `mirror:` in lab.yaml"
        return HostError(f"{mirror} lists packages that it does not have: {gone[0]}{more}", hint, tuple(gone))
    if is_unreachable(text):
        return HostError(f"{mirror} cannot be reached", UNREACHABLE_HINT, tuple(said))
    return None


def _host_entries(etc: Path) -> Iterator[tuple[str, str]]:
    """Yield (URL, suite) of each binary entry for Debian itself, third parties' repositories left out."""
    parts = etc / "sources.list.d"
    files = [etc / "sources.list", parts / "debian.sources"]
    with contextlib.suppress(OSError):
        files += sorted(parts.iterdir())
    for file in files:
        try:
            text = file.read_text(errors="replace")
        except OSError:
            continue
        entries = _one_line(text) if file.suffix == ".list" else _deb822(text) if file.suffix == ".sources" else ()
        for uris, suites, components, signed_by in entries:
            if "main" not in components or (signed_by and "debian-archive" not in signed_by):
                continue
            for suite in suites:
                if _POCKETS.sub("", suite) in _SUITES:
                    yield from ((uri.rstrip("/"), suite) for uri in uris if not uri.startswith("cdrom:"))


_Entry = tuple[list[str], list[str], list[str], str]


def _one_line(text: str) -> Iterator[_Entry]:
    """Parse sources.list(5)'s one-line style: `deb [options] uri suite component...`."""
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[(.*?)\]\s+)?(\S+)\s+(\S+)\s+([^#]*)", line)
        if match:
            signed_by = re.search(r"signed-by=(\S+)", match[1] or "", re.IGNORECASE)
            yield [match[2]], [match[3]], match[4].split(), signed_by[1] if signed_by else ""


def _deb822(text: str) -> Iterator[_Entry]:
    """Parse sources.list(5)'s deb822 style: stanzas of `Field: value`, folded lines begin with a blank."""
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", plain):
        unfolded = re.sub(r"\n[ \t]+", " ", stanza)
        pairs = (line.partition(":") for line in unfolded.splitlines())
        fields = {name.strip().lower(): value.strip() for name, _, value in pairs}
        if "deb" in fields.get("types", "").split() and fields.get("enabled", "yes").lower() not in {"no", "false"}:
            uris, suites, components = (fields.get(name, "").split() for name in ("uris", "suites", "components"))
            yield uris, suites, components, fields.get("signed-by", "")


def sources(suite: str, mirror: Mirror, *, arch: str = "amd64") -> list[str]:
    """Return sources.list lines for a suite with its updates and security pockets.

    A suite "bookworm-backports" comes with all of bookworm.

    Raises:
        HostError: the host lacks Debian's archive keys.
    """
    base = suite.removesuffix("-backports")
    options = f"[arch={arch} signed-by={keyring()}]"
    lines = [f"deb {options} {mirror.archive} {base} main"]
    if base not in _ROLLING:
        lines.append(f"deb {options} {mirror.archive} {base}-updates main")
        lines.append(f"deb {options} {mirror.security} {base}-security main")
    if suite != base:
        lines.append(f"deb {options} {mirror.archive} {suite} main")
    return lines


def keyring(folder: Path = Path("/usr/share/keyrings")) -> Path:
    """Return the file with Debian's archive keys.

    Raises:
        HostError: the package with them is not installed.
    """
    for name in _KEYRINGS:
        if (folder / name).exists():
            return folder / name
    raise HostError("Debian's archive keys are not on this host", hint="install the package debian-archive-keyring")


@functools.cache
def reach_options() -> tuple[str, ...]:
    """Return apt.conf lines of the host that say how mirrors are reached; empty without apt."""
    with contextlib.suppress(HostError):
        result = proc.run(["apt-config", "dump", *_TAKEN_OVER], timeout_s=QUERY_TIMEOUT_S)
        lines = [line for line in result.stdout.splitlines() if not line.endswith('"";')]
        return tuple(sorted(set(lines)))
    return ()


@dataclass(frozen=True, slots=True)
class _Uri:
    """One line of `apt-get --print-uris`: `'URI' name size SHA256:hex`."""

    name: str
    size_bytes: int
    sha256: str


class Apt:
    """Packages of one suite.

    Args:
        suite: "trixie", "bookworm-backports" ...; its updates and security pockets belong to it.
        mirror: as in lab.yaml; "" is what the host's own apt uses.
        verbose: called with each line that apt prints while it fetches.
        with_sources: source packages as well; their lists are as large as all others together.
    """

    def __init__(
        self,
        cache: Cache,
        suite: str,
        mirror: str = "",
        arch: str = "amd64",
        *,
        verbose: Callable[[str], None] | None = None,
        with_sources: bool = False,
    ) -> None:
        if not re.fullmatch(r"[a-z][a-z-]*", suite):
            raise UserError(f"suite: {suite!r} is not a Debian suite's name", hint="for instance trixie")
        self.suite = suite
        self.arch = arch
        self.mirror = choose_mirror(mirror)
        self._cache = cache
        self._verbose = verbose or (lambda _line: None)
        self._with_sources = with_sources
        kind = "apt with sources" if with_sources else "apt"
        self._key = content_key(kind, suite, arch, self.mirror.archive, self.mirror.security)[:16]
        self._base = cache.path("apt", self._key)
        self._update_failed: LabError | None = None

    def candidate(self, package: str) -> str:
        """Return the version of `package` that the suite offers.

        Raises:
            UserError: the suite has no such package.
            HostError: the mirror cannot be reached and there are no lists from earlier.
        """
        self._ready()
        version = self._policy(package)
        if not version and self._age_s() > RETRY_UPDATE_S:
            self._update()
            version = self._policy(package)
        if not version:
            raise UserError(
                f"Debian {self.suite} has no package {package} for {self.arch}",
                hint="look for its name with apt-cache search, or name another suite",
            )
        return version

    def known(self, package: str) -> str:
        """Return the version of `package` by the lists that are here, however old; "" where they do not have it."""
        return self._policy(package) if self._age_s() < float("inf") else ""

    def made(self, version: str) -> dt.datetime | None:
        """Return when packages of a version were built; None where none of them was fetched."""
        debs = (self._base / "archives").glob(f"*_{glob.escape(version.replace(':', '%3a'))}_*.deb")
        return max(filter(None, map(dates.made, debs)), default=None)

    def valid_until(self) -> dt.datetime | None:
        """Return until when the lists that are here are good, as their mirror says; None: for ever, or there are none.

        apt refuses older ones, unless the host's own configuration tells it not to look.
        """
        return dates.valid_until(self._base / "state/lists")

    def fetch(self, packages: Sequence[str]) -> list[Path]:
        """Return the .deb of each package (dependencies left out), in their order; verified by apt's hashes.

        Raises:
            UserError: the suite has no such package.
            HostError: the mirror cannot be reached and a package is not in the cache.
        """
        if not packages:
            return []
        for package in packages:
            self.candidate(package)
        with self._locked():
            asked = self._apt(["apt-get", "-qq", "--print-uris", "download", *packages], QUERY_TIMEOUT_S)
            wanted = list(_parse_uris(asked.stdout))
            archives = self._base / "archives"
            if not all(_is_whole(archives / uri.name, uri) for uri in wanted):
                self._apt(["apt-get", "-q", "download", *packages], FETCH_TIMEOUT_S, cwd=archives)
                self._note_size()
            for uri in wanted:
                if not _is_whole(archives / uri.name, uri):
                    raise HostError(f"{uri.name} from {self.mirror.archive} is not what the archive's lists promise")
        by_name = {uri.name.partition("_")[0]: archives / uri.name for uri in wanted}
        return [by_name[package.partition(":")[0].partition("=")[0]] for package in packages]

    def fetch_upstream(self, package: str) -> Path:
        """Return the upstream archive of a source package, as its authors released it; `with_sources` must be set.

        Raises:
            UserError: the suite has no such source package.
            HostError: the mirror cannot be reached and the archive is not in the cache.
        """
        self._ready()
        words = ["--tar-only", "source", package]
        with self._locked():
            asked = self._apt(["apt-get", "-qq", "--print-uris", *words], QUERY_TIMEOUT_S, check=False)
            wanted = [uri for uri in _parse_uris(asked.stdout) if ".orig.tar." in uri.name]
            if not wanted:
                raise UserError(
                    f"Debian {self.suite} has no source package {package}", hint="its name may differ from a package's"
                )
            archives = self._base / "archives"
            if not _is_whole(archives / wanted[0].name, wanted[0]):
                self._apt(["apt-get", "-q", "--download-only", *words], FETCH_TIMEOUT_S, cwd=archives)
                self._note_size()
            if not _is_whole(archives / wanted[0].name, wanted[0]):
                raise HostError(f"{wanted[0].name} from {self.mirror.archive} is not what the archive's lists promise")
        return archives / wanted[0].name

    def resolve(self, *packages: str) -> list[str]:
        """Return the packages and all that they depend on (not what they recommend), sorted.

        Raises:
            UserError: the suite has no such package, or what it needs cannot be had together.
        """
        if not packages:
            return []
        for package in packages:
            self.candidate(package)
        result = self._apt(
            ["apt-get", "-qq", "-s", "--no-install-recommends", "install", *packages], QUERY_TIMEOUT_S, check=False
        )
        if result.status:
            raise UserError(
                f"Debian {self.suite} cannot install {' '.join(packages)}", details=tuple(result.stdout.splitlines())
            )
        return sorted(set(re.findall(r"^Inst (\S+) ", result.stdout, re.MULTILINE)))

    def unpack(self, deb: Path, into: Path) -> None:
        """Unpack a package's files below `into`; none of its scripts is run."""
        into.mkdir(parents=True, exist_ok=True)
        proc.run(["dpkg-deb", "-x", deb, into], timeout_s=FETCH_TIMEOUT_S)

    def _policy(self, package: str) -> str:
        result = self._apt(["apt-cache", "policy", package], QUERY_TIMEOUT_S)
        match = re.search(r"^  Candidate: (\S+)", result.stdout, re.MULTILINE)
        return match[1] if match and match[1] != "(none)" else ""

    def _ready(self) -> None:
        """Make the private state where it is missing, and fetch lists that are missing or old."""
        self._cache.get("apt", self._key, self._lay_out, label=f"packages of Debian {self.suite}")
        if self._age_s() > UPDATE_HOURS * 3600 and not self._update_failed:
            self._update()

    def _lay_out(self, base: Path) -> None:
        for name in ("state/lists/partial", "archives/partial", "etc/apt.conf.d", "etc/preferences.d", "pkgcache"):
            (base / name).mkdir(parents=True)

    def _age_s(self) -> float:
        """Return the seconds since the last whole update; infinite if there was none."""
        try:
            return abs(time.time() - (self._base / "updated").stat().st_mtime)
        except OSError:
            return float("inf")

    def _update(self) -> None:
        """Fetch the package lists; what is there from earlier is lived with when the mirror is out of reach."""
        with self._locked():
            try:
                # Without Error-Mode=any, apt ends with 0 when it could fetch nothing at all.
                self._apt(["apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update"], UPDATE_TIMEOUT_S)
            except LabError as error:
                self._update_failed = error
                if self._age_s() == float("inf"):
                    raise
                self._verbose(f"{error.message}: going on with the package lists from earlier")
                return
            (self._base / "updated").touch()
            self._note_size()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._cache.lock(f"apt-{self._key}"):
            yield

    def _apt(
        self, argv: Sequence[str], timeout_s: float, *, cwd: Path | None = None, check: bool = True
    ) -> proc.Result:
        """Run one of apt's programs on the private state.

        Raises:
            HostError, UserError: it failed, and `check` is set; the message says why in the lab's words.
        """
        config = self._write_config()
        env = {**os.environ, "LC_ALL": "C.UTF-8", "APT_CONFIG": str(config), "DEBIAN_FRONTEND": "noninteractive"}
        fetching = timeout_s > QUERY_TIMEOUT_S
        result = proc.run(
            argv, timeout_s=timeout_s, check=False, env=env, cwd=cwd, on_line=self._verbose if fetching else None
        )
        if check and (result.status or result.timed_out):
            raise self._explain(result)
        return result

    def _write_config(self) -> Path:
        """Write apt.conf and sources.list; apt reads the file that APT_CONFIG names before all others."""
        base = self._base
        settings = {
            "APT::Architecture": self.arch,
            "APT::Architectures": self.arch,
            # The suite's own pockets alike: a plain name would rank what it had at its last point release above
            # its security updates.
            "APT::Default-Release": f"/^{self.suite}(-security|-updates)?$/",
            "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",  # _apt cannot write below the cache
            "APT::Get::Assume-Yes": "true",
            "Acquire::Languages": "none",
            "Acquire::PDiffs": "false",
            "Acquire::Retries": "3",
            "Acquire::http::Timeout": "30",
            "Acquire::https::Timeout": "30",
            "Dir::Etc": f"{base}/etc",
            "Dir::Etc::netrc": "/etc/apt/auth.conf",
            "Dir::Etc::netrcparts": "/etc/apt/auth.conf.d",
            "Dir::State": f"{base}/state",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": f"{base}/pkgcache",
            "Dir::Cache::archives": f"{base}/archives",
            "Dir::Log": f"{base}/state",
        }
        lines = [f'{name} "{value}";' for name, value in settings.items()]
        entries = sources(self.suite, self.mirror, arch=self.arch)
        if self._with_sources:
            entries += [line.replace("deb ", "deb-src ", 1) for line in entries]
        _replace(base / "etc/sources.list", entries, mode=0o600)  # a mirror's URL can have a password in it
        return _replace(base / "etc/lab.conf", [*lines, *reach_options()])

    def _note_size(self) -> None:
        """Bring the size that `clean` shows along with what has been fetched."""
        meta = self._base / META
        with contextlib.suppress(OSError, ValueError):
            data = json.loads(meta.read_text())
            _replace(meta, [json.dumps({**data, "size_bytes": disk_bytes(self._base)})])

    def _explain(self, result: proc.Result) -> LabError:
        errors = tuple(line for line in result.stderr.splitlines() if line.startswith(("E:", "W:", "Err:")))
        text = "\n".join(errors) + result.stdout
        where = f"{self.mirror.archive} ({self.suite})"
        if result.timed_out:
            return HostError(f"mirror {where} cannot be reached", hint=UNREACHABLE_HINT, details=errors)
        if found := explained(text, f"mirror {where}", errors):
            return found
        if "NO_PUBKEY" in text or "not signed" in text or "couldn't be verified" in text:
            return HostError(
                f"mirror {where}: its signature cannot be checked",
                hint="upgrade the package debian-archive-keyring",
                details=errors,
            )
        if "is not valid yet" in text or "is expired" in text:
            return HostError(f"mirror {where}: its lists are out of date, or the host's clock is", details=errors)
        if "does not have a Release file" in text or "404" in text:
            return UserError(
                f"mirror {where} does not have it", hint="check suite and `mirror:` in lab.yaml", details=errors
            )
        return proc.CommandFailed(result)


def _parse_uris(text: str) -> Iterator[_Uri]:
    for name, size, digest in re.findall(r"^'[^']*' (\S+) (\d+) SHA256:([0-9a-f]{64})", text, re.MULTILINE):
        yield _Uri(name, int(size), digest)


def _is_whole(path: Path, uri: _Uri) -> bool:
    return path.exists() and path.stat().st_size == uri.size_bytes and file_digest(path) == uri.sha256


def _replace(path: Path, lines: Iterable[str], mode: int = 0o644) -> Path:
    """Write a file beside its place and rename it there, unless it says that already."""
    text = "\n".join(lines) + "\n"
    if not path.exists() or path.read_text() != text:
        beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        beside.touch(mode)
        beside.write_text(text)
        beside.replace(path)
    path.chmod(mode)  # one that says it already may be an earlier version's
    return path
