"""One night from its first look at the branches to its report. If it is killed, the next night goes on with it."""

from __future__ import annotations

import dataclasses
import datetime as dt
import shlex
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from kpatchlab.build import BuildContext
from kpatchlab.build.standing import standing_still
from kpatchlab.errors import LabError
from kpatchlab.history import database
from kpatchlab.history.culprit import SearchCommand, Sought, by_case, by_metric, by_splat, commit_range, search
from kpatchlab.history.news import ALARMS, Kind, News, doubtful, news
from kpatchlab.history.nights import LanePlan, NightPlan, NightReport, NightState, Trouble
from kpatchlab.history.query import Entry, History
from kpatchlab.history.record import Origin
from kpatchlab.host.host import Host
from kpatchlab.lab.known import Known, load_known
from kpatchlab.lab.load import Lab
from kpatchlab.model import Run
from kpatchlab.nightly import book
from kpatchlab.nightly.book import OpenNight
from kpatchlab.nightly.lanes import Lane, Pinned, again, forced, fork, lanes, look
from kpatchlab.nightly.prune import prune
from kpatchlab.plan.forecast import history
from kpatchlab.plan.jobs import JobSpec, Plan, estimate, make_plan
from kpatchlab.progress import Progress
from kpatchlab.run.session import OpenRun, Session
from kpatchlab.run.stages import Settings
from kpatchlab.store.run_plan import RunKind, RunPlan
from kpatchlab.store.store import INDEX, Store


class Watched(Protocol):
    """Shows what goes on."""

    def __call__(self) -> Progress:
        """Return what shows one run."""


class Prepares(Protocol):
    """Sees to what the host must have."""

    def __call__(self, plan: Plan, /) -> None:
        """Install what a plan's jobs need, or say that it is missing; called before the first run of a night."""


class CommandLine(Protocol):
    """Knows how the user calls the program."""

    def __call__(self, words: str, /) -> str:
        """Return the command line that the user would type for a verb with its options."""


class Bisects(Protocol):
    """Looks for a commit."""

    def __call__(self, search: SearchCommand, command: str, seconds: float, night: str, /) -> str:
        """Return what a search (and the command line for it) came to within so many seconds, see `searches`."""


class Tells(Protocol):
    """Tells those who want to know of a night."""

    def __call__(self, report: NightReport, /) -> Iterable[str]:
        """Yield a line about each who was told, or could not be."""


@dataclass(slots=True)
class Night:
    """What a night needs.

    Attributes:
        say: takes each line for people.
        bisect: None: not wanted.
        force: run though nothing is new.
        tell: None: nobody wants to know.
    """

    lab: Lab
    store: Store
    host: Host
    context: BuildContext
    settings: Settings
    progress: Watched
    again: CommandLine
    say: Callable[[str], None]
    prepare: Prepares | None = None
    bisect: Bisects | None = None
    force: bool = False
    tell: Tells | None = None

    def run(self) -> NightReport:
        """Do what there is to do; the caller holds the lock.

        Raises:
            UserError: known.yaml has errors.
            HostError: the store cannot be written.
        """
        known = load_known(self.lab.root, dt.datetime.now(dt.UTC).date())
        for untold in book.untold(self.store) if self.tell else ():
            self.say(f"night {untold.night} was stopped before anybody was told of it")
            for line in self._told(untold).notes[len(untold.notes) :]:
                self.say(line)
        if old := book.open_night(self.store, self.lab.path.name):
            self.say(f"going on with night {old.id}, which was stopped")
            return self._finish(old, known)
        pinned, troubles = look(self.lab, self.context)
        for trouble in troubles:
            self.say(f"{trouble.lane}: {trouble.message}")
        for line in standing_still((r for lane in lanes(self.lab) for r in lane.lab.kernels.values()), self.context):
            self.say(line)
        new = [lane for lane in pinned if self.force or self._is_new(lane)]
        if not new:
            state, code = (NightState.LOST, 3) if troubles else (NightState.NOTHING_NEW, 0)
            report = NightReport("", state, code, troubles=tuple(troubles), title=self.lab.title)
            return dataclasses.replace(report, notes=tuple(self.tell(report))) if troubles and self.tell else report
        plan = NightPlan(tuple(lane.plan for lane in new), self.lab.path.name, tuple(troubles))
        return self._finish(book.begin(self.store, plan), known)

    def _is_new(self, lane: Pinned) -> bool:
        last = book.last_whole(self.store, lane.lane.name)
        return last is None or last.digest != lane.plan.digest

    def _finish(self, night: OpenNight, known: Known) -> NightReport:
        """Run what is left of a night, judge it, close it."""
        by_name = {lane.name: lane for lane in lanes(self.lab)}
        troubles = list(night.plan.troubles)
        for planned in night.plan.lanes:
            if planned.lane not in by_name:
                troubles.append(Trouble(planned.lane, "lab.yaml has no such lane any more"))
                continue
            try:
                self._lane(night, again(by_name[planned.lane], planned), planned)
            except LabError as error:
                self.say(f"{planned.lane}: {error.message}")
                troubles.append(Trouble(planned.lane, error.message, error.hint, error.details))
            if self.settings.cancel.is_set():
                return self._stopped(night)
        return self._close(night, known, troubles)

    def _stopped(self, night: OpenNight) -> NightReport:
        """Return the report of a night that the next one goes on with."""
        return NightReport(night.id, NightState.STOPPED, 130, title=self.lab.title)

    def _lane(self, night: OpenNight, lane: Lane, planned: LanePlan) -> None:
        """Run one lane, and what was good and is bad once more."""
        made = make_plan(lane.lab)
        entry = book.entry_of(self.store, planned.run) if planned.run else None
        if entry is None or not entry.complete:
            run = self._run(night, lane, planned, made)
            if self._carry_out(lane, run).complete:
                entry = book.entry_of(self.store, run.folder.id)
        if entry and not self.settings.cancel.is_set():
            self._once_more(lane, entry, made)

    def _carry_out(self, lane: Lane, run: OpenRun) -> Run:
        """Run what is left of a lane's run, the jobs first that took longest in the lane's last ones."""
        if self.prepare:
            self.prepare(run.plan)
            self.prepare = None
        took = history(self.store, 2, [entry.run for entry in book.entries(self.store, lane.name)[::-1]])
        settings = dataclasses.replace(self.settings, seconds=estimate(run.plan, took).steps)
        with self.progress() as progress:
            return self._session(lane).carry_out(run, settings, progress).run

    def _session(self, lane: Lane) -> Session:
        return Session(dataclasses.replace(lane.lab, settle_s=self.lab.nightly.settle_s), self.store, self.host)

    def _run(self, night: OpenNight, lane: Lane, planned: LanePlan, made: Plan) -> OpenRun:
        """Return a lane's run: the one that it began with, or a new one."""
        if planned.run in self.store.ids():
            try:
                run_dir = self.store.open_run(planned.run)
            except LabError as error:
                self.say(f"{lane.name}: {error.message}; its run begins anew")
            else:
                self.say(f"{lane.name}: going on with run {run_dir.id}")
                return OpenRun(run_dir, made, run_dir.load_plan())
        elif planned.run:
            self.say(f"{lane.name}: the folder of run {planned.run} is gone; it begins anew")
        title = f"{self.lab.title}, {lane.name}".lstrip(", ")
        origin = Origin(lane.name, night.id, planned.digest, planned.heads)
        how = RunPlan(kind=RunKind.NIGHT, variant=lane.variant, trace=False, origin=origin)
        run = self._session(lane).begin(made, how, title=title, command=self.settings.command)
        night.begun(lane.name, run.folder.id)
        self.say(f"{lane.name}: run {run.folder.id}")
        return run

    def _once_more(self, lane: Lane, entry: Entry, made: Plan) -> None:
        """Run again what was good last night and is bad now, on its column and on the base, into the same run."""
        with self.store.database() as connection:
            wanted = doubtful(History(connection), entry)
        count = self.lab.nightly.again
        if not wanted or not count or entry.run not in self.store.ids():
            return
        base = made.base
        repeated = make_plan(lane.lab, repeat=lane.lab.repeat + count)
        subjects = {subject for subject, _ in wanted}
        columns = {*wanted, *((subject, base) for subject in subjects)}
        extra = [
            job for job in repeated.jobs if job.repeat > lane.lab.repeat and (_subject(job), job.column) in columns
        ]
        if not extra:
            return
        self.say(f"{lane.name}: {len(wanted)} bad or odd since last night, run {count} times more")
        run_dir = self.store.open_run(entry.run)
        more = dataclasses.replace(made, jobs=(*made.jobs, *extra))
        self._carry_out(lane, OpenRun(run_dir, more, run_dir.load_plan()))

    def _close(self, night: OpenNight, known: Known, troubles: list[Trouble]) -> NightReport:
        """Say what the night brought, store it, and prune."""
        found: list[News] = []
        searches: dict[str, SearchCommand] = {}
        runs: dict[str, str] = {}
        moved: dict[str, Mapping[str, str]] = {}
        codes = [3] if troubles else []
        notes = [f"known issue expired: {issue.case or issue.splat} ({issue.reason})" for issue in known.expired]
        with self.store.database() as connection:
            history = History(connection)
            entries = {entry.run: entry for entry in history.entries()}
            for planned in night.plan.lanes:
                entry = entries.get(planned.run)
                if entry is None or not entry.complete:
                    codes.append(3)
                    continue
                before = [e for e in entries.values() if e.lane == entry.lane and e.id < entry.id and e.usable]
                runs[entry.lane] = entry.run
                moved[entry.lane] = commit_range(before[-1] if before else None, entry)
                notes += self._forced(before[-1] if before else None, entry)
                pairs = [self._with_search(item, entries) for item in news(history, entry, known)]
                searches |= {item.bisect: sought for item, sought in pairs if item.bisect}
                items = [item for item, _ in pairs]
                found += items
                codes.append(_exit_code(items, entry, first=not before))
        notes += self._bisected(searches, night.id)
        if self.bisect and self.settings.cancel.is_set():
            return self._stopped(night)
        report = NightReport(
            night=night.id,
            state=NightState.DONE if runs else NightState.LOST,
            exit_code=1 if 1 in codes else max(codes, default=0),
            news=tuple(found),
            runs=runs,
            moved=moved,
            troubles=tuple(troubles),
            notes=tuple(notes),
            title=self.lab.title,
        )
        night.end(report, untold=self.tell is not None)
        return self._told(self._tidied(report))

    def _told(self, report: NightReport) -> NightReport:
        """Tell those who want to know of it; who is killed in between tells it once more."""
        if self.tell is None:
            return report
        report = dataclasses.replace(report, notes=(*report.notes, *self.tell(report)))
        book.told(self.store, report.night, report.state)
        return report

    def _tidied(self, report: NightReport) -> NightReport:
        """Prune, copy the database, write the site; what fails of it is told with the night, which is stored by now."""
        for lack, step in (("not pruned", self._prune), ("no backup", self._backup), ("no site", self._site)):
            try:
                report = step(report)
            except LabError as error:
                notes = (*report.notes, f"{lack}: {error.message}")
                report = dataclasses.replace(report, exit_code=report.exit_code or 3, notes=notes)
        return report

    def _prune(self, report: NightReport) -> NightReport:
        gone = prune(self.store, self.lab.nightly.keep, dt.datetime.now(dt.UTC))
        return dataclasses.replace(report, pruned=tuple(gone))

    def _backup(self, report: NightReport) -> NightReport:
        database.backup(self.store.root / INDEX)
        return report

    def _site(self, report: NightReport) -> NightReport:
        from kpatchlab.site.make import folder_of, make_site

        folder = folder_of(self.lab)
        if folder is None:
            return report
        made = make_site(self.store, folder, self.lab.title)
        note = f"site: {folder}/index.html, {made.written} of {made.pages} pages written"
        return dataclasses.replace(report, notes=(*report.notes, note))

    def _forced(self, before: Entry | None, entry: Entry) -> Iterable[str]:
        for kernel, head in entry.heads.items():
            old = before.heads.get(kernel, {}) if before else {}
            if forced(old, head, self.context):
                yield (
                    f"{entry.lane}: {kernel}'s branch {head['revision']} was pushed over:"
                    f" {old['commit'][:12]} is no ancestor of {head['commit'][:12]}"
                )

    def _with_search(self, item: News, entries: Mapping[str, Entry]) -> tuple[News, SearchCommand]:
        """Return the news with the command that looks for the commit or the patch, or why there is none; and that."""
        # A drift goes on: half of it has come somewhere between its beginning and now.
        began = "" if item.kind is Kind.DRIFT else item.since
        since = entries.get(began) or _newest(item.lane, entries)
        if item.kind not in ALARMS or not since:
            return item, SearchCommand()
        good = entries.get(item.good)
        found = self._on_one_line(search(good, since, item.column, _sought(item)), good, since)
        command = self.again(shlex.join(found.words)) if found.where else ""
        return dataclasses.replace(item, bisect=command, unsearchable=found.reason), found

    def _on_one_line(self, found: SearchCommand, good: Entry | None, bad: Entry) -> SearchCommand:
        """Return a search over a branch that was pushed over: from where both of its histories part."""
        if not found.where or not found.moved or not good:
            return found
        old, new = good.heads[found.moved], bad.heads[found.moved]
        if not forced(old, new, self.context):
            return found
        parted = fork(old, new, self.context)
        if not parted:
            return SearchCommand(reason=f"{found.moved}'s branch was pushed over, and its old commits are gone")
        return dataclasses.replace(found, where=dataclasses.replace(found.where, good=parted[:12]))

    def _bisected(self, searches: Mapping[str, SearchCommand], night: str) -> Iterable[str]:
        """Look for the commits of what is new, one after another, within the night's time for it."""
        if self.bisect is None:
            return
        end = time.monotonic() + self.lab.nightly.bisect_minutes * 60
        for command, sought in searches.items():
            if self.settings.cancel.is_set():
                return
            left = end - time.monotonic()
            if left <= 0:
                yield f"no time left to bisect: {command}"
                continue
            try:
                yield f"{command}: {self.bisect(sought, command, left, night)}"
            except LabError as error:
                yield f"{command}: {error.message}"
                for line in error.details:
                    self.say(f"  {line}")


def _newest(lane: str, entries: Mapping[str, Entry]) -> Entry | None:
    return max((e for e in entries.values() if e.lane == lane), key=lambda e: e.id, default=None)


def _sought(item: News) -> Sought:
    """Return what a search for an alarm's commit seeks."""
    subject, _, name = item.subject.partition(": ")
    if item.kind is Kind.NEW_FAILURE:
        return by_case(subject, name, item.case_kind)
    if item.kind is Kind.NEW_SPLAT:
        return by_splat(item.subject, item.fingerprint)
    return by_metric(subject, name, item.change)


def _subject(job: JobSpec) -> str:
    words = ",".join(f"{name}={value}" for name, value in sorted(job.params.items()))
    return f"{job.scenario}[{words}]" if words else job.scenario


def _exit_code(items: Iterable[News], entry: Entry, *, first: bool) -> int:
    """Return what one lane's run says: the first one stands for itself, later ones are held against history."""
    if first:
        return entry.exit_code
    found = {item.kind for item in items}
    return 1 if found & ALARMS else 3 if Kind.LOST in found else 0


def details(item: News) -> list[str]:
    """Return what else there is to say of a piece of news, for people."""
    reason = f"known: {item.reason}" if item.kind is Kind.KNOWN else item.reason
    words = (f"since {item.since}" if item.since else "", f"last good {item.good}" if item.good else "")
    return [word for word in (*words, reason, item.link) if word]


def lines(report: NightReport) -> Iterable[str]:
    """Yield the report for people."""
    if report.state is NightState.NOTHING_NEW:
        yield "nothing new: every branch is where the last night left it"
        return
    yield f"night {report.night}: {report.headline}" if report.night else f"no night: {report.headline}"
    for lane, run in report.runs.items():
        spans = ", ".join(f"{kernel} {span}" for kernel, span in report.moved.get(lane, {}).items())
        yield f"  {lane}: run {run}{f' ({spans})' if spans else ''}"
    for item in report.news:
        where = f"{item.lane}, {item.column}" if item.column else item.lane
        yield f"{item.kind.upper()}  {item.subject} on {where}: {item.text}"
        if text := ", ".join(details(item)):
            yield f"    {text}"
        if item.bisect:
            yield f"    {item.bisect}"
        elif item.unsearchable:
            yield f"    no commit to look for: {item.unsearchable}"
    for trouble in report.troubles:
        yield f"NOT RUN  {trouble.lane}: {trouble.message}"
        if trouble.hint:
            yield f"    hint: {trouble.hint}"
    yield from report.notes
    if report.pruned:
        yield f"pruned {len(report.pruned)} old runs; the history keeps what they were"
