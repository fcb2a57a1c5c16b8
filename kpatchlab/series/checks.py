"""The checks of a patch; each compares the tree before the patch with the tree after it.

Compilers are asked for the same objects before and after, in an object directory of their own, where every object
keeps what the compiler said when it was last made. So neither a header that recompiles half the kernel nor a
configuration that differs is taken for the patch's warnings.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kpatchlab import fence, proc
from kpatchlab.build import config, confined, failures
from kpatchlab.build.context import BuildContext
from kpatchlab.build.objects import CODE, command_file, is_built, objects_of
from kpatchlab.build.patchset import Patch
from kpatchlab.errors import UserError
from kpatchlab.fence import Escape
from kpatchlab.files import put_plain
from kpatchlab.series import warnings
from kpatchlab.series.tree import KCONFIG, State, Tree, put
from kpatchlab.series.values import Finding, Looked

CHECK_S = 3600.0
CHECKPATCH_S = 300.0
COCCI_S = 1800.0
NO_SPARSE = "sparse is not installed (Debian package sparse)"
NO_SPATCH = "spatch is not installed (Debian package coccinelle)"
_MENDED = "did not compile before the patch: what it says cannot be told apart"
_COMPILED = re.compile(r"^  (?:CC|AS)\s+(?:\[M\]\s+)?(\S+\.o)$")


def sparse_version() -> str:
    """Return the version of sparse on this host, "" where it is not installed."""
    if not fence.which("sparse"):
        return ""
    return fence.tool().run(["sparse", "--version"], timeout_s=60, check=False).stdout.strip() or "sparse"


@dataclass(frozen=True, slots=True)
class Said:
    """What the compiler (or sparse) said of some objects; `failed` are those that did not compile."""

    warnings: Mapping[str, list[Finding]]
    sparse: Mapping[str, list[Finding]]
    failed: Mapping[str, str]
    compiled: int

    def without(self, objects: Collection[str]) -> Said:
        """Return what is said of the other objects."""
        return replace(
            self,
            warnings={name: said for name, said in self.warnings.items() if name not in objects},
            sparse={name: said for name, said in self.sparse.items() if name not in objects},
        )


class Bench:
    """An object directory of one tree in which objects are compiled with extra warnings, some at a time.

    Args:
        author: who wrote the patches, as `confined.build_fence` takes it.
        words: make's variables, as in W=1.
        sparse: whether sparse looks at each object too.
    """

    def __init__(
        self, tree: Tree, name: str, ctx: BuildContext, author: str, words: Sequence[str] = (), *, sparse: bool
    ) -> None:
        self.tree, self.obj, self.ctx = tree, tree.path / name, ctx
        self._records = self.obj / "kpatchlab-records"
        self._sparse = sparse
        arch = config.source_arch(ctx.arch)
        self._words = [f"O={name}", f"ARCH={arch}", f"CC={self.obj / 'warn.sh'}", "LOCALVERSION=", *words]
        if sparse:
            self._words += ["C=1", f"CHECK={self.obj / 'check.sh'}"]
        self.obj.mkdir(parents=True, exist_ok=True)
        # The records are below the objects.
        self._fence = confined.build_fence(ctx, author, write=[self.obj], read=[tree.path])
        self._fence = self._fence.adding({"KPATCHLAB_RECORDS": str(self._records)})
        self._fence.sweep()

    def configure(self, source: Path) -> None:
        """Take over a configuration; one that is the same leaves every object as it is."""
        self._lay()
        target = self.obj / ".config"
        if not target.exists() or target.read_bytes() != source.read_bytes():
            put_plain(target, source.read_bytes())

    def allmodconfig(self) -> None:
        """Have everything that there is as a module; again where a Kconfig file is another one than last time.

        Raises:
            UserError: the tree cannot be configured so.
        """
        self._lay()
        mark, stamp = self.obj / "kpatchlab-stamp", self.tree.digest(KCONFIG)
        if mark.exists() and mark.read_text() == stamp:
            return
        mark.unlink(missing_ok=True)
        done = self._make(["allmodconfig"])
        if done.status:
            raise UserError(f"make allmodconfig: {(done.stderr.strip().splitlines() or ['no reason'])[0]}")
        put_plain(mark, stamp.encode())

    def _lay(self) -> None:
        self._records.mkdir(parents=True, exist_ok=True)
        for name in ("warn.sh", "check.sh"):
            put_plain(self.obj / name, Path(__file__).with_name(name).read_bytes(), 0o755)

    def _make(self, targets: Sequence[str]) -> proc.Result:
        jobs = self.ctx.jobs or os.cpu_count() or 1
        try:
            result = self._fence.run(
                ["make", *self._words, "-k", f"-j{jobs}", *targets],
                timeout_s=CHECK_S, check=False, cwd=self.tree.path, nice=proc.BUILD_NICE, cancel=self.ctx.cancel,
                on_line=self.ctx.verbose,
            )  # fmt: skip
        except Escape as error:
            raise UserError(f"the build tried to leave its folders: {error.message}") from None
        self.ctx.check_cancel()
        if result.timed_out:
            raise UserError(f"make did not end in {CHECK_S / 60:.0f} minutes")
        return result

    def say(self, targets: Sequence[str]) -> Said:
        """Bring objects (or folders of them, "net/unix/") up to date; return all that was said of them.

        Raises:
            UserError: it takes too long.
        """
        if not targets:
            return Said({}, {}, {}, 0)
        result = self._make(targets)
        compiled = sum(1 for line in result.stdout.splitlines() if _COMPILED.match(line))
        names = self._recorded(targets)
        if self._sparse:  # a kill between compiler and sparse leaves an object that nobody has looked at
            blind = [name for name in names if name.endswith(".o") and not self._record(name, "sparse").exists()]
            again = [name for name in blind if self._c_object(name)]
            for name in again:
                (self.obj / name).unlink(missing_ok=True)
            if again:
                self._make(again)
        said: dict[str, dict[str, str]] = {kind: {} for kind in ("warnings", "sparse", "failed")}
        for name in names:
            for kind, texts in said.items():
                if (path := self._record(name, kind)).exists():
                    texts[name] = fence.read_left(path)
        if result.status:
            fault = failures.first_fault(result.stderr, self.tree.path, make=True)
            text = f"{fault.file}:{fault.line}: error: {fault.text}" if fault.line else fault.text
            said["failed"] |= dict.fromkeys(self._unmade(targets, names, said["failed"]), text)
            for kind in ("warnings", "sparse"):
                said[kind] = {name: words for name, words in said[kind].items() if name not in said["failed"]}
        return Said(
            {name: warnings.parse(text) for name, text in said["warnings"].items()},
            {name: warnings.parse(text) for name, text in said["sparse"].items()},
            said["failed"],
            compiled,
        )

    def _unmade(self, targets: Sequence[str], names: Sequence[str], failed: Collection[str]) -> list[str]:
        """Return what a make that failed has left as it was, although no compiler has said why.

        Where the tree cannot be prepared, make stops before the first object.
        """
        late = [name for name in names if name not in failed and self._is_stale(name)]
        return late if late or failed else [target for target in targets if target.endswith("/")]

    def _is_stale(self, name: str) -> bool:
        """Whether an object is older than the sources that it was compiled from."""
        target = self.obj / name
        try:
            made = target.stat().st_mtime_ns
            words = command_file(target).read_text(errors="surrogateescape").split()
        except FileNotFoundError:
            return True
        paths = [self.obj / word for word in words if word.endswith((*CODE, ".h"))]
        return any(path.exists() and path.stat().st_mtime_ns > made for path in paths)

    def forget(self, objects: Iterable[str]) -> None:
        """Have objects compiled again whatever their times say."""
        for name in objects:
            (self.obj / name).unlink(missing_ok=True)

    def _record(self, name: str, kind: str) -> Path:
        return self._records / f"{name.replace('/', '%')}.{kind}"

    def _c_object(self, name: str) -> bool:
        return (self.tree.path / f"{name[:-2]}.c").exists() and (self.obj / name).exists()

    def _recorded(self, targets: Sequence[str]) -> list[str]:
        folders = tuple(target for target in targets if target.endswith("/"))
        names = {target for target in targets if not target.endswith("/")}
        if folders:
            stems = {path.name.rpartition(".")[0].replace("%", "/") for path in self._records.glob("*%*")}
            names |= {name for name in stems if name.startswith(folders)}
        # What a patch deletes leaves its record behind.
        return sorted(n for n in names if any((self.tree.path / f"{n[:-2]}{end}").exists() for end in CODE))


@dataclass(slots=True)
class Before:
    """What is known of the tree before a patch."""

    objects: list[str]
    said: Said
    texts: dict[str, State]
    kernel_doc: dict[str, list[Finding]]
    config: bytes
    duration_s: float


def before(bench: Bench, files: Sequence[str], obj: Path) -> Before:
    """Look at the tree as it stands before a patch of `files`; `obj` is where the whole kernel is built."""
    began = time.monotonic()
    bench.configure(obj / ".config")
    objects, _, _ = objects_of(files, obj)
    texts = {file: bench.tree.state(file) for file in files}
    docs, said = kernel_doc(bench.tree.path, files, bench.ctx), bench.say(objects)
    return Before(objects, said, texts, docs, (obj / ".config").read_bytes(), time.monotonic() - began)


def after(
    bench: Bench, earlier: Before, files: Sequence[str], renamed: Mapping[str, str], obj: Path
) -> tuple[Looked, Looked]:
    """Look at the tree with the patch; returns what W=1 and sparse say."""
    began = time.monotonic()
    bench.configure(obj / ".config")
    there, _, notes = objects_of(files, obj)
    objects = [name for name in dict.fromkeys([*earlier.objects, *there]) if _source(bench.tree.path, name)]
    told = _as_before(bench, earlier, objects, moved=(obj / ".config").read_bytes() != earlier.config)
    now = bench.say(objects)
    docs = kernel_doc(bench.tree.path, files, bench.ctx)
    compared = []
    for name in objects:
        if name in now.failed or (name not in now.warnings and name in told.warnings):
            notes.append(f"{name} does not compile, and could not be looked at")
        elif name in told.failed and name not in told.warnings:
            notes.append(f"{name} {_MENDED}")
        elif name in now.warnings:
            compared.append(name)
    if not objects:
        code = any(file.endswith((*CODE, ".h")) for file in files)
        notes.append("none of its files is compiled in this configuration" if code else "it changes no code")
    one = {name: told.warnings.get(name, []) for name in {*compared, *_renamed_objects(renamed, earlier)}}
    two = {name: now.warnings[name] for name in compared}
    new, gone = warnings.difference({**one, "": _flat(earlier.kernel_doc)}, {**two, "": _flat(docs)}, files, renamed)
    compiled = told.compiled + now.compiled
    seconds = earlier.duration_s + time.monotonic() - began
    blind = "" if compared or new else "; ".join(notes)
    extra = Looked("W=1", tuple(new), tuple(gone), blind, tuple(notes), compiled, seconds)
    if not fence.which("sparse"):
        return extra, Looked("sparse", skipped=NO_SPARSE)
    if blind:
        return extra, Looked("sparse", skipped=blind)
    one = {name: told.sparse.get(name, []) for name in one}
    new, gone = warnings.difference(one, {name: now.sparse.get(name, []) for name in compared}, files, renamed)
    return extra, Looked("sparse", tuple(new), tuple(gone), "", tuple(notes))


def _as_before(bench: Bench, earlier: Before, objects: Sequence[str], *, moved: bool) -> Said:
    """Return what was said before the patch, under the configuration of after it.

    An object that is compiled for the first time, or under another configuration, is compared with the old text of its
    source: the patch did not cause what only the new configuration shows.
    """
    tree = bench.tree.path
    again = [name for name in objects if moved or name not in earlier.objects]
    again = [name for name in again if earlier.texts.get(_source(tree, name))]
    if not again:
        return earlier.said
    old, told = _old_text(bench, earlier, again), earlier.said.without(again)
    return Said(
        {**told.warnings, **old.warnings},
        {**told.sparse, **old.sparse},
        {**{name: text for name, text in told.failed.items() if name not in again}, **old.failed},
        told.compiled + old.compiled,
    )


def _renamed_objects(renamed: Mapping[str, str], earlier: Before) -> list[str]:
    old = {f"{os.path.splitext(file)[0]}.o" for file in renamed.values()}
    return [name for name in earlier.objects if name in old]


def _flat(findings: Mapping[str, list[Finding]]) -> list[Finding]:
    return [finding for those in findings.values() for finding in those]


def _source(tree: Path, name: str) -> str:
    return next((f"{name[:-2]}{end}" for end in CODE if (tree / f"{name[:-2]}{end}").exists()), "")


def _old_text(bench: Bench, earlier: Before, objects: Sequence[str]) -> Said:
    """Compile the text that sources had before the patch, with everything else as it is now."""
    now: dict[str, tuple[State, os.stat_result]] = {}
    for name in objects:
        file = _source(bench.tree.path, name)
        now[file] = bench.tree.state(file), (bench.tree.path / file).stat()
        put(bench.tree.path, file, earlier.texts[file])
    bench.forget(objects)
    try:
        return bench.say(objects)
    finally:
        for file, (state, stat) in now.items():
            put(bench.tree.path, file, state)
            os.utime(
                bench.tree.path / file, ns=(stat.st_atime_ns, stat.st_mtime_ns)
            )  # the other object directories have seen it
        bench.forget(objects)


def _reading(tree: Path, ctx: BuildContext) -> fence.Fence:
    """Return the fence of a script that reads the tree which it is part of."""
    return fence.Fence(read=(tree,), unconfined=confined.trusts(ctx, "a stranger"))


def kernel_doc(tree: Path, files: Iterable[str], ctx: BuildContext) -> dict[str, list[Finding]]:
    """Return what the tree's own kernel-doc says of the comments in each file, as W=1 has it do."""
    script = tree / "scripts/kernel-doc"
    found: dict[str, list[Finding]] = {}
    if not script.exists():
        return found
    for file in files:
        if file.endswith((".c", ".h")) and (tree / file).exists():
            result = _reading(tree, ctx).run([script, "-none", file], timeout_s=CHECKPATCH_S, check=False, cwd=tree)
            found[file] = [replace(f, text=f"{f.text} [kernel-doc]") for f in warnings.parse(result.stderr)]
    return found


def checkpatch(tree: Path, patch: Patch, ctx: BuildContext) -> Looked:
    """Run the tree's own checkpatch.pl on a patch; its errors and warnings are the findings."""
    began = time.monotonic()
    script = tree / "scripts/checkpatch.pl"
    if not script.exists():
        return Looked("checkpatch", skipped="this tree has no scripts/checkpatch.pl")
    words = [
        "perl",
        str(script),
        f"--root={tree}",
        "--terse",
        "--showfile",
        "--show-types",
        "--no-summary",
        "--color=never",
    ]
    words += [] if patch.mail else ["--no-signoff"]
    door = _reading(tree, ctx).adding({"GIT_CEILING_DIRECTORIES": str(tree.parent)})
    text = patch.mail or patch.data
    result = door.run([*words, "-"], timeout_s=CHECKPATCH_S, check=False, cwd=tree, input_bytes=text)
    if result.timed_out or (result.status not in {0, 1}):
        last = (result.stderr.strip().splitlines() or ["it says nothing"])[-1]
        return Looked("checkpatch", skipped=f"checkpatch.pl broke: {last}")
    found = []
    for line in result.stdout.splitlines():
        if match := re.match(
            r"^(?:(?P<file>[^\s:]+):)?(?P<line>\d{1,9})?:? ?(?P<kind>ERROR|WARNING|CHECK):(?P<text>.+)$", line
        ):
            inside = match["file"] not in {None, "-"}
            file, number = (match["file"], int(match["line"] or 0)) if inside else ("", 0)
            found.append(Finding(match["text"].strip(), file, number, match["kind"].lower()))
    return Looked("checkpatch", tuple(found), duration_s=time.monotonic() - began)


def before_folders(bench: Bench, folders: Sequence[str], files: Sequence[str]) -> Before:
    """Look at all objects of some folders, all as modules, as they stand before a patch of `files`."""
    began = time.monotonic()
    said = _say_folders(bench, folders)
    texts = {file: bench.tree.state(file) for file in files}
    objects = [*said.warnings, *said.failed]
    return Before(objects, said, texts, {}, (bench.obj / ".config").read_bytes(), time.monotonic() - began)


def after_folders(
    bench: Bench, earlier: Before, folders: Sequence[str], files: Sequence[str], renamed: Mapping[str, str]
) -> Looked:
    """Compare all objects of some folders: those that no longer compile, and new warnings in `files`."""
    began = time.monotonic()
    now = _say_folders(bench, folders)
    objects = [name for name in objects_of(files, bench.obj)[0] if name in now.warnings]
    told = _as_before(bench, earlier, objects, moved=(bench.obj / ".config").read_bytes() != earlier.config)
    tree, failed = bench.tree.path, earlier.said.failed
    broken = [_not_compiled(name, now.failed[name], tree) for name in sorted(set(now.failed) - set(failed))]
    mended = [_not_compiled(name, failed[name], tree) for name in sorted(set(failed) - set(now.failed))]
    new, gone = warnings.difference(told.warnings, now.without(told.failed).warnings, files, renamed)
    gone = [] if now.failed else gone
    notes = tuple(f"{name} {_MENDED}" for name in objects if name in told.failed)
    # One fault of make's is the same for every object that it left out.
    found, lost = (*dict.fromkeys(broken), *new), (*dict.fromkeys(mended), *gone)
    compiled, seconds = told.compiled + now.compiled, earlier.duration_s + time.monotonic() - began
    return Looked("allmodconfig", found, lost, "", notes, compiled, seconds)


def _say_folders(bench: Bench, folders: Sequence[str]) -> Said:
    bench.allmodconfig()
    return bench.say([folder for folder in folders if is_built(bench.tree.path / folder)])


def _not_compiled(name: str, output: str, tree: Path) -> Finding:
    fault = failures.first_fault(output, tree)
    return Finding(fault.text, fault.file or _source(tree, name), fault.line, "error")


def no_coccicheck(tree: Path) -> str:
    """Return why semantic patches cannot be run, "" where they can."""
    if not fence.which("spatch"):
        return NO_SPATCH
    return "" if (tree / "scripts/coccicheck").exists() else "this tree has no scripts/coccicheck"


def coccicheck(tree: Path, files: Iterable[str], ctx: BuildContext) -> dict[str, list[Finding]]:
    """Return what the tree's own semantic patches say of each file (scripts/coccicheck, one file at a time).

    Raises:
        UserError: it does not come to its end; it stops at the first semantic patch that fails.
    """
    found: dict[str, list[Finding]] = {}
    includes = f"-I arch/{config.source_arch(ctx.arch)}/include -I include"
    given = {"C": "1", "MODE": "report", "srctree": ".", "LINUXINCLUDE": includes, "V": "0", "LC_ALL": "C.UTF-8"}
    door = _reading(tree, ctx).adding(given)
    for file in files:
        if file.endswith(".c") and (tree / file).exists():
            words = ["bash", "scripts/coccicheck", file]
            result = door.run(words, timeout_s=COCCI_S, check=False, cwd=tree, cancel=ctx.cancel)
            ctx.check_cancel()
            if result.timed_out:
                raise UserError(f"coccicheck did not end in {COCCI_S / 60:.0f} minutes")
            if result.status:
                last = (result.stderr.strip() or result.stdout.strip() or "it says nothing").splitlines()[-1]
                raise UserError(f"scripts/coccicheck failed on {file}: {last}")
            found[file] = warnings.parse(result.stdout, plain=True)
    return found
