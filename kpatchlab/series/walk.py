"""The walk: patch after patch on one warm tree, each result stored as it comes in.

What was stored is found again by the content of the patches so far, so a walk that was killed goes on with the patch
it was at, and an edited series is looked at from the first patch that differs.
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from kpatchlab import __version__, fence
from kpatchlab.build import config, confined, failures, git, make, objects, patchset, source, toolchain
from kpatchlab.build.context import BuildCancelled, BuildContext, BuildProgress
from kpatchlab.build.kernel import cached_kernel, keep_kernel
from kpatchlab.build.origin import Source
from kpatchlab.cache import content_key
from kpatchlab.errors import HostError, UserError
from kpatchlab.fence import Escape
from kpatchlab.files import write_atomic
from kpatchlab.jsonable import from_json, to_json
from kpatchlab.lab.recipes import GitSeries, KernelRecipe
from kpatchlab.model import Outcome
from kpatchlab.series import checks, warnings
from kpatchlab.series.tree import KCONFIG, Tree, files_of, renames_of
from kpatchlab.series.values import Applied, Looked, LostObject, PatchBuild, PatchResult, Walk

VERSION = 2
"""Part of every key: raise it when the same patches are to be looked at again."""
KIND = "series-tree"
LOG_BYTES = 8 << 10
"""How much of a compiler's output a stored module failure keeps."""
CHECKS = ("W=1", "sparse", "checkpatch", "allmodconfig", "coccicheck")
ALWAYS = ("W=1", "sparse", "checkpatch")


class Keeps(Protocol):
    """Keeps the kernel that lies built."""

    def __call__(self, recipe: KernelRecipe, /) -> None:
        """Put it into the cache as the one that a recipe would be built to."""


class RunsScenarios(Protocol):
    """Runs scenarios on the kernel with the patches so far."""

    def __call__(self, title: str, patches: Sequence[patchset.Patch], keep: Keeps, /) -> dict[str, str]:
        """Return scenario -> outcome of its worst job; {} where it was stopped."""


class LooksAfter(Protocol):
    """A check that has seen the tree before a patch."""

    def __call__(self) -> tuple[Looked, ...]:
        """Look at the tree with the patch; return what is new, a value for each name of the check."""


class LooksBefore(Protocol):
    """A check."""

    def __call__(self, facts: PatchResult, /) -> LooksAfter:
        """Look at the tree before a patch."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a walk is to do besides applying and building.

    Attributes:
        checks: those of `CHECKS` that are asked for.
        fresh: look at every patch again, whatever is stored.
        scenarios: names of scenarios to run with each patch that builds, through `run_scenarios`.
    """

    checks: tuple[str, ...] = ALWAYS
    fresh: bool = False
    scenarios: tuple[str, ...] = ()
    run_scenarios: RunsScenarios | None = None


def walk(
    recipe: KernelRecipe,
    name: str,
    ctx: BuildContext,
    results: Path,
    wanted: Wanted,
    tell: Callable[[PatchResult], None],
) -> tuple[Walk, Path]:
    """Look at each patch of a recipe's series on top of those before it.

    Args:
        results: the lab's results folder; what is found goes to a folder below it, of this tree, configuration and
            series.
        tell: called with each patch as it is done.

    Returns:
        What was found (not complete where `ctx.cancel` was set meanwhile), and the folder.

    Raises:
        UserError: no series, no patches in it, or a kernel that is not built here.
        HostError: no compiler, no room.
    """
    began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    plan = _plan(recipe, name, ctx)
    out = results / "series" / f"{name}-{plan.warm[:12]}"
    done: list[PatchResult] = []
    with ctx.cache.lock(f"{KIND}-{plan.warm}"), _room(ctx), contextlib.suppress(BuildCancelled):
        walker = _Walker(plan, name, ctx, out, wanted)
        try:
            for facts in walker.patches():
                done.append(facts)
                tell(facts)
        finally:
            confined.tidy(ctx, walker.job.author)
    found = Walk(
        kernel=name, base=plan.base, series=patchset.describe(recipe.series, plan.patches), compiler=plan.compiler,
        checks=wanted.checks, patches=tuple(done), started=started, duration_s=time.monotonic() - began,
        complete=len(done) == len(plan.patches) + 1, notes=plan.notes, version=__version__,
    )  # fmt: skip
    return found, out


@dataclass(frozen=True, slots=True)
class _WalkSpec:
    recipe: KernelRecipe
    origin: Source[Any]
    patches: list[patchset.Patch]
    asked: dict[str, config.Asked]
    compiler: str
    base: str
    key: str
    notes: tuple[str, ...]

    @property
    def warm(self) -> str:
        """What names the tree and the folder of results: a series on a base, by where it comes from."""
        return content_key(self.key, patchset.origin_key(self.recipe.series, self.patches))[:16]


def _plan(recipe: KernelRecipe, name: str, ctx: BuildContext) -> _WalkSpec:
    if recipe.is_prebuilt:
        raise UserError(
            f"kernel {name} is built already: there is nothing to look at patch by patch",
            hint="a kernel whose recipe has a source tree and a series",
        )
    if not recipe.series:
        raise UserError(f"kernel {name} has no series", hint="`series` in its recipe names the patches")
    ctx = ctx.compiling(recipe)
    origin = source.source_of(recipe.source, ctx)
    base = origin.describe()
    patches = patchset.read_series(recipe.series, ctx)
    asked, compiler = config.asked_symbols(recipe, ctx), toolchain.described(recipe, ctx)
    key = content_key(VERSION, ctx.arch, recipe.source.type, origin.key, config.key(asked), compiler)
    bare = [f"built WITHOUT A SANDBOX (--trust): {why}"] if (why := confined.unconfined()) else []
    return _WalkSpec(recipe, origin, patches, asked, compiler, base, key, (*bare, *_merges(recipe, ctx)))


def _merges(recipe: KernelRecipe, ctx: BuildContext) -> Iterator[str]:
    """Yield what must be said of ranges with merges in them: a merge is no patch."""
    for item in recipe.series:
        if isinstance(item, GitSeries) and item.path:
            repository = git.open_local(ctx.path(item.path))
            count = int(
                repository.git("rev-list", "--merges", "--count", "--end-of-options", item.range).stdout.strip() or "0"
            )
            if count:
                yield (
                    f"{item.range} has {count} merge{'s' if count > 1 else ''}: a merge is no patch, so what was "
                    "changed to settle conflicts is missing, and patches of both sides stand in one line"
                )


@contextlib.contextmanager
def _room(ctx: BuildContext) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            hint = "kpatchlab clean frees cached artifacts; what is done is kept"
            raise HostError(f"no space left below {ctx.cache.root}", hint=hint) from error
        raise


class _Walker:
    def __init__(self, plan: _WalkSpec, name: str, ctx: BuildContext, out: Path, wanted: Wanted) -> None:
        ctx = ctx.compiling(plan.recipe)
        self.plan, self.name, self.ctx, self.out, self.wanted = plan, name, ctx, out, wanted
        self.folder = ctx.cache.path(KIND, plan.warm)
        author = patchset.series_key(plan.patches)
        confined.check(ctx, author)
        ctx.check_space()
        self._unpack()
        self.tree = Tree(self.folder, plan.patches)
        self.obj = self.tree.path / "obj"
        self.job = make.Job(name, self.tree.path, self.obj, self.folder, ctx, author)
        sparse = bool(checks.sparse_version())
        self.bench = checks.Bench(self.tree, "obj-checks", ctx, author, ["W=1"], sparse=sparse)
        self.allmod = checks.Bench(self.tree, "obj-allmod", ctx, author, ["W=1"], sparse=False)
        self._at = -1
        self._outcome: make.Compiled | None = None

    def _unpack(self) -> None:
        tree = self.folder / "tree"
        if (self.folder / "unpacked").exists():
            return
        self.ctx.progress(BuildProgress(self.name, "source"))
        shutil.rmtree(self.folder, ignore_errors=True)
        tree.mkdir(parents=True)
        self.plan.origin.write_tree(tree)
        self.ctx.check_cancel()
        (self.folder / "unpacked").touch()
        self.ctx.note(self.folder, f"tree for series of {self.plan.base}")

    # ------------------------------------------------------------------------------------------ in order

    def patches(self) -> Iterator[PatchResult]:
        """Yield the tree without patches, then each patch; ends early where the walk is cancelled."""
        facts = self._one(0, Applied("strict"))
        yield self._asked(facts)
        for number in range(1, len(self.plan.patches) + 1):
            if self.ctx.cancel.is_set():
                return
            previous, applied = facts, self.tree.apply()
            facts = self._one(number, applied, previous)
            yield self._asked(facts)
        self.ctx.note(self.folder, f"tree for series of {self.plan.base}")

    def _asked(self, facts: PatchResult) -> PatchResult:
        """Return it without scenarios of other walks."""
        ran = {name: facts.scenarios[name] for name in self.wanted.scenarios if name in facts.scenarios}
        return replace(facts, scenarios=ran)

    def _one(self, number: int, applied: Applied, previous: PatchResult | None = None) -> PatchResult:
        """Return what is known of patch `number`; what is not stored is found out now."""
        patch = self.plan.patches[number - 1] if number else patchset.Patch("", "the tree without any patch", b"")
        key = content_key(self.plan.key, patchset.series_key(self.plan.patches[:number]))
        facts = PatchResult(number, patch.subject, patch.name, key, applied, tuple(files_of(patch)))
        if (stored := self._stored(number, key)) and not self.wanted.fresh:
            looked = tuple(look for look in stored.looked if self._holds(look, number, patch))
            # What the lab itself was at fault for is run again.
            ran = {name: outcome for name, outcome in stored.scenarios.items() if outcome != Outcome.INFRA}
            facts = replace(facts, built=stored.built, looked=looked, scenarios=ran, stored=True)
        todo = [check for check in self.wanted.checks if number and not facts.look(check)]
        if "checkpatch" in todo:
            self._say(number, "checkpatch")
            facts = replace(
                facts, looked=(*facts.looked, checks.checkpatch(self.tree.path, patch, self.ctx)), stored=False
            )
            todo.remove("checkpatch")
        if applied.how in {"strict", "fuzz"} and (todo or not facts.built):
            facts = self._build_and_look(facts, previous, todo)
        if self.wanted.run_scenarios and facts.built and set(self.wanted.scenarios) - set(facts.scenarios):
            if not facts.stored:
                self._save(number, facts, patch)  # a kill during the run costs the run alone
            ran = self._run_scenarios(facts, f"{self.name}, patch {number}: {patch.subject}")
            facts = replace(facts, scenarios={**facts.scenarios, **ran}, stored=facts.stored and not ran)
        if not facts.stored:
            order = {check: place for place, check in enumerate(CHECKS)}
            facts = replace(facts, looked=tuple(sorted(facts.looked, key=lambda look: order[look.check])))
            self._save(number, facts, patch)
        return facts

    def _holds(self, look: Looked, number: int, patch: patchset.Patch) -> bool:
        """Whether what is stored is what would come out now: programs get installed, mails are reworded."""
        if look.skipped in {checks.NO_SPARSE, checks.NO_SPATCH}:
            return not fence.which("sparse" if look.skipped == checks.NO_SPARSE else "spatch")
        path = self.out / "patches" / f"{number:04d}.mail"
        return look.check != "checkpatch" or (path.exists() and path.read_bytes() == (patch.mail or patch.data))

    def _say(self, number: int, what: str) -> None:
        self.ctx.progress(BuildProgress(self.name, f"patch {number}: {what}"))

    def _file(self, number: int, key: str) -> Path:
        return self.out / "patches" / f"{number:04d}-{key[:12]}.json"

    def _stored(self, number: int, key: str) -> PatchResult | None:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            found = from_json(PatchResult, json.loads(self._file(number, key).read_bytes()))
            return found if found.key == key else None
        return None

    def _save(self, number: int, facts: PatchResult, patch: patchset.Patch) -> None:
        write_atomic(self._file(number, facts.key), json.dumps(to_json(facts), indent=1).encode() + b"\n")
        write_atomic(self.out / "patches" / f"{number:04d}.mail", patch.mail or patch.data)

    # ------------------------------------------------------------------------------------------ one patch

    def _build_and_look(self, facts: PatchResult, previous: PatchResult | None, todo: Sequence[str]) -> PatchResult:
        """Build with the patch, and compare what compilers and checkers say with it and without it."""
        number = facts.number
        if previous and self._at != number - 1:
            self._stand_at(number - 1, number)
        looks: dict[tuple[str, ...], LooksBefore] = {
            ("W=1", "sparse"): self._extra,
            ("allmodconfig",): self._allmodconfig,
            ("coccicheck",): self._coccicheck,
        }
        afters = [self._begin(names, look, facts) for names, look in looks.items() if set(names) & set(todo)]
        self.tree.settle()
        self._say(number, "make")
        built = self._build(facts.files)
        self._at = number
        found = [look for finish in afters for look in finish()]
        kept = [look for look in facts.looked if look.check not in {new.check for new in found}]
        found = [look for look in found if look.check in self.wanted.checks]
        return replace(facts, built=facts.built or built, looked=(*kept, *found), stored=False)

    def _begin(self, names: Sequence[str], look: LooksBefore, facts: PatchResult) -> LooksAfter:
        """Look at the tree without the patch; returns what looks at it with the patch.

        Where the tree or the time does not let it come to an end, it is skipped with the reason.
        """
        self._say(facts.number, f"{names[0]} before")
        try:
            finish = look(facts)
        except UserError as error:
            blind = tuple(Looked(name, skipped=f"before the patch: {error.message}") for name in names)
            return lambda: blind

        def attempt() -> tuple[Looked, ...]:
            self._say(facts.number, names[0])
            try:
                return finish()
            except UserError as error:
                return tuple(Looked(name, skipped=error.message) for name in names)

        return attempt

    def _extra(self, facts: PatchResult) -> LooksAfter:
        earlier = checks.before(self.bench, facts.files, self.obj)

        def finish() -> tuple[Looked, ...]:
            return checks.after(self.bench, earlier, facts.files, self._renamed(facts), self.obj)

        return finish

    def _renamed(self, facts: PatchResult) -> dict[str, str]:
        return renames_of(self.plan.patches[facts.number - 1])

    def _allmodconfig(self, facts: PatchResult) -> LooksAfter:
        folders = objects.folders_of(facts.files, self.tree.path)
        if not folders:
            return lambda: (Looked("allmodconfig", skipped="it changes no folder that is compiled"),)
        earlier = checks.before_folders(self.allmod, folders, facts.files)

        def finish() -> tuple[Looked, ...]:
            return (checks.after_folders(self.allmod, earlier, folders, facts.files, self._renamed(facts)),)

        return finish

    def _coccicheck(self, facts: PatchResult) -> LooksAfter:
        began, tree = time.monotonic(), self.tree.path
        if lacking := checks.no_coccicheck(tree):
            return lambda: (Looked("coccicheck", skipped=lacking),)
        earlier = checks.coccicheck(tree, facts.files, self.ctx)

        def finish() -> tuple[Looked, ...]:
            now = checks.coccicheck(tree, facts.files, self.ctx)
            new, gone = warnings.difference(earlier, now, facts.files, self._renamed(facts))
            return (Looked("coccicheck", tuple(new), tuple(gone), duration_s=time.monotonic() - began),)

        return finish

    def _stand_at(self, number: int, applied: int) -> None:
        """Bring tree and objects to a patch, after patches that needed no build; `applied` are so far, beside it."""
        fresh = Tree(self.folder, self.plan.patches)
        for _ in range(number):
            fresh.apply()
        fresh.settle()
        self._build(())
        self._at = number
        # Those that are further than the tree stay beside it; their files come with the next settle.
        self.tree = self.bench.tree = self.allmod.tree = Tree(self.folder, self.plan.patches)
        for _ in range(applied):
            self.tree.apply()

    def _run_scenarios(self, facts: PatchResult, title: str) -> dict[str, str]:
        """Run what is wanted on the kernel that stands in the tree; one that does not build blocks them all."""
        run, number = self.wanted.run_scenarios, facts.number
        assert run
        if facts.built and facts.built.error:
            return dict.fromkeys(self.wanted.scenarios, str(Outcome.BLOCKED))

        def keep(recipe: KernelRecipe) -> None:
            if cached_kernel(recipe, self.name, self.ctx):
                return
            if self._at != number or not self._outcome:
                self._stand_at(number, number)
            if self._outcome and not self._outcome.fault:
                self._say(number, "package")
                keep_kernel(recipe, self.name, self.job, self._outcome, self.tree.before, self.ctx)

        return run(title, self.tree.applied[:number], keep)

    def _build(self, files: Sequence[str]) -> PatchBuild:
        began = time.monotonic()
        self._outcome = None
        values = self._configure()
        if isinstance(values, UserError):
            return PatchBuild((LostObject("", "", 0, values.message),), duration_s=time.monotonic() - began)
        try:
            outcome = self._outcome = self.job.run(keep_going=True)
            if outcome.fault:
                modules = failures.module_failures(outcome.records, self.tree.path)
            else:
                modules = self.job.missing_modules(outcome.records, self.job.built_modules())
            now = config.read_config(self.obj / ".config")
        except (Escape, FileNotFoundError) as error:
            text = f"the build tried to leave its folders: {error}"
            return PatchBuild((LostObject("", "", 0, text),), duration_s=time.monotonic() - began)
        changed = [
            f"{symbol}={now.get(symbol, 'n')}, was {values.get(symbol, 'n')}"
            for symbol in sorted({*now, *values})
            if now.get(symbol) != values.get(symbol)
        ]
        there = [file for file in files if self.tree.state(file)]
        return PatchBuild(
            faults=self._faults(outcome),
            modules=tuple(replace(module, log=module.log[:LOG_BYTES]) for module in modules),
            rebuilt=outcome.rebuilt,
            compiled=outcome.compiled,
            total=outcome.total,
            duration_s=time.monotonic() - began,
            config=tuple(changed),
            unseen=tuple(objects.objects_of(there, self.obj)[1]),
            deleted=tuple(file for file in files if file not in there),
        )

    def _faults(self, outcome: make.Compiled) -> tuple[LostObject, ...]:
        """Return every object that keeps the kernel from being built; where none does, what make or the linker say."""
        if not outcome.fault:
            return ()
        found = []
        for record in outcome.records:
            if record.builtin:
                fault = failures.first_fault(record.output, self.tree.path)
                file = fault.file or failures.relative(record.source, self.tree.path)
                found.append(LostObject(record.object, file, fault.line, fault.text))
        return tuple(found) or (LostObject("", outcome.fault.file, outcome.fault.line, outcome.fault.text),)

    def _configure(self) -> dict[str, str] | UserError:
        """Configure again where a Kconfig file is another one than last time; returns what was set before."""
        stamp, now = self.folder / "configured", self.tree.digest(KCONFIG)
        path = self.obj / ".config"
        values = config.read_config(path) if path.exists() else {}
        if not stamp.exists() or stamp.read_text() != now:
            stamp.unlink(missing_ok=True)
            try:
                config.configure(self.tree.path, self.obj, self.plan.asked, self.ctx, self.job.fence)
            except (UserError, Escape) as error:
                return UserError(error.message)
            stamp.write_text(now)
            values = values or config.read_config(path)
        return values
