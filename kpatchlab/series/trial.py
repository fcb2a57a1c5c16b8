"""A posted series on a tree: its base, what it touches, and a lab of two kernels for it.

The lab is an ordinary one, and its file is kept with the run: it can be copied, edited and run again.
"""

from __future__ import annotations

import contextlib
import email.utils
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kpatchlab.build import git, patchset
from kpatchlab.build.base import Base, Clues, Fit, find_base
from kpatchlab.build.config import asked_symbols, source_arch
from kpatchlab.build.context import BuildContext
from kpatchlab.build.patchset import Patch
from kpatchlab.build.posted import plain
from kpatchlab.cache import content_key
from kpatchlab.errors import UserError
from kpatchlab.files import write_atomic
from kpatchlab.lab import recipes
from kpatchlab.lab.load import Lab
from kpatchlab.lab.selftests import RUNNER, is_made
from kpatchlab.lab.systems import touches, within
from kpatchlab.lab.written import said, written
from kpatchlab.maintainers import NAME as MAINTAINERS
from kpatchlab.maintainers import Section, concerned, parse
from kpatchlab.model import UNTRIED, CaseKind, JobResult, Outcome, Run
from kpatchlab.series import selftests
from kpatchlab.series.scenarios import write_quilt
from kpatchlab.series.selftests import Collection

FOLDER = "tries"
"""Below the lab's results: what was tried, a folder for each series on each base."""
BASE, WITH = "without", "with"
CONFIG = ("config/guest.config", "config/splice.config")
"""Where the lab's own base is a kernel that somebody else configured."""
BROKEN = "broken-base"
"""In a trial's folder: the id of its base, where that does not build or boot."""
SMOKE = "smoke"
"""The tag of scenarios that say whether a kernel works at all."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Scenarios in the order in which they run, and why, in words."""

    names: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Trial:
    """One series on one base.

    Attributes:
        title: what people call the series.
        version: "v2"; "v1" where the mails say none.
        model: where it is from, with its version named.
        patches: as posted; `base.tried.patches` has them as they apply.
        files: what they change.
        systems: of the lab, by name.
        sections: of the tree's MAINTAINERS, those whose files change.
        lab: two kernels, the base without and with the series.
        clues: what its mails say of their base.
        collections: of the tree's selftests, those that the series calls for.
        left_out: those among them that no scenario of `lab` runs.
    """

    title: str
    version: str
    model: recipes.SeriesModel
    patches: tuple[Patch, ...]
    base: Base
    files: tuple[str, ...]
    systems: tuple[str, ...]
    sections: tuple[Section, ...]
    lab: Lab
    folder: Path
    clues: Clues
    collections: tuple[Collection, ...] = ()
    left_out: tuple[str, ...] = ()


def series_model(word: str, tree: Path) -> recipes.SeriesModel:
    """Return what a word of the command line means: a mailbox or "-", a folder, a quilt queue, a range, a message-id.

    Raises:
        UserError: it is none of these.
    """
    path = Path(word).expanduser()
    if word == "-":
        return recipes.MboxSeries(type="mbox", path="-")
    if path.is_dir():
        kind = "quilt" if (path / "series").is_file() else "patches"
        model = recipes.QuiltSeries if kind == "quilt" else recipes.PatchesSeries
        return model(type=kind, path=str(path.absolute()))  # type: ignore[arg-type]
    if path.exists():
        return recipes.MboxSeries(type="mbox", path=str(path.absolute()))
    if re.fullmatch(r"[^\s@]+\.\.[^\s@]+", word):
        return recipes.GitSeries(type="git", path=str(tree), range=word)
    if match := re.fullmatch(r"(?:https?://\S+/)?<?([^\s<>/@]+@[^\s<>/]+)>?/?", word):
        return recipes.MessageIdSeries(type="message-id", id=match[1])
    raise UserError(
        f"{word}: no such file or folder, no range and no message-id",
        hint="a mailbox, a folder of patches, a quilt queue, BASE..TIP, a message-id, or - for standard input",
    )


def make_trial(
    lab: Lab,
    model: recipes.SeriesModel,
    tree: Path,
    ctx: BuildContext,
    *,
    most: int,
    version: str = "",
    asked: str = "",
    config: Sequence[str] = (),
    title: str = "",
    label: str = "",
) -> Trial:
    """Read a series, find its base in `tree`, and write the series as it applies there.

    Args:
        lab: gives scenarios, machines and, unless `config` names some, the configuration of its base.
        most: for how many collections of selftests a scenario is made.
        version: which of those that were posted, "2" for v2; "": the newest.
        asked: the user's word for the base.
        config: fragments, as a recipe names them.
        title, label: of the series and its version, for commits, which do not say them.

    Raises:
        UserError: no patches, no such base, no such fragment, or a series that does not apply anywhere.
    """
    repository = git.open_local(tree)
    model, named, numbered, clues = _chosen(model, ctx, version)
    patches = tuple(patchset.read_series([model], ctx))
    if isinstance(model, recipes.GitSeries) and not asked:
        asked = repository.git("merge-base", *re.split(r"\.\.+", model.range, maxsplit=1)).stdout.strip()
    base = find_base(repository, patches, clues, asked)
    files = tuple(patchset.changed_files(patches))
    key = content_key(base.commit, patchset.series_key(patches))
    folder = lab.results / FOLDER / key[:12]
    title = title or named or patches[0].subject or patches[0].name
    own = _lab(lab, tree, base, title, model, config, folder)
    symbols = asked_symbols(own.kernels[BASE], ctx)  # before a run begins
    sections = concerned(parse(repository.blob(base.commit, MAINTAINERS) or b""), files)
    owned = selftests.Selftests(repository, base.commit, patches)
    tests = owned.called_for(files, sections)
    if any(touches(lab.scenarios[name], lab.systems, file) for name in lab.selected for file in files):
        tests = [one for one in tests if one.changed]
    done = selftests.run_by(own)
    new = [one for one in tests if one.name not in done]
    made = new[:most] if (lab.root / RUNNER).is_file() else []
    return Trial(
        title, label or numbered, model, patches, base, files,
        systems=tuple(name for name, row in lab.systems.items() if _about(row.files, files)),
        sections=sections,
        lab=selftests.with_scenarios(own, made, owned, source_arch(ctx.arch), symbols),
        folder=folder,
        clues=clues,
        collections=tuple(tests),
        left_out=tuple(one.name for one in new if one not in made),
    )  # fmt: skip


def _chosen(model: recipes.SeriesModel, ctx: BuildContext, version: str) -> tuple[recipes.SeriesModel, str, str, Clues]:
    """Return the series with its version named, its title and version, and what its mails say of their base."""
    if version and isinstance(model, recipes.MessageIdSeries):  # b4 fetches the one that is asked for
        model = model.model_copy(update={"version": plain(version)})
    found = patchset.posted_of(model, ctx)
    if found is None:
        return model, "", "v1", Clues()
    one = found.choose(version) if version else found.newest()
    mails = [*([one.cover] if one.cover else []), *one.patches]
    text = b"\n".join(part for mail in mails for part in (mail.text, mail.diff))
    dates = [when for mail in mails if (when := _seconds(mail.date)) is not None]
    if len(found.versions) > 1:
        model = model.model_copy(update={"version": one.word})
    return model, one.title, one.label, Clues.of(text.decode("utf-8", "replace"), max(dates, default=None))


def _seconds(date: str) -> float | None:
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return email.utils.parsedate_to_datetime(date).timestamp()
    return None


def _about(folders: Iterable[str], files: Iterable[str]) -> bool:
    return any(within(file, folder) for folder in folders for file in files)


def _lab(
    lab: Lab, tree: Path, base: Base, title: str, model: recipes.SeriesModel, config: Sequence[str], folder: Path
) -> Lab:
    """Return the lab with two kernels, the base without and with the series, and nothing else of other kernels."""
    own = lab.kernels[lab.base]
    fragments = tuple(config) or (CONFIG if own.is_prebuilt else own.config)
    plain = recipes.KernelRecipe(
        description=f"the base: {base.name}",
        source=recipes.GitSource(type="git", path=str(tree), revision=base.commit),
        config=fragments,
        config_set={} if own.is_prebuilt or config else own.config_set,
    )
    if base.tried.worst is Fit.THREE_WAY:
        model = recipes.QuiltSeries(type="quilt", path=str(folder))
    elif isinstance(model, recipes.MboxSeries):
        model = model.model_copy(update={"path": str(folder / "series.mbox")})
    patched = plain.model_copy(update={"description": title, "series": (model,)})
    return replace(lab, title=title, base=BASE, kernels={BASE: plain, WITH: patched}, variants={})


def head(trial: Trial) -> str:
    """Return the series' last commit, "" where it did not come as commits."""
    if not isinstance(trial.model, recipes.GitSeries):
        return ""
    tip = re.split(r"\.\.+", trial.model.range, maxsplit=1)[1]
    return git.open_local(Path(trial.model.path)).commit(tip)


def write(trial: Trial, posted: bytes) -> None:
    """Keep what the lab's recipes read below its results: the mailbox, or the patches as they apply.

    Args:
        posted: the mailbox, b"" where the series came otherwise.
    """
    if posted:
        write_atomic(trial.folder / "series.mbox", posted)
    if trial.base.tried.worst is Fit.THREE_WAY:
        write_quilt(trial.folder, trial.base.tried.patches, words=True)


def posted(model: recipes.SeriesModel, ctx: BuildContext) -> bytes:
    """Return the mailbox that a series came in, b"" where it came otherwise."""
    return patchset.mailbox(model, ctx)[0] if isinstance(model, recipes.MboxSeries) else b""


def fault_of_base(run: Run) -> str:
    """Return why a trial's base is no ground to test on, "" where it is one."""
    build = next((build for build in run.builds if build.kernel == BASE), None)
    if build and build.outcome is Outcome.BLOCKED:
        place = f"{build.error_file}:{build.error_line}: " if build.error_file else ""
        return f"does not build: {place}{build.error}"
    jobs = _tried(run)
    if jobs and all(map(_never_up, jobs)):
        return f"does not boot as far as a scenario: {next((job.message for job in jobs if job.message), 'no reason')}"
    return ""


def is_ground(run: Run) -> bool:
    """Whether a scenario began on a trial's base, whatever came of it."""
    return not all(map(_never_up, _tried(run)))


def _tried(run: Run) -> list[JobResult]:
    return [job for job in run.jobs if job.column == BASE and job.outcome not in UNTRIED]


def _never_up(job: JobResult) -> bool:
    """Whether a guest did not come to where its scenario starts, or its kernel died there before a script began."""
    kinds = {case.kind for case in job.cases}
    began = CaseKind.CHECK in kinds or job.reported or job.guest_s > 0
    return CaseKind.PREPARATION in kinds or (job.outcome is Outcome.CRASH and not began)


def clear(trial: Trial) -> None:
    """Forget that a trial's base was broken, whichever trial noted it."""
    for path, commit in _notes(trial):
        if commit == trial.base.commit:
            path.unlink(missing_ok=True)


def _notes(trial: Trial) -> list[tuple[Path, str]]:
    """Return the notes of all trials of the lab about bases that are no ground, with the commit that each names."""
    found = trial.folder.parent.glob(f"*/{BROKEN}")
    return [(path, path.read_bytes().decode("ascii", "replace").strip()) for path in found]


def next_base(trial: Trial, tree: Path) -> Base | None:
    """Return the next commit that a series applies to, None where there is no other.

    The trial's own base is no candidate from now on, and those of other trials that were as bad are none.
    """
    write_atomic(trial.folder / BROKEN, f"{trial.base.commit}\n".encode())
    broken = {commit for _, commit in _notes(trial)}
    try:
        found = find_base(git.open_local(tree), trial.patches, trial.clues, without=broken)
    except UserError:
        return None
    return found if found.tried.applies else None


def lab_file(trial: Trial, choice: Sequence[str], folder: Path) -> bytes:
    """Return the lab as a file that is to lie in `folder`."""
    lab = trial.lab
    values = said(lab, lab.kernels) | {
        "root": os.path.relpath(lab.root, folder),
        "scenarios": list(choice),
        "matrix": {"columns": [column if isinstance(column, str) else dict(column) for column in lab.matrix.columns]},
    }
    return written(values, f"The base is {trial.base.name}: {trial.base.why}.")


# ------------------------------------------------------------------------------------------ which scenarios


def choose(trial: Trial, seconds: Mapping[str, float], told: Iterable[str], *, everything: bool) -> Chosen:
    """Return the scenarios that the series calls for, in the order in which they are worth running.

    First those that name a changed file or run changed selftests, then the rest of the systems that it changes, then,
    with `everything`, the others that the lab selects. Within each: what has told something before, then what is short.

    Args:
        seconds: scenario -> what its longest job took before.
        told: scenarios that did not pass in earlier runs.
    """
    lab, told = trial.lab, set(told)
    runs = {name: lab.scenarios[name] for name in lab.selected}
    runners = selftests.run_by(lab)
    tests = {name: one.changed for one in trial.collections for name in runners.get(one.name, ())}
    changed = [name for name, by_series in tests.items() if by_series]
    others = {name: scenario for name, scenario in runs.items() if not is_made(scenario)}
    first = [name for name, s in others.items() if _about(s.touches.files, trial.files)]
    system = [name for name, s in others.items() if any(touches(s, lab.systems, file) for file in trial.files)]
    if system:
        ranks = dict.fromkeys(system, 1) | dict.fromkeys([*first, *changed], 0)
        head = sum(rank == 0 for rank in ranks.values())
        why = f"{head} by a changed file, {len(ranks) - head} by a changed system"
    else:
        nearby = [name for name, s in runs.items() if SMOKE in s.tags or _tests_of(s.needs.kselftest, trial.files)]
        ranks = dict.fromkeys([*nearby, *tests], 1) | dict.fromkeys(changed, 0)
        why = "no scenario is about a file of the series: these say whether a kernel works, and are tests from nearby"
    taken = [name for name in runs if everything or name in ranks]
    if not taken:
        taken, why = list(runs), "no scenario is about a file of the series: all that the lab selects"
    order = sorted(taken, key=lambda name: (ranks.get(name, 2), name not in told, seconds.get(name, 0.0), name))
    return Chosen(tuple(order), why)


def _tests_of(collections: Iterable[str], files: Iterable[str]) -> bool:
    """Whether one of the tree's collections of tests is that of a changed folder: net/tls for net/tls/tls_sw.c."""
    return any(file.startswith(f"{name}/") or f"/{name}/" in file for name in collections for file in files)
