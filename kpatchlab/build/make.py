"""One run of make on a configured tree: survives a module that does not compile, names an error in built-in code."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kpatchlab import fence, proc
from kpatchlab.arch import ARCHES
from kpatchlab.build import config, confined, failures
from kpatchlab.build.context import BuildContext, BuildProgress
from kpatchlab.errors import HostError
from kpatchlab.files import below, clear, put_plain
from kpatchlab.lab.recipes import GCC, KernelRecipe
from kpatchlab.model import ModuleFailure

MAKE_S = 6 * 3600.0
QUICK_S = 120.0
OBJECTS_PER_SYMBOL = 2.3
"""Objects of a lean kernel for each symbol that is set, measured on 6.1 to 6.5: an estimate, until one is built."""
AHEAD = 1.05
"""An estimate that is reached was too low: there are so many times as many objects as are done, until make links."""
_RELEASE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+~-]{0,63}")
"""utsname has 64 characters for it."""
_COMPILES = re.compile(r"^  (?:CC|AS)\s+(?:\[M\]\s+)?\S+\.o$")
_LINKS = re.compile(r"^  (?:LD|MODPOST)\s+(?:\S*vmlinux|Module|modules-only)\S*$")


@dataclass(frozen=True, slots=True)
class Compiled:
    """What make came to.

    Attributes:
        fault: why there is no kernel, or None.
        records: objects that did not compile.
        compiled: objects that the compiler really made; what ccache handed out is not among them.
        total: objects there are.
        log: make's output, its head and its tail.
        rebuilt: objects that make had compiled, by the compiler or out of its cache.
    """

    fault: failures.BuildError | None
    records: Sequence[failures.Record]
    compiled: int
    total: int
    log: str
    rebuilt: int = 0


class Job:
    """The compilation of one kernel.

    Args:
        tree: the source, series applied; never written to.
        obj: the object directory, configured.
        work: where records and logs go.
        author: who wrote the code, as `confined.build_fence` takes it.
        covered: a file that names the sources which are compiled for gcov, one a line.
    """

    def __init__(
        self, name: str, tree: Path, obj: Path, work: Path, ctx: BuildContext, author: str,
        covered: Path | None = None,
    ) -> None:  # fmt: skip
        self.name, self.tree, self.obj, self.work, self.ctx = name, tree, obj, work, ctx
        self.author = author
        self.jobs = ctx.jobs or os.cpu_count() or 1
        self._records = work / "failures"
        self._stats = obj / "kpatchlab-ccache.log"
        for path in (tree, obj):
            if re.search(r"[\s:]", str(path)):
                raise HostError(
                    f"{path}: kbuild cannot work below a path with blanks or colons",
                    hint="set KPATCHLAB_CACHE, or move the tree",
                )
        obj.mkdir(parents=True, exist_ok=True)
        self.fence = confined.build_fence(
            ctx, author, write=[obj], read=[tree], tree=tree, records=self._records, stats=self._stats
        )
        self.fence.sweep()  # what a build that was killed has left; the lab writes here as well
        if covered:
            self.fence = self.fence.adding({"KPATCHLAB_COVER": str(covered)}, read=[covered])

    def run(self, *, keep_going: bool = False) -> Compiled:
        """Run make to its end.

        Args:
            keep_going: try every object, also after one of built-in code has failed.

        Raises:
            HostError: the disk is full, memory ran out, make is missing.
            BuildCancelled: `cancel` was set.
        """
        failures.forget(failures.read_records(self._records, self.obj), self.obj)
        clear(self._stats)
        put_plain(self.obj / "cc.sh", Path(__file__).with_name("cc.sh").read_bytes(), 0o755)
        seen = _Seen(self.name, self.ctx, self._estimate(), sum(1 for _ in self._objects()))
        result = self.fence.adding({"KPATCHLAB_OOM_KILLS": str(fence.oom_kills())}).run(
            # KBUILD_MODPOST_WARN: a symbol that a stub should export is missing; `missing_modules` sorts that out
            [*self._make(), f"-j{self.jobs}", *(["-k"] if keep_going else []), "KBUILD_MODPOST_WARN=1", "all"],
            timeout_s=MAKE_S,
            check=False,
            cwd=self.tree,
            nice=proc.BUILD_NICE,
            cancel=self.ctx.cancel,
            on_line=seen.line,
        )
        self.ctx.check_cancel()
        records = failures.read_records(self._records, self.obj)
        log = result.stdout + result.stderr
        late = f"make did not end in {MAKE_S / 3600:.0f} hours"
        if result.timed_out and self.author == confined.TRUSTED:
            raise HostError(f"{self.name}: {late}")
        fault = self._fault(result, records) if result.status != 0 else None
        fault = failures.BuildError("", 0, late) if result.timed_out else fault
        total = sum(1 for _ in self._objects())
        return Compiled(fault, records, self._compiled(seen.fresh), total, log, seen.fresh)

    def release(self) -> str:
        """Return `uname -r` of the kernel, "" where make did not come that far, or where it is no name of a folder."""
        path = self.obj / "include/config/kernel.release"
        found = fence.read_left(path).strip() if path.exists() else ""
        return found if _RELEASE.fullmatch(found) else ""

    def by_hand(self, recipe: KernelRecipe) -> str:
        """Return commands that build the same by hand, in the tree with the series applied."""
        ctx = self.ctx
        fragments = [f"--custom {shlex.quote(str(ctx.path(name)))}" for name in recipe.config]
        items = [f"--configitem {shlex.quote(f'{k}={v}')}" for k, v in recipe.config_set.items()]
        other = "" if ctx.compiler == GCC else f" CC={ctx.program}"
        target = [] if ARCHES[ctx.arch].is_host else ["--arch", ctx.arch]
        other = f" CROSS_COMPILE={ctx.cross}{other}" if target else other
        configure = " ".join(["virtme-configkernel --allnoconfig", *target, *fragments, *items, f"O=obj{other}"])
        names = ("KBUILD_BUILD_TIMESTAMP", "KBUILD_BUILD_USER", "KBUILD_BUILD_HOST", "KBUILD_BUILD_VERSION")
        words = " ".join(f"{name}={shlex.quote(self.fence.env[name])}" for name in names)
        where = f"in a root of Debian {ctx.toolchain} with {ctx.compiler}: " if ctx.toolchain else ""
        arch = f" ARCH={config.source_arch(ctx.arch)}" if target else ""
        return f"{where}{configure} && make O=obj{arch} {words}{other} LOCALVERSION= -j{self.jobs} all"

    def image(self) -> Path:
        """Return the bootable image, where virtme-ng's table of architectures says it is."""
        from virtme import architectures

        return self.obj / str(architectures.get(self.ctx.arch).kimg_path())

    def built_modules(self) -> dict[str, Path]:
        """Return the modules that make linked: name -> .ko with its debug information."""
        order = self.obj / "modules.order"
        lines = fence.read_left(order).split() if order.exists() else []
        # Up to 6.1 modules.order names .ko files, from 6.2 on (f65a486821cf) .o files.
        paths = [path for line in lines if (path := below(self.obj, line))]
        found = [path.with_suffix(".ko") for path in paths]
        return {failures.normal(path.stem): path for path in found if path.exists()}

    def install_modules(self, root: Path) -> None:
        """Install every module, stripped, below `root`/lib/modules; depmod comes later, when it is known what stays."""
        words = [f"INSTALL_MOD_PATH={root}", "INSTALL_MOD_STRIP=1", "DEPMOD=true", "modules_install"]
        root.mkdir(parents=True, exist_ok=True)
        if (self.obj / "modules.order").exists():
            self.fence.adding(write=[root]).run(
                [*self._make(), *words], timeout_s=QUICK_S * 5, cwd=self.tree, on_line=self.ctx.verbose
            )

    def missing_modules(self, records: Sequence[failures.Record], built: Mapping[str, Path]) -> list[ModuleFailure]:
        """Return every module that cannot be used: not compiled, or in need of a symbol that nothing exports."""
        failed = failures.module_failures(records, self.tree)
        if not built or not (self.obj / "Module.symvers").exists():
            return failed
        sources = {
            module: failures.relative(record.source, self.tree) for record in records for module in record.modules
        }
        links = failures.read_links(self.obj, built)
        links = failures.unresolved(links, failed, self.tree, sources)
        broken = {failure.module for failure in failed}
        for module, symbols in sorted(links.undefined.items()):
            if module not in broken:
                place = str(built[module].relative_to(self.obj))
                names = ", ".join(sorted(symbols)[:5])
                failed.append(ModuleFailure(module, place, 0, f"undefined symbol: {names}", ""))
        return failures.with_dependents(failed, links)

    def _make(self) -> list[str]:
        arch = config.source_arch(self.ctx.arch)
        words = ["make", f"O={config.object_path(self.tree, self.obj)}", f"ARCH={arch}"]
        words += [f"CROSS_COMPILE={self.ctx.cross}"] if self.ctx.cross else []
        return [*words, f"CC={self.fence.inside(self.obj / 'cc.sh')}", "LOCALVERSION="]

    def _objects(self) -> Iterator[Path]:
        """Yield the command file of each object that was compiled or assembled for the kernel."""
        for folder, names, files in os.walk(self.obj):
            if folder == str(self.obj):
                names[:] = [name for name in names if name not in {"scripts", "tools", "include"}]
            for file in files:
                if file.startswith(".") and file.endswith(".o.cmd") and not file.endswith((".mod.o.cmd", ".lto.o.cmd")):
                    yield Path(folder, file)

    def _estimate(self) -> int:
        """Return how many objects this kernel has: by an earlier build's count, else from its configuration."""
        import json

        symbols = len(config.read_config(self.obj / ".config"))
        best = (symbols // 5, 0.0)  # (distance in symbols, objects): a fifth off is another kind of kernel
        for path in self.ctx.cache.root.glob("kernel/*/build.json"):
            try:
                total = int(json.loads(path.read_text())["objects_total"])
                set_there = len(config.read_config(path.with_name("config")))
            except (OSError, ValueError, KeyError):
                continue
            if total and abs(set_there - symbols) < best[0]:
                best = (abs(set_there - symbols), total * symbols / set_there)
        return round(best[1] or OBJECTS_PER_SYMBOL * symbols)

    def _compiled(self, seen: int) -> int:
        """Return how many objects the compiler made, of those that `_objects` counts."""
        try:
            return misses(fence.read_left(self._stats).splitlines())
        except FileNotFoundError:  # no ccache: every object that make announced was compiled
            return seen

    def _fault(self, result: proc.Result, records: Sequence[failures.Record]) -> failures.BuildError:
        builtin = [record for record in records if record.builtin]
        if builtin:
            fault = failures.first_fault(builtin[0].output, self.tree)
            return (
                fault
                if fault.file
                else failures.BuildError(failures.relative(builtin[0].source, self.tree), 0, fault.text)
            )
        return failures.first_fault(result.stderr, self.tree, make=True)


def misses(stats: Iterable[str]) -> int:
    """Return how many objects a log of ccache (`stats_log`) has as compiled, without those of modpost: one a module."""
    found, source = 0, ""
    for line in stats:
        if line.startswith("# "):
            source = line
        found += line == "cache_miss" and not source.endswith(".mod.c")
    return found


class _Seen:
    """Counts what make announces, and passes it on."""

    def __init__(self, name: str, ctx: BuildContext, estimate: int, done: int) -> None:
        self._name, self._ctx, self._estimate, self._done = name, ctx, estimate, done
        self.fresh = 0
        self._tell()

    def line(self, text: str) -> None:
        """Take one line of make's output."""
        self._ctx.verbose(text)
        if _COMPILES.match(text):
            self.fresh += 1
            if not text.endswith(".mod.o"):  # modpost's own, which `_objects` does not count either
                self._done += 1
                self._tell()
        elif _LINKS.match(text):
            self._ctx.progress(BuildProgress(self._name, "link"))

    def _tell(self) -> None:
        total = self._estimate if self._done < self._estimate else round(AHEAD * self._done) + 1
        self._ctx.progress(BuildProgress(self._name, "compile", self._done, total))
