"""A reply for the series' thread, and one for the maintainers of each subsystem; plain text, and nothing is sent.

A letter is what a mail program takes as a draft: headers, an empty line, the body in UTF-8. Prose is wrapped at 72
columns; what begins with four blanks (commands, the kernel's log, the compiler's words) is verbatim and is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from kpatchlab.errors import UserError
from kpatchlab.lab.yamlfile import suggest
from kpatchlab.maintainers import Section, concerned
from kpatchlab.model import Outcome, Run, Thread, Verdict
from kpatchlab.report import digest
from kpatchlab.report.common import line
from kpatchlab.report.prose import item, items, part, prose, verbatim
from kpatchlab.report.view import NO_MAINTAINERS, View
from kpatchlab.verdict.faults import Fault, faults
from kpatchlab.verdict.ratios import Speed
from kpatchlab.verdict.values import BuildCheck, Comparison

MAX_FAULTS = 10
"""So many faults are told with their call trace; the others in a line each."""
THREAD = "thread.txt"
_HEADS = ("To", "Cc", "Subject", "In-Reply-To", "References")


@dataclass(frozen=True, slots=True)
class Letter:
    """One mail: whom it goes to, what it is an answer to, and its body."""

    subject: str
    to: tuple[str, ...]
    cc: tuple[str, ...]
    answers: str
    body: str

    def __bytes__(self) -> bytes:
        """Return it as a mail program takes it."""
        answers = f"<{self.answers}>" if self.answers else ""
        values = ((*self.to,), (*self.cc,), (self.subject,), (answers,), (answers,))
        heads = [
            f"{name}: " + ",\n ".join(line(value, 900) for value in value_list)
            for name, value_list in zip(_HEADS, values, strict=True)
            if any(value_list)
        ]
        heads += ["MIME-Version: 1.0", "Content-Type: text/plain; charset=UTF-8", "Content-Transfer-Encoding: 8bit"]
        return ("\n".join(heads) + "\n\n" + self.body).encode("utf-8", "replace")


def render(view: View) -> bytes:
    """Return the reply for the thread, or the letter to the maintainers of the view's subsystem.

    Raises:
        UserError: there is no such subsystem; the nearest are named.
    """
    return bytes(_to_subsystem(view, _wanted(view)) if view.subsystem else _to_thread(view))


def letters(view: View) -> dict[str, bytes]:
    """Return file name -> mail: the thread's, then one for each subsystem that the run has something to tell.

    That is one whose files the series changes, or one in whose files something regressed.
    """
    found = {THREAD: bytes(_to_thread(view))}
    for section in subsystems(view):
        found[f"{file_name(section.title)}.txt"] = bytes(_to_subsystem(view, section))
    return found


def subsystems(view: View) -> tuple[Section, ...]:
    """Return the sections that get a letter of their own."""
    run = view.run
    changed = [file for patch in run.patches for file in patch.files]
    blamed = [file for fault in faults(view.comparison) for file in _blamed(fault)]
    broken = [failure.source for build in run.builds for failure in build.module_failures]
    return concerned(view.sections, [*changed, *blamed, *broken])


def _wanted(view: View) -> Section:
    """Return the section that the view's subsystem names."""
    known = {section.title: section for section in view.sections}
    if not known:
        raise UserError("no MAINTAINERS of the tree is at hand", hint=NO_MAINTAINERS)
    for title, section in known.items():
        if title.lower() == view.subsystem.lower():
            return section
    about = [section.title for section in subsystems(view)] or list(known)
    raise UserError(
        f"no subsystem {view.subsystem!r} in MAINTAINERS{suggest(view.subsystem, known)}",
        hint=f"this run is about {'; '.join(about[:10])}",
    )


def file_name(title: str) -> str:
    """Return a subsystem's title as a file name: "networking-general"."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "subsystem"


def _to_thread(view: View) -> Letter:
    run, thread = view.run, _thread(view.run)
    changed = [file for patch in run.patches for file in patch.files]
    lists = [name for section in concerned(view.sections, changed) for name in section.lists]
    cc = (*thread.to, *thread.cc) or tuple(dict.fromkeys(lists))
    to = (thread.sender,) if thread.sender else ()
    return Letter(_subject(view, thread), to, _without(cc, to), thread.message_id, body(view))


def _to_subsystem(view: View, section: Section) -> Letter:
    """Return the letter to one subsystem's maintainers: what of the run is about their files."""
    thread = _thread(view.run)
    cc = (*section.reviewers, *section.lists, *((thread.sender,) if thread.sender else ()))
    return Letter(
        _subject(view, thread),
        section.maintainers or section.lists,
        _without(cc, section.maintainers or section.lists),
        thread.message_id,
        body(view, section),
    )


def _without(found: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    taken = set(others)
    return tuple(name for name in dict.fromkeys(found) if name not in taken)


def _thread(run: Run) -> Thread:
    """Return the thread; a run that was stored without one may still name it in words."""
    if run.threads:
        return run.threads[-1]
    for build in run.builds:
        if match := re.search(r"message-id (\S+@[^\s;]+)", build.series):
            return Thread(build.kernel, "", match[1].strip("<>"))
    return Thread("", "", "")


def _subject(view: View, thread: Thread) -> str:
    if thread.subject:
        return thread.subject if thread.subject.lower().startswith("re:") else f"Re: {thread.subject}"
    title = view.run.title
    return f"Re: {title}" if thread.message_id else f"{title or 'kpatchlab'}: {view.comparison.headline}"


# --- the body -----------------------------------------------------------------------------------------------------


def _blamed(fault: Fault) -> list[str]:
    return digest.files(job for change in fault.changes for job in change.jobs)


@dataclass(frozen=True, slots=True)
class _Scope:
    """What of the run belongs into a letter: all of it, or what is about a subsystem's files."""

    run: Run
    section: Section | None

    def scenario(self, name: str) -> bool:
        return self.section is None or any(self.section.has(file) for file in self.run.touches.get(name, ()))

    def fault(self, fault: Fault) -> bool:
        blamed = _blamed(fault)
        if self.section is None or any(self.section.has(file) for file in blamed):
            return True
        return not blamed and any(self.scenario(c.group.scenario) for c in fault.changes)

    def build(self, run: Run, check: BuildCheck) -> bool:
        if self.section is None:
            return True
        build = next(build for build in run.builds if build.kernel == check.kernel)
        sources = {f"module {f.module}": f.source for f in build.module_failures} | {"kernel": build.error_file}
        return bool(sources.get(check.step)) and self.section.has(sources[check.step])


def body(view: View, section: Section | None = None) -> str:
    """Return a letter's text; `section`: what is about that subsystem alone."""
    run, comparison, scope = view.run, view.comparison, _Scope(view.run, section)
    out = prose(f"{run.title or 'kpatchlab'}: {comparison.headline}.")
    out += prose(comparison.basis + ("" if run.complete else " The run did not end: jobs are missing."))
    if section:
        out += ["", *prose(f"Below is what is about {section.title}; the reply to the thread has the rest.")]
        if run.touches and not any(scope.scenario(name) for name in {job.scenario for job in run.jobs}):
            out += prose("No scenario of this run names a file of this subsystem as what it tests.")
    out += ["", *prose("Lines that begin with four blanks are verbatim and not wrapped.")]
    found = [fault for fault in faults(comparison) if scope.fault(fault)]
    out += part("What was tested", _tested(run, comparison))
    out += part("Builds that failed", _builds(run, comparison, scope))
    out += part("What went wrong" if not comparison.compares else "Regressed", _faults(found))
    fixed = digest.news(comparison, [Verdict.FIXED])
    out += part("Fixed", _news(fixed, scope))
    other = digest.news(comparison, [Verdict.CHANGED, Verdict.FLAKY, Verdict.GONE, Verdict.NEW])
    out += part("Changed, flaky, gone or new", _news(other, scope))
    out += part("Failing, and no regression: the base fails there too", _news(digest.standing(comparison), scope))
    out += part("Figures", _figures(digest.figures(comparison), scope))
    out += part("Not covered", _uncovered(run, comparison, section))
    out += part("How the kernels were built", _built(run))
    return "\n".join(out) + "\n"


def _tested(run: Run, comparison: Comparison) -> list[str]:
    return [row for name, words in digest.tested(run, comparison) for row in item(f"{name}: {words}")]


def _builds(run: Run, comparison: Comparison, scope: _Scope) -> Iterator[str]:
    logs = {(b.kernel, f"module {f.module}"): f.log for b in run.builds for f in b.module_failures}
    logs |= {(b.kernel, "kernel"): b.log_tail for b in run.builds}
    for check in comparison.builds:
        if check.outcome is not Outcome.PASS and scope.build(run, check):
            word = check.verdict or check.outcome.upper()
            yield from item(f"{word}: {check.kernel}, {check.step}: {check.message or check.reason}")
            yield from verbatim(logs.get((check.kernel, check.step), "").splitlines()[-12:])


def _faults(found: Sequence[Fault]) -> Iterator[str]:
    for number, fault in enumerate(found):
        if number:
            yield ""
        yield from item(f"{fault.word}: {fault.title}")
        change = fault.first
        yield from prose(f"{digest.where([change])}, check: {change.row.case}", "  ", "  ")
        yield from prose(digest.outcomes(change), "  ", "  ")
        if fault.others:
            yield from prose(f"also in: {digest.where(fault.others, change)}", "  ", "  ")
        if fault.end:
            yield from prose(f"end: {fault.end}", "  ", "  ")
        for splat in fault.more_splats:
            yield from prose(f"splat as well: {line(splat.title)}", "  ", "  ")
        if change.cell.reason:
            yield from prose(f"reason: {change.cell.reason}", "  ", "  ")
        if change.not_reached:
            yield from prose(f"not reached: {len(change.not_reached)} of {len(change.group.rows)} checks", "  ", "  ")
        if fault.splat and number < MAX_FAULTS:
            yield ""
            yield from verbatim(digest.excerpt(fault.splat))
        if change.reproduce:
            yield ""
            yield "  to reproduce:"
            yield from verbatim([line(change.reproduce, 2000)])


def _news(found: Iterable[digest.NewsLine], scope: _Scope) -> list[str]:
    return items([f"{item.word}: {item.text}" for item in found if any(map(scope.scenario, item.scenarios))])


def _figures(found: digest.Figures, scope: _Scope) -> list[str]:
    own = [told for told in found.told if scope.scenario(told.row.group.scenario)]
    lacking = [words for name, words in found.lacking if scope.scenario(name)]
    if not own and not lacking:
        return []
    telling = [told for told in own if told.figure.speed in {Speed.FASTER, Speed.SLOWER}]
    counts = [(speed, sum(told.figure.speed is speed for told in own)) for speed in Speed]
    whole = ", ".join(f"{count} {speed}" for speed, count in counts if count) or "no figure has a base"
    out = items([f"{t.speed}: {t.name}: {_mean(t)}, {t.ratio}, {t.row.mode or 'mode not stored'}" for t in telling])
    out += item(f"all: {whole}; they count {found.modes}" if found.told else whole)
    if once := sum(told.figure.low is None for told in own):
        out += item(f"{once} measured too seldom for an interval: nothing is said of them")
    out += item(found.against_itself) if found.against_itself else []
    return out + items(lacking)


def _mean(told: digest.FigureLine) -> str:
    better = {"higher": "more is better", "lower": "less is better"}.get(told.row.direction, "")
    return f"{told.figure.mean:.5g} {digest.unit(told.row)}{f' ({better})' if better else ''}"


def _uncovered(run: Run, comparison: Comparison, section: Section | None) -> list[str]:
    if section is None:
        return items(digest.uncovered(run, comparison))
    own = [patch for patch in run.patches if any(section.has(file) for file in patch.files)]
    return items([words for number, words in digest.patches_left(run) if number in {p.number for p in own}])


def _built(run: Run) -> Iterator[str]:
    for build in run.builds:
        if build.reproduce:
            yield f"* {line(build.kernel)}:"
            yield from verbatim([line(build.reproduce, 4000)])
