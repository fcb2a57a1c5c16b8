"""One job: a scenario with one set of parameters on one placement of kernels, from saved guests to a JobResult.

`run_job` is a function of its arguments and of content-keyed artifacts alone, so that any executor can call it
anywhere. What a guest does, however bad, becomes the result's outcome; only the lab's own faults raise, and the
executor turns those into INFRA.
"""

from __future__ import annotations

import contextlib
import io
import secrets
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from kpatchlab import results_in, warm
from kpatchlab.cache import Cache
from kpatchlab.console import find_splats
from kpatchlab.decode import Decoder
from kpatchlab.errors import GuestLost, UserError
from kpatchlab.guest.vm import Boot, Exit, Guest, Identity, SavedGuest, boot, link, resume
from kpatchlab.model import BuildResult, Case, GuestLog, JobResult, Outcome, ReachCount, Splat
from kpatchlab.plan import JobSpec
from kpatchlab.scenario import Reach, Role, Scenario, payload

SERVER, CLIENT, PREFIX = "10.77.0.1", "10.77.0.2", "/24"
ADDRESSES = {"server": SERVER, "client": CLIENT}
DEVICE = "eth0"
TAIL_BYTES = 16 << 10
"""How much of a console and of a script's output goes into the result itself; the whole lies beside it."""
ATTACH_BYTES = 32 << 20
SETTLE_S = 0.15
"""How long a guest is left to print a late splat after its last script has ended."""


@dataclass(frozen=True, slots=True)
class JobInputs:
    """All that a job works on.

    Attributes:
        kernels: kernel name -> its build, with the artifact's absolute path.
        boots: role -> what its guest boots.
        packages: Debian packages in the root.
        out: the run's folder; paths in the result are relative to it.
        folder: the job's own folder, below `out`.
        reproduce: command line that runs this job alone.
        cancel: set to end the job early; its result then says INFRA.
        guest: "fork" for saved guests, "vng" for virtme-ng on the host's own root.
    """

    spec: JobSpec
    scenario: Scenario
    kernels: Mapping[str, BuildResult]
    boots: Mapping[str, Boot]
    packages: frozenset[str]
    lab_root: Path
    cache: Cache
    out: Path
    folder: Path
    console_bytes: int = 4 << 20
    reproduce: str = ""
    cancel: threading.Event = field(default_factory=threading.Event)
    guest: str = "fork"


@dataclass(slots=True)
class Seat:
    """One role while its guest runs."""

    role: str
    kernel: str
    how: warm.Preparation
    saved: SavedGuest | None = None
    guest: Guest | None = None
    before: bytes = b""  # the console from before this job: boot and preparation
    counted: list[str] = field(default_factory=list)

    def environment(self, inputs: JobInputs) -> dict[str, str]:
        """Return the environment of the scenario's scripts in this role."""
        params = {f"LAB_{name.upper()}": value for name, value in inputs.spec.params.items()}
        return _environment(self.role) | params


@dataclass(slots=True)
class _Record:
    """What a job has found so far."""

    cases: list[Case] = field(default_factory=list)
    splats: list[Splat] = field(default_factory=list)
    reach: list[ReachCount] = field(default_factory=list)
    metrics: tuple[results_in.Metric, ...] = ()
    attachments: list[str] = field(default_factory=list)
    outcome: Outcome = Outcome.PASS
    message: str = ""
    guest_s: float = 0.0
    stdout: bytes = b""
    stderr: bytes = b""

    def worsen(self, outcome: Outcome, message: str) -> None:
        """Let the worst outcome, and the first message of it, stand."""
        order = (Outcome.PASS, Outcome.SKIP, Outcome.FAIL, Outcome.TIMEOUT, Outcome.CRASH, Outcome.INFRA)
        if order.index(outcome) > order.index(self.outcome):
            self.outcome, self.message = outcome, message


def preflight(inputs: JobInputs) -> tuple[Outcome, str] | None:
    """Say why a job cannot run on these kernels: BLOCKED by a build, or SKIP for what they lack; None: it can."""
    needs = inputs.scenario.needs
    if lacking := [name for name in needs.packages if name not in inputs.packages]:
        return Outcome.SKIP, f"the root lacks {', '.join(lacking)}"
    for role, name in inputs.spec.placement.items():
        build = inputs.kernels[name]
        if build.outcome is not Outcome.PASS:
            return Outcome.BLOCKED, f"kernel {name} does not build: {build.error}"
        for failure in build.module_failures:
            hit = [m for m in needs.modules if _same(m, failure.module) or any(_same(m, d) for d in failure.dependents)]
            if hit:
                where = f"{failure.source}:{failure.line}" if failure.line else failure.source
                through = "" if _same(hit[0], failure.module) else f"{hit[0]} needs "
                return (
                    Outcome.BLOCKED,
                    f"{through}{failure.module} of kernel {name} does not build: {where}: {failure.error}",
                )
        if lacks := _lacks(Path(build.path), needs.config, needs.modules):
            return Outcome.SKIP, f"kernel {name} ({role}) lacks {', '.join(lacks)}"
    return None


def _same(a: str, b: str) -> bool:
    return a.replace("-", "_") == b.replace("-", "_")


def _lacks(kernel: Path, symbols: Sequence[str], modules: Sequence[str]) -> list[str]:
    on = set()
    for line in (kernel / "config").read_text(errors="replace").splitlines():
        name, _, value = line.partition("=")
        if value in {"y", "m"}:
            on.add(name.removeprefix("CONFIG_"))
    lacking = [f"CONFIG_{s}" for s in symbols if s.removeprefix("CONFIG_") not in on]
    if modules and not lacking:
        have = {
            Path(line.split(":")[0]).name.split(".ko")[0].replace("-", "_")
            for name in ("modules.dep", "modules.builtin")
            if (kernel / name).exists()
            for line in (kernel / name).read_text().splitlines()
        }
        lacking = [f"module {m}" for m in modules if m.replace("-", "_") not in have]
    return lacking


@contextlib.contextmanager
def occupied(inputs: JobInputs) -> Iterator[list[Seat]]:
    """Have a job's guests up for the time of a `with`, at the point where its scenario starts.

    Raises:
        warm.PrepareFailed: one of them does not come that far.
        GuestLost: one of them died.
    """
    seats = _seats(inputs)
    try:
        start_guests(inputs, seats)
        yield seats
    finally:
        for seat in seats:
            if seat.guest is not None:
                seat.guest.close()


def setup(inputs: JobInputs, seats: Sequence[Seat]) -> None:
    """Run the set-up scripts alone; for a person who goes on by hand.

    Raises:
        UserError: one of them failed.
    """
    record = _Record()
    if not _steps(inputs, seats, record, "setup"):
        raise UserError(record.message)


def run_job(inputs: JobInputs) -> JobResult:
    """Run one job and judge it; see the module's docstring."""
    began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    record = _Record()
    seats = _seats(inputs)
    if reason := preflight(inputs):
        record.outcome, record.message = reason
        seats = []
    else:
        try:
            with _watching(inputs.cancel, seats):
                _play(inputs, seats, record)
        except warm.PrepareFailed as failed:
            lost = failed.lost and failed.lost.reason in {"panic", "hang"}
            record.worsen(Outcome.CRASH if lost else Outcome.FAIL, f"preparation: {failed.message}")
            _judge_log(inputs, record, "preparation", next(iter(inputs.spec.placement.values())), failed.console)
        finally:
            for seat in seats:
                if seat.guest is not None:
                    seat.guest.close()
    logs = tuple(_judge_seat(inputs, seat, record) for seat in seats if seat.guest is not None)
    record.cases.insert(0, Case("job", record.outcome, record.message, duration_s=time.monotonic() - began))
    whole = time.monotonic() - began
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
        guests=logs,
        attachments=tuple(record.attachments),
        started=started,
        duration_s=whole,
        guest_s=record.guest_s,
        overhead_s=max(0.0, whole - record.guest_s),
        stdout_tail=record.stdout[-TAIL_BYTES:].decode("utf-8", "replace"),
        stderr_tail=record.stderr[-TAIL_BYTES:].decode("utf-8", "replace"),
        reproduce=inputs.reproduce,
    )


@contextlib.contextmanager
def _watching(cancel: threading.Event, seats: Sequence[Seat]) -> Iterator[None]:
    """Close the guests as soon as the job is cancelled: whatever waits for them then gets GuestLost."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            if cancel.is_set():
                for seat in seats:
                    if seat.guest is not None:
                        seat.guest.close()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _seats(inputs: JobInputs) -> list[Seat]:
    scenario, spec = inputs.scenario, inputs.spec
    files = payload(scenario, spec.params, inputs.lab_root)
    library = tuple(f for f in files if f[0].startswith(f"{warm.LIB}/"))
    seats = []
    for number, (role, wanted) in enumerate(scenario.roles.items(), 1):
        address = ADDRESSES[role] + PREFIX if len(scenario.roles) > 1 else ""
        identity = Identity(role, f"52:54:00:77:00:{number:02x}", address, f"{number:032x}", bytes(32))
        how = warm.Preparation(
            identity, scenario.needs.modules, tuple(wanted.prepare), library, tuple(_environment(role).items())
        )
        seats.append(Seat(role, spec.placement[role], how))
    return seats


def _environment(role: str) -> dict[str, str]:
    """Return what is in the environment of every script of a role, in preparation and in the job itself."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "LAB_ROLE": role,
        "LAB_SERVER": SERVER,
        "LAB_CLIENT": CLIENT,
        "LAB_DEV": DEVICE,
        "LAB_LIB": warm.LIB,
        "LAB_ATTACH": "/lab/attach",
        "LAB_TMP": "/tmp/lab",  # noqa: S108 - in the guest
    }


def fresh_identity(how: warm.Preparation) -> Identity:
    """Return an identity that no other fork of the same saved guest has; the IP address stays the role's.

    A guest with preparation scripts keeps its MAC address, which is safe since the cable between two guests is theirs
    alone: a soft-iWARP device that the preparation made keeps the GID of the address it was made with, and with
    another one 6.1 cannot connect.
    """
    fresh = "52:54:00:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3))
    return Identity(
        hostname=f"{how.identity.hostname}-{secrets.token_hex(2)}",
        mac=how.identity.mac if how.scripts else fresh,
        address=how.identity.address,
        machine_id=secrets.token_hex(16),
        seed=secrets.token_bytes(64),
    )


def start_guests(inputs: JobInputs, seats: Sequence[Seat]) -> None:
    """Bring every seat's guest to where its scenario starts, all of them at once."""
    cable: Sequence[int | None] = link() if len(seats) > 1 else (None,)

    def start(pair: tuple[Seat, int | None]) -> None:
        seat, fd = pair
        spec, log = inputs.boots[seat.role], inputs.folder / f"console-{seat.role}.log"
        label = f"{seat.kernel}"
        if inputs.scenario.cold:
            seat.guest = boot(spec, console_path=log, link_fd=fd, deadline_s=warm.BOOT_DEADLINE_S)
            warm.prepare(seat.guest, seat.how)
        else:
            base = warm.booted(spec, inputs.cache, label)
            seat.saved = warm.prepared(base, seat.how, inputs.cache, f"{label} {seat.role} {inputs.scenario.name}")
            seat.before = warm.console_of(seat.saved)
            seat.guest = resume(seat.saved, console_path=log, link_fd=fd, console_limit_bytes=inputs.console_bytes)
        seat.guest.identify(fresh_identity(seat.how))
        files = payload(inputs.scenario, inputs.spec.params, inputs.lab_root)
        extra = [("/lab/attach/.keep", b"", 0o644), ("/tmp/lab/.keep", b"", 0o644)]  # noqa: S108 - in the guest
        seat.guest.put_many([*files, *extra])

    # One after the other where nothing is saved yet, so that two roles of one kernel share the boot.
    with ThreadPoolExecutor(len(seats)) as pool:
        list(pool.map(start, zip(seats, cable, strict=True)))


def _play(inputs: JobInputs, seats: list[Seat], record: _Record) -> None:
    """Start the guests, run the scenario's steps in order, and collect what they left."""
    try:
        start_guests(inputs, seats)
        for seat in seats:
            _start_counting(inputs, seat)
        if _steps(inputs, seats, record, "setup") and _run(inputs, seats, record):
            _steps(inputs, seats, record, "finish")
        for seat in seats:
            _read_counts(inputs, seat, record)
            _attachments(inputs, seat, record)
        time.sleep(SETTLE_S)
    except GuestLost as lost:
        outcome = {"panic": Outcome.CRASH, "hang": Outcome.CRASH, "silence": Outcome.CRASH}.get(
            lost.reason, Outcome.INFRA
        )
        roles = [seat.role for seat in seats if seat.guest is not None and seat.guest.lost is not None]
        record.worsen(outcome, f"{' and '.join(roles) or 'guest'} lost: {lost}")


def _script(seat: Seat, inputs: JobInputs, script: str) -> Exit:
    assert seat.guest is not None
    return seat.guest.run(
        [f"/lab/scenario/{script.removesuffix('.j2')}"],
        env=seat.environment(inputs),
        cwd="/lab/scenario",
        timeout_s=inputs.spec.timeout_s,
    )


def _steps(inputs: JobInputs, seats: Sequence[Seat], record: _Record, step: str) -> bool:
    """Run one set-up or finishing step of every role, in order; False where one failed."""
    order = seats if step == "setup" else list(reversed(seats))
    for seat in order:
        role: Role = inputs.scenario.roles[seat.role]
        script = getattr(role, step)
        if not script or seat.guest is None:
            continue
        done = _script(seat, inputs, script)
        record.guest_s += done.duration_s
        _keep_output(inputs.folder, f"{seat.role}-{step}", done)
        if done.timed_out or done.status != 0:
            said = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines() or ["no output"]
            kind = Outcome.TIMEOUT if done.timed_out else Outcome.FAIL
            how = f"ran longer than {inputs.spec.timeout_s:g} s" if done.timed_out else _ended(done)
            record.worsen(kind, f"{seat.role}: {script} ({step}) {how}: {said[-1][:300]}")
            record.stderr = record.stderr or done.stderr
            return False
    return True


def _ended(done: Exit) -> str:
    return f"was killed by signal {done.signal}" if done.signal else f"exited with {done.status}"


def _keep_output(folder: Path, name: str, done: Exit) -> None:
    for suffix, data in (("out", done.stdout), ("err", done.stderr)):
        if data:
            (folder / f"{name}.{suffix}").write_bytes(data)


def _run(inputs: JobInputs, seats: Sequence[Seat], record: _Record) -> bool:
    seat = next(s for s in seats if inputs.scenario.roles[s.role].run)
    script = inputs.scenario.roles[seat.role].run
    done = _script(seat, inputs, script)
    record.guest_s += done.duration_s
    record.stdout, record.stderr = done.stdout, done.stderr
    _keep_output(inputs.folder, f"{seat.role}-run", done)
    parsed = results_in.parse(done.stdout, exit_status=None if done.timed_out or done.signal else done.status)
    record.cases += parsed.cases
    record.metrics = parsed.metrics
    for case in parsed.cases:
        if case.outcome.is_bad:
            record.worsen(Outcome.FAIL, f"{case.name}: {case.message}" if case.message else f"{case.name} failed")
    if parsed.cases and all(case.outcome is Outcome.SKIP for case in parsed.cases):
        record.worsen(Outcome.SKIP, parsed.cases[0].message)
    if done.timed_out:
        record.worsen(Outcome.TIMEOUT, f"{script} ran longer than {inputs.spec.timeout_s:g} s")
    elif done.signal:
        record.worsen(Outcome.FAIL, f"{script} was killed by signal {done.signal}")
    problems = list(parsed.problems)
    if done.stdout_total > len(done.stdout):
        problems.append(f"printed {done.stdout_total} bytes, more than is kept")
    for problem in problems:
        record.worsen(Outcome.FAIL, problem)
    return True


def _condition(rule: Reach, seat: Seat) -> str:
    """Return why a reach rule does not hold for this guest's kernel, or "" where it does."""
    wanted = [s for s in (rule.if_symbol, rule.unless_symbol) if s]
    have = warm.symbols_of(seat.saved, wanted) if seat.saved and wanted else frozenset[str]()
    if rule.if_symbol and rule.if_symbol not in have:
        return f"condition: only where the kernel has {rule.if_symbol}"
    if rule.unless_symbol and rule.unless_symbol in have:
        return f"condition: only where the kernel lacks {rule.unless_symbol}"
    return ""


def _start_counting(inputs: JobInputs, seat: Seat) -> None:
    rules = [rule for rule in inputs.scenario.reach if rule.applies(seat.role, inputs.spec.params)]
    names = dict.fromkeys(rule.function for rule in rules if not _condition(rule, seat))
    if names and seat.guest is not None:
        seat.counted = list(names)
        seat.guest.run([f"{warm.LIB}/reach", "start", *names], timeout_s=60)


def _read_counts(inputs: JobInputs, seat: Seat, record: _Record) -> None:
    """Make one case of each rule; what does not apply to this kernel is a SKIP with its reason."""
    counts: dict[str, int] = {}
    if seat.counted and seat.guest is not None:
        done = seat.guest.run([f"{warm.LIB}/reach", "read"], timeout_s=60)
        for line in done.stdout.decode("utf-8", "replace").splitlines():
            name, _, number = line.rpartition(" ")
            with contextlib.suppress(ValueError):
                counts[name] = int(number)
        record.reach += [ReachCount(seat.role, name, counts.get(name, -1)) for name in seat.counted]
    for rule in inputs.scenario.reach:
        if not rule.applies(seat.role, inputs.spec.params):
            continue
        reason = _condition(rule, seat)
        name = f"reach: {rule.function} ({seat.role})"
        if reason:
            record.cases.append(Case(name, Outcome.SKIP, reason))
            continue
        case = _reach_case(name, rule, counts.get(rule.function))
        record.cases.append(case)
        if case.outcome.is_bad and record.outcome in {Outcome.PASS, Outcome.SKIP}:
            record.worsen(Outcome.FAIL, f"{name}: {case.message}")


def _reach_case(name: str, rule: Reach, count: int | None) -> Case:
    if count is None:
        return Case(name, Outcome.FAIL, "its count could not be read")
    if count < 0:
        return Case(name, Outcome.SKIP, "not traceable on this kernel")
    if rule.max is not None and count > rule.max:
        return Case(name, Outcome.FAIL, f"ran {count} times, at most {rule.max} expected")
    if count < rule.min:
        return Case(name, Outcome.FAIL, f"ran {count} times, at least {rule.min} expected")
    return Case(name, Outcome.PASS, f"ran {count} times")


def _attachments(inputs: JobInputs, seat: Seat, record: _Record) -> None:
    """Fetch what the scenario left in its attachment folder; names that climb out of it are refused."""
    if seat.guest is None:
        return
    script = 'cd /lab/attach && [ -n "$(ls)" ] && exec tar -c --exclude=./.keep .; :'
    done = seat.guest.run(["/bin/sh", "-c", script], timeout_s=60, keep_bytes=2 * ATTACH_BYTES)
    if not done.stdout or done.stdout_total > len(done.stdout):
        return
    with contextlib.suppress(tarfile.TarError), tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        for member in archive:
            if member.isfile():
                target = inputs.folder / f"attach-{seat.role}"
                archive.extract(member, target, filter="data")
                record.attachments.append(str((target / member.name).relative_to(inputs.out)))


def _judge_seat(inputs: JobInputs, seat: Seat, record: _Record) -> GuestLog:
    """Look for splats in one guest's console, and make the case of the clean log."""
    assert seat.guest is not None
    console = seat.guest.console
    _judge_log(inputs, record, seat.role, seat.kernel, seat.before + b"\n" + console.data())
    data = console.data()
    path = inputs.folder / f"console-{seat.role}.log"
    return GuestLog(
        seat.role,
        seat.kernel,
        str(path.relative_to(inputs.out)),
        data[-TAIL_BYTES:].decode("utf-8", "replace"),
        console.total,
        console.total > len(data),
    )


def _judge_log(inputs: JobInputs, record: _Record, role: str, kernel: str, log: bytes) -> None:
    splats = find_splats(log)
    if splats and not inputs.scenario.expect_splat:
        artifact = Path(inputs.kernels[kernel].path)
        decoder = Decoder(artifact / "vmlinux", artifact / "modules-debug")
        splats = [decoder.decode(splat) for splat in splats]
        first = splats[0]
        more = f" (and {len(splats) - 1} more)" if len(splats) > 1 else ""
        record.worsen(Outcome.CRASH, f"{role} ({kernel}): {first.title}{more}")
        record.cases.append(Case(f"log: {role}", Outcome.CRASH, first.title + more, first.decoded or first.text))
    else:
        record.cases.append(Case(f"log: {role}", Outcome.PASS))
    record.splats += splats
