"""One job: a scenario with one set of parameters on one placement of kernels, from saved guests to a JobResult.

`run_job` is a function of its arguments and of content-keyed artifacts alone, so that any executor can call it
anywhere; what it writes lies in the job's own folder. What a guest does, however bad, becomes the result's outcome;
only the lab's own faults raise, and the executor turns those into INFRA.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from kpatchlab.errors import GuestLost, GuestRefused, Loss, UserError
from kpatchlab.evidence import printed
from kpatchlab.guest.vm import Exit
from kpatchlab.model import CaseKind, JobResult, Outcome, job_case
from kpatchlab.plan.needs import lacking_packages, refusal
from kpatchlab.run import attachments, judge, leftovers, saved, settle, stacks, starved, taint
from kpatchlab.run.guests import JobGuest, guests_of, occupied
from kpatchlab.run.inputs import Here, JobInputs, resolve
from kpatchlab.run.reach import Counters
from kpatchlab.run.task import JobTask
from kpatchlab.variants import coverage, debug

LOST_BYTES = 4 << 20
"""How much of a script's output is read that its guest did not live to end."""


def preflight(inputs: JobInputs) -> tuple[Outcome, str] | None:
    """Say why a job cannot run on these kernels: BLOCKED by a build, or SKIP for what they lack; None: it can."""
    needs = inputs.scenario.needs
    vng = inputs.task.guest == "vng"
    if vng and len(inputs.scenario.roles) > 1:
        return Outcome.SKIP, "virtme-ng runs scenarios of one guest"
    if not vng and (lacking := lacking_packages(needs, inputs.packages)):
        return Outcome.SKIP, lacking
    for role, name in inputs.spec.placement.items():
        kernel = inputs.kernels[name]
        if found := refusal(needs, kernel.build, inputs.artifact(name)):
            outcome, reason = found
            return outcome, reason if outcome is Outcome.BLOCKED else f"kernel {name} ({role}) {reason}"
        for tests in inputs.spec.foreign:
            built = kernel.tests[tests]
            if built.outcome is not Outcome.PASS:
                return built.outcome, f"{tests} of kernel {name}: {built.reason}"
    return None


def setup(inputs: JobInputs, guests: Sequence[JobGuest]) -> None:
    """Run the set-up scripts alone; for a person who goes on by hand.

    Raises:
        UserError: one of them failed.
    """
    record = judge.Record()
    if not _steps(inputs, guests, record, "setup"):
        raise UserError(record.message)


def run_job(task: JobTask, here: Here) -> JobResult:
    """Run one job and judge it; see the module's docstring. Paths in the result are relative to the job's folder.

    Raises:
        LabError: the lab itself could not run it.
    """
    inputs = resolve(task, here)
    began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    record = judge.Record()
    guests: list[JobGuest] = []
    if reason := preflight(inputs):
        record.outcome, record.message = reason
    else:
        guests = guests_of(inputs)
        _play(inputs, guests, record)
    logs = [judge.guest_log(inputs, guest, record) for guest in guests if guest.vm is not None]
    there = {log.role for log in logs}
    logs += [log for log in record.never_up if log.role not in there]
    whole = time.monotonic() - began - record.idle_s
    sent_bytes, sent_calls = leftovers.work(record.stdout)
    record.cases.insert(0, job_case(record.outcome, record.message, record.told(), whole))
    return JobResult(
        job=inputs.spec.id,
        scenario=inputs.spec.scenario,
        params=dict(inputs.spec.params),
        column=inputs.spec.column,
        placement=dict(inputs.spec.placement),
        repeat=inputs.spec.repeat,
        outcome=record.outcome,
        message=record.message,
        cases=tuple(record.cases),
        metrics=record.metrics,
        splats=tuple(record.splats),
        reach=tuple(record.reach),
        patched=tuple(record.patched),
        guests=tuple(logs),
        attachments=tuple(record.attachments),
        started=started,
        duration_s=whole,
        guest_s=record.guest_s,
        overhead_s=max(0.0, whole - record.guest_s),
        stdout_tail=record.stdout[-judge.TAIL_BYTES :].decode("utf-8", "replace"),
        stderr_tail=record.stderr[-judge.TAIL_BYTES :].decode("utf-8", "replace"),
        reported=record.reported,
        mode=inputs.mode,
        because=record.because,
        withheld_s=max([record.withheld_s, *(guest.vm.withheld_s() for guest in guests if guest.vm is not None)]),
        turns=inputs.spec.turns,
        images=inputs.spec.images,
        sent_bytes=sent_bytes,
        sent_calls=sent_calls,
        left=tuple(left for role, looks in record.looks.items() for left in leftovers.left(role, looks)),
    )


def _play(inputs: JobInputs, guests: Sequence[JobGuest], record: judge.Record) -> None:
    """Start the guests, run the scenario's steps in order, and collect what they left."""
    try:
        with occupied(inputs, guests):
            every, params = inputs.scenario.reach, inputs.spec.params
            rules = [[rule for rule in every if rule.applies(guest.role, params)] for guest in guests]
            counters = [
                Counters(guest.role, wanted, guest.has_symbol, inputs.kernels[guest.kernel].patched)
                for guest, wanted in zip(guests, rules, strict=True)
            ]
            for guest, counter in zip(guests, counters, strict=True):
                assert guest.vm is not None
                guest.readings = taint.read(guest.vm), taint.Reading()
                if inputs.kernels[guest.kernel].debug:
                    debug.forget_leaks(guest.vm)
                if inputs.kernels[guest.kernel].covered:
                    coverage.reset(guest.vm)
                counter.start(guest.vm)
            _look(guests, record)
            if _steps(inputs, guests, record, "setup"):
                _run(inputs, guests, record)
                _more_turns(inputs, guests, record)
                _steps(inputs, guests, record, "finish")
            for guest, counter in zip(guests, counters, strict=True):
                assert guest.vm is not None
                reached, patched, cases = counter.read(guest.vm)
                record.reach += reached
                record.patched += patched
                record.cases += cases
                taken, left_out = attachments.fetch(guest.vm, inputs.folder, guest.role)
                record.attachments += taken
                record.notes += [f"attachment of {guest.role} not taken: {line}" for line in left_out]
                if inputs.kernels[guest.kernel].covered and (data := coverage.fetch(guest.vm)):
                    (inputs.folder / coverage.DATA.format(role=guest.role)).write_bytes(data)
            _settle(inputs, guests, record)
    except saved.PrepareFailed as failed:
        record.never_up.append(judge.never_up(inputs, failed))
        record.withheld_s = failed.withheld_s
        died = judge.has_died(failed.lost)
        record.worsen(
            judge.blame(inputs, failed.lost) if failed.lost else Outcome.FAIL, f"preparation: {failed.message}"
        )
        judge.clean_log(
            inputs, record, failed.role, failed.kernel, failed.console, died=died, preparing=True,
            made_by_host=failed.made_by_host,
        )  # fmt: skip
    except GuestLost as lost:
        record.reported = False
        judge.loss(inputs, guests, record, lost)
    except GuestRefused as refused:
        record.reported = False
        record.worsen(Outcome.FAIL, refused.message)
    record.fail([case for case in record.cases if case.kind is CaseKind.REACH])


def _settle(inputs: JobInputs, guests: Sequence[JobGuest], record: judge.Record) -> None:
    """Let what the job left come to its end; a guest that dies of it is the job's, whose checks are all told."""
    try:
        settle.end_processes(guests)
        judge.leaks(inputs, guests, record)
        record.idle_s = settle.idle(inputs, guests)
        for guest in guests:
            assert guest.vm is not None
            guest.readings = guest.readings[0], taint.read(guest.vm)
        if inputs.spec.turns == 1:
            _look(guests, record)
    except GuestLost as lost:
        # Guests are closed soon after an oops; one that is expected has done all of its work by now.
        closed = lost.reason is Loss.EXIT and any(guest.broken for guest in guests)
        if not (closed and inputs.scenario.expect_splat):
            judge.loss(inputs, guests, record, lost)


def _script(
    inputs: JobInputs,
    guests: Sequence[JobGuest],
    record: judge.Record,
    guest: JobGuest,
    script: str,
    on_output: Callable[[str, bytes], None] | None = None,
) -> tuple[Exit, str]:
    """Run one of a scenario's scripts; returns how it ended, and what is wrong with that, or "".

    Each guest waits for the other: the slowest one sets the deadline.
    """
    assert guest.vm is not None
    scale = max(each.slowness for each in guests)
    limit_s = inputs.spec.timeout_s * scale * inputs.stretch
    stood: list[str] = []
    began = time.monotonic()
    try:
        done = guest.vm.run(
            [f"/lab/scenario/{script.removesuffix('.j2')}"],
            env=guest.environment(inputs, scale * starved.slowdown(each.vm for each in guests if each.vm is not None)),
            cwd="/lab/scenario",
            timeout_s=limit_s,
            on_output=on_output,
            on_late=lambda: stood.extend(_waits(inputs, guests, record)),
        )
    except GuestLost:
        record.guest_s += time.monotonic() - began  # it began, which not each lost job can say
        raise
    record.guest_s += done.duration_s
    if done.timed_out:
        return done, f"ran longer than {limit_s:.0f} s" + "".join(f"; {text}" for text in stood)
    if done.signal:
        return done, f"was killed by signal {done.signal}"
    return done, f"exited with {done.status}" if done.status else ""


def _waits(inputs: JobInputs, guests: Sequence[JobGuest], record: judge.Record) -> list[str]:
    """Return where each guest's processes wait, in words; their stacks become the job's details."""
    said, details = [], []
    for guest in guests:
        with contextlib.suppress(GuestLost):
            assert guest.vm is not None
            found = stacks.tasks(guest.vm)
            whole = "\n".join([f"{guest.role}:", *map(str, found)])
            details.append(judge.decoder_of(inputs, guest.kernel).text(whole))
            if told := stacks.told(found):
                said.append(f"{guest.role}: {told}" if len(guests) > 1 else told)
    record.details = "\n\n".join(details)
    return said


def _steps(inputs: JobInputs, guests: Sequence[JobGuest], record: judge.Record, step: str) -> bool:
    """Run one set-up or finishing step of every role, in order; False where one failed."""
    order = guests if step == "setup" else list(reversed(guests))
    for guest in order:
        script: str = getattr(inputs.scenario.roles[guest.role], step)
        if not script or guest.vm is None:
            continue
        done, how = _script(inputs, guests, record, guest, script)
        _keep_output(inputs.folder, f"{guest.role}-{step}", done)
        if how:
            said = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines() or ["no output"]
            kind = Outcome.TIMEOUT if done.timed_out else Outcome.FAIL
            record.worsen(kind, f"{guest.role}: {script} ({step}) {how}: {said[-1][:300]}")
            record.stderr = record.stderr or done.stderr
            return False
    return True


def _keep_output(folder: Path, name: str, done: Exit) -> None:
    for suffix, data in (("out", done.stdout), ("err", done.stderr)):
        if data:
            (folder / f"{name}.{suffix}").write_bytes(data)


def _run(inputs: JobInputs, guests: Sequence[JobGuest], record: judge.Record) -> None:
    guest = next(s for s in guests if inputs.scenario.roles[s.role].run)
    role = inputs.scenario.roles[guest.role]
    script, form = role.run, role.prints
    came, alone = bytearray(), bytearray()

    def keep(stream: str, data: bytes) -> None:
        if stream == "stdout" and len(came) + len(alone) < LOST_BYTES:
            lacks_one = any(each.vm is not None and each.vm.lost is not None for each in guests)
            (alone if lacks_one or alone else came).extend(data)

    try:
        done, how = _script(inputs, guests, record, guest, script, keep)
    except GuestLost:  # what was found before is known all the same
        record.stdout = bytes(came + alone)
        (inputs.folder / f"{guest.role}-run.out").write_bytes(record.stdout)
        whole = printed.read(form, record.stdout, exit_status=None).cases
        before = printed.read(form, bytes(came), exit_status=None).cases if alone else whole
        record.seen = len(record.cases) + len(before)
        record.cases += whole
        raise
    record.stdout, record.stderr = done.stdout, done.stderr
    _keep_output(inputs.folder, f"{guest.role}-run", done)
    ended = None if done.timed_out or done.signal else done.status
    parsed = printed.read(form, done.stdout, exit_status=ended)
    record.cases += parsed.cases
    if not alone:
        record.seen = len(record.cases)
    if not any(kernel.debug or kernel.covered for kernel in inputs.kernels.values()):  # their figures say nothing
        record.metrics = parsed.metrics
    record.fail(parsed.cases)
    if parsed.cases and all(case.outcome is Outcome.SKIP for case in parsed.cases):
        record.worsen(Outcome.SKIP, parsed.cases[0].message)
    if done.timed_out or done.signal:
        record.worsen(Outcome.TIMEOUT if done.timed_out else Outcome.FAIL, f"{script} {how}")
    problems = list(parsed.problems)
    if done.stdout_total > len(done.stdout):
        problems.append(f"printed {done.stdout_total} bytes, more than is kept")
    for problem in problems:
        record.worsen(Outcome.FAIL, problem)
    record.reported = not (problems or done.timed_out or done.signal)


def _look(guests: Sequence[JobGuest], record: judge.Record) -> None:
    """See what there is in each guest, once before the scenario and after that."""
    for guest in guests:
        assert guest.vm is not None
        looks = record.looks.setdefault(guest.role, [])
        looks.append(leftovers.look(guest.vm, drop_caches=bool(looks)))


def _more_turns(inputs: JobInputs, guests: Sequence[JobGuest], record: judge.Record) -> None:
    """Do the same work again, and look after each turn; what it says of itself is the first one's."""
    if inputs.spec.turns == 1 or not record.reported:
        return
    guest = next(s for s in guests if inputs.scenario.roles[s.role].run)
    took, stood = record.guest_s, record.details
    for turn in range(inputs.spec.turns):
        if turn and _script(inputs, guests, record, guest, inputs.scenario.roles[guest.role].run)[1]:
            break
        time.sleep(leftovers.CALM_S)
        _look(guests, record)
    record.guest_s, record.details = took, stood
