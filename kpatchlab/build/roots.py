"""Root file systems and initramfs images of the guests, by content key.

A root is an erofs image that mmdebstrap fills from a Debian suite; guests mount it read-only under a tmpfs
overlay. The lab's agent is PID 1 in a guest: no init system runs, and no service is started by a package.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import tarfile
from importlib import resources
from pathlib import Path

from kpatchlab import proc
from kpatchlab.arch import ARCHES, HOST, Arch
from kpatchlab.build.context import BuildContext
from kpatchlab.cache import content_key, file_digest, tree_digest
from kpatchlab.errors import HostError, UserError
from kpatchlab.host import debian, emulation
from kpatchlab.lab.recipes import RootRecipe

IMAGE = "root.erofs"
PACKAGES = "packages.txt"
INITRD = "initrd.img"
BUILD_TIMEOUT_S = 3600.0
UNSHARE_S = 60.0
EXTRACT_S = 600.0

# Nobody reads manuals in a guest. C.UTF-8 is in libc-bin and stays.
_LEFT_OUT = (
    *("doc", "man", "info", "locale", "doc-base", "groff", "linda", "lintian", "bash-completion", "zsh", "fish"),
    *("applications", "icons", "pixmaps", "gdb", "common-licenses", "gtk-doc", "help", "systemtap"),
)
_LEFT_OUT_ELSEWHERE = ("/usr/lib/udev/hwdb.d/*", "/usr/share/zoneinfo/*/*")


def root_key(recipe: RootRecipe, lab_root: Path, arch: str = HOST) -> str:
    """Return the content key of a recipe's root: what it asks for, not what the mirror has today.

    Raises:
        UserError: its folder of files is not there.
    """
    files = _own_files(recipe, lab_root)
    own = tree_digest(files) if files else ""
    how = (_LEFT_OUT, _LEFT_OUT_ELSEWHERE, _finish_script())
    others = [] if arch == HOST else [arch]
    return content_key("root", recipe.suite, sorted(set(recipe.packages)), own, how, *others)


def root_image(recipe: RootRecipe, ctx: BuildContext) -> Path:
    """Return the erofs image of a recipe's root for the context's architecture, built if it is not in the cache.

    Beside it is `packages.txt`, see `packages_in`.

    Raises:
        UserError: a package does not exist in the suite, or the recipe's files are missing.
        HostError: the mirror cannot be reached, or the host cannot build roots.
    """
    key = root_key(recipe, ctx.lab_root, ctx.arch)
    label = f"root: Debian {recipe.suite} ({ARCHES[ctx.arch].debian}), {len(set(recipe.packages))} packages"
    return ctx.cache.get("root", key, lambda out: fill(recipe, ctx, out), label=label) / IMAGE


def packages_in(image: Path) -> frozenset[str]:
    """Return the names of all packages in a root, from the list beside its image."""
    return frozenset((image.parent / PACKAGES).read_text().split())


def initrd(kernel_dir: Path, ctx: BuildContext) -> str:
    """Return the key of the initramfs for a kernel's artifact, packed if it is not in the cache.

    It has the agent and the modules that the kernel needs to find its root; kernels that have those built in share one.

    Raises:
        HostError: the host's compiler cannot build the agent.
    """
    from kpatchlab.guest import initrd as builder

    boot_modules = kernel_dir / "boot-modules"
    modules = boot_modules if boot_modules.is_dir() else None
    own = [file_digest(path) for path in builder.source_files()]
    arch = ARCHES[ctx.arch]
    others = [] if arch.is_host else [arch.name]
    key = content_key("initrd", own, tree_digest(modules) if modules else "", *others)
    label = "initramfs with the agent" + (" and boot modules" if modules else "")
    ctx.cache.get("initrd", key, lambda out: builder.build_initrd(out / INITRD, modules, arch), label=label)
    return key


def _own_files(recipe: RootRecipe, lab_root: Path) -> Path | None:
    if not recipe.files:
        return None
    folder = lab_root / "rootfs" / recipe.files
    if not folder.is_dir():
        raise UserError(f"rootfs: the folder {folder} of `files: {recipe.files}` is not there")
    if not folder.resolve().is_relative_to((lab_root / "rootfs").resolve()):
        raise UserError(f"rootfs: `files: {recipe.files}` leads out of the lab, to {folder.resolve()}")
    return folder


def _finish_script() -> str:
    return resources.files("kpatchlab.build").joinpath("root_finish.sh").read_text()


def extract(image: Path, into: Path, ctx: BuildContext) -> None:
    """Write the files of an image to `into`, which is made, with the caller as their owner."""
    words = ["fsck.erofs", f"--extract={into}", "--no-preserve-owner", str(image)]
    proc.run(words, timeout_s=EXTRACT_S, cancel=ctx.cancel)
    ctx.check_cancel()


def fill(recipe: RootRecipe, ctx: BuildContext, out: Path) -> None:
    """Fill `out` with the image and the list of packages.

    Raises:
        UserError, HostError: as `root_image`.
    """
    ctx.check_space(f"the root of Debian {recipe.suite}", recipe.size_hint_mib << 20)
    _check_packages(recipe, ctx)
    private = out / "private"  # as root the tree that is filled has setuid programs and devices: nobody may look in
    private.mkdir(mode=0o700)
    tar = out / "files.tar"
    tar.write_bytes(_files_tar(_own_files(recipe, ctx.lab_root)))
    status = out / "status"
    arch = ARCHES[ctx.arch]
    around = emulation.words(arch, ctx.cache, ctx.mirror)
    as_root = os.geteuid() == 0 or bool(around)
    made = _mmdebstrap(recipe, arch, as_root=as_root, tar=tar, image=out / IMAGE, status=status)
    argv = [*(around or _mounts_of_its_own()), *made]
    lines = debian.sources(recipe.suite, debian.choose_mirror(ctx.mirror), arch=arch.debian)
    env = _environment(private if as_root else None)
    result = proc.run(
        argv, timeout_s=BUILD_TIMEOUT_S, check=False, env=env, nice=proc.BUILD_NICE,
        input_bytes="\n".join([*lines, ""]).encode(), on_line=ctx.verbose, cancel=ctx.cancel,
    )  # fmt: skip
    ctx.check_cancel()
    if result.status or not (out / IMAGE).exists():
        raise _explain(result, recipe)
    (out / PACKAGES).write_text("\n".join(_installed(status.read_text())) + "\n")
    tar.unlink()
    status.unlink()
    shutil.rmtree(private, ignore_errors=True)


def _installed(status: str) -> list[str]:
    """Return the names of the packages that dpkg's status file calls installed."""
    stanzas = [stanza for stanza in status.split("\n\n") if "\nStatus: install ok installed\n" in stanza]
    return sorted(stanza.partition("\n")[0].removeprefix("Package: ") for stanza in stanzas)


def _check_packages(recipe: RootRecipe, ctx: BuildContext) -> None:
    """Say which package does not exist before anything large is fetched."""
    apt = debian.Apt(ctx.cache, recipe.suite, ctx.mirror, ARCHES[ctx.arch].debian, verbose=ctx.verbose)
    apt.resolve(*sorted(set(recipe.packages)))


def _mmdebstrap(recipe: RootRecipe, arch: Arch, *, as_root: bool, tar: Path, image: Path, status: Path) -> list[str]:
    """Return mmdebstrap's command line; its own output is thrown away, the last hook's image is kept.

    It reads sources.list from standard input: a mirror's URL can have a password in it, and arguments are for everybody
    to read.

    The image is packed inside mmdebstrap's user namespace, where file owners are what the guest will see, and
    carried out by its `download` hook, which writes with the caller's rights.
    """
    packages = ",".join(sorted(set(recipe.packages)))
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT]
    excluded += [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT_ELSEWHERE]
    # apt's own user cannot reach the private folder
    private = ('APT::Sandbox::User "root";',) if as_root else ()
    apt_options = (*private, 'Apt::Install-Recommends "false";', 'Acquire::Retries "3";', *debian.reach_options())
    return [
        "mmdebstrap",
        f"--mode={'root' if as_root else _mode()}",  # as root it copes by itself where a container forbids mount(2)
        "--variant=essential",
        f"--architectures={arch.debian}",
        *([] if arch.is_host else ["--skip=check/qemu"]),  # it asks arch-test, which knows the host's table alone
        "--format=null",
        *([f"--include={packages}"] if packages else []),
        *(f"--aptopt={line}" for line in apt_options),
        *excluded,
        f"--customize-hook=tar-in {shlex.quote(str(tar))} /",
        f"--customize-hook={_finish_script()}",
        f"--customize-hook=download /tmp/root.erofs {shlex.quote(str(image))}",
        f"--customize-hook=download /var/lib/dpkg/status {shlex.quote(str(status))}",
        recipe.suite.removesuffix("-backports"),
        "-",
        "-",
    ]


def _mounts_of_its_own() -> tuple[str, ...]:
    """Return what stands before mmdebstrap so that what it mounts as root ends with it, however it ends.

    Killed, it leaves proc, sys and dev mounted in the tree that it fills. In a user namespace they end with that. A
    container may forbid root to unshare: there it mostly forbids the mounts as well.
    """
    words = ("unshare", "--mount", "--propagation", "private", "--")
    if os.geteuid() != 0 or not shutil.which(words[0]):
        return ()
    return words if proc.run([*words, "true"], timeout_s=UNSHARE_S, check=False).status == 0 else ()


def _mode() -> str:
    """Return mmdebstrap's mode for others than root: in a user namespace with a range of subordinate IDs.

    Raises:
        HostError: that is not possible.
    """
    if not shutil.which("newuidmap"):
        raise HostError("root images need newuidmap, or root's rights", hint="install the package uidmap")
    if not _has_subordinate_ids():
        raise HostError(
            "root images need a range of subordinate user IDs, or root's rights",
            hint="usermod --add-subuids 100000-165535 --add-subgids 100000-165535 YOU, as root",
        )
    return "unshare"


def _has_subordinate_ids(etc: Path = Path("/etc")) -> bool:
    import pwd

    names = {str(os.getuid())}
    with contextlib.suppress(KeyError):
        names.add(pwd.getpwuid(os.getuid()).pw_name)
    try:
        return all(
            any(line.partition(":")[0] in names for line in (etc / name).read_text().splitlines())
            for name in ("subuid", "subgid")
        )
    except OSError:
        return False


def _environment(private: Path | None) -> dict[str, str]:
    """Return the environment of mmdebstrap: sbin is in PATH also for users other than root.

    Args:
        private: where root fills the tree; None: in a user namespace of mmdebstrap's it must be reachable for others
            than the user, and its setuid programs are those of subordinate ids.
    """
    path = os.environ.get("PATH", "")
    where = {"TMPDIR": str(private)} if private else {}
    return {**os.environ, "LC_ALL": "C.UTF-8", "PATH": f"{path}:/usr/sbin:/sbin:/usr/bin:/bin", **where}


def _files_tar(folder: Path | None) -> bytes:
    """Return the recipe's own files as a tar archive that belongs to root."""

    def own(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if not (member.isreg() or member.isdir() or member.issym()):
            return None
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(folder.iterdir()) if folder else ():
            tar.add(path, path.name, filter=own)
    return buffer.getvalue()


def _explain(result: proc.Result, recipe: RootRecipe) -> HostError:
    script = set(_finish_script().splitlines())  # mmdebstrap repeats a hook that it runs
    lines = [line for line in result.stderr.splitlines() if line.strip() and line not in script]
    tail = tuple(line for line in lines if not line.startswith("I: "))[-15:]
    text = "\n".join(tail)
    if found := debian.explained(result.stderr, "the mirror of Debian's packages", tail):
        return found
    hint = "the run's verbose output has all of what mmdebstrap said"
    if "No space left" in text:
        hint = "free space below TMPDIR and the cache; a root needs about 1 GiB while it is built"
    elif re.search(r"newuidmap|unshare|user namespace", text):
        hint = "allow user namespaces (sysctl kernel.unprivileged_userns_clone=1), or run as root"
    how = "ran out of time" if result.timed_out else f"failed with status {result.status}"
    return HostError(f"the root of Debian {recipe.suite} could not be built: mmdebstrap {how}", hint, tail)
