"""What a job's evidence means: whose fault a lost guest is, which splats its logs hold, what memory was lost.

`Record` is what a job has found so far; `run.job` plays the job and fills it, the functions here judge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from kpatchlab.errors import GuestLost, HostError, Loss
from kpatchlab.evidence.decode import Decoder
from kpatchlab.evidence.splats import find_splats, is_stamped
from kpatchlab.model import Case, CaseId, GuestLog, Metric, Outcome, ReachCount, Splat, log_case
from kpatchlab.run import starved, taint
from kpatchlab.run.guests import BROKEN, JobGuest, console_name
from kpatchlab.run.inputs import JobInputs
from kpatchlab.run.leftovers import Amounts
from kpatchlab.run.saved import PrepareFailed
from kpatchlab.variants import debug

TAIL_BYTES = 16 << 10
"""How much of a console and of a script's output goes into the result itself; the whole lies beside it."""
_DROPPED = re.compile(rb"^(?:\[[^\]]*\] ?)*\*\* (\d{1,18}) printk messages dropped \*\*", re.MULTILINE)
"""kernel/printk/printk.c: what a console that is too slow for the kernel misses."""


@dataclass(slots=True)
class Record:
    """What a job has found so far.

    Attributes:
        seen: how many of the cases came while every guest was there.
    """

    cases: list[Case] = field(default_factory=list)
    splats: list[Splat] = field(default_factory=list)
    reach: list[ReachCount] = field(default_factory=list)
    patched: list[ReachCount] = field(default_factory=list)
    metrics: tuple[Metric, ...] = ()
    attachments: list[str] = field(default_factory=list)
    outcome: Outcome = Outcome.PASS
    message: str = ""
    details: str = ""
    notes: list[str] = field(default_factory=list)
    guest_s: float = 0.0
    idle_s: float = 0.0
    stdout: bytes = b""
    stderr: bytes = b""
    reported: bool = False
    because: tuple[CaseId, ...] = ()
    never_up: list[GuestLog] = field(default_factory=list)
    withheld_s: float = 0.0
    seen: int = 0
    looks: dict[str, list[Amounts]] = field(default_factory=dict)

    def worsen(self, outcome: Outcome, message: str, because: Sequence[Case] = ()) -> None:
        """Let the worst outcome stand, with what came to it first: a message, and the cases that it is about."""
        order = (Outcome.PASS, Outcome.SKIP, Outcome.FAIL, Outcome.TIMEOUT, Outcome.CRASH, Outcome.INFRA)
        if order.index(outcome) > order.index(self.outcome):
            self.outcome, self.message, self.because = outcome, message, tuple(case.id for case in because)

    def told(self) -> str:
        """Return the job's details, and what else there is to say of it."""
        return "\n".join(filter(None, [self.details, *self.notes]))

    def fail(self, cases: Sequence[Case]) -> None:
        """Let the bad ones among these cases make the job fail."""
        if bad := [case for case in cases if case.outcome.is_bad]:
            reason = bad[0].message or next(iter(bad[0].details.splitlines()), "not ok")
            self.worsen(Outcome.FAIL, f"{bad[0].name}: {reason}", bad)


def loss(inputs: JobInputs, guests: Sequence[JobGuest], record: Record, lost: GuestLost) -> None:
    """Say whose fault a lost guest is, and keep what was seen of the kernel before."""
    for guest in guests:
        if guest.vm is not None and has_died(guest.vm.lost) and not guest.broken:
            found = find_splats(guest.vm.console.data(), died=True)
            guest.broken = next((splat for splat in found if splat.kind in BROKEN), None)
    if broken := next((guest for guest in guests if guest.broken), None):
        assert broken.broken is not None
        record.worsen(Outcome.CRASH, f"{broken.role} ({broken.kernel}): {broken.broken.title}")
        return
    roles = " and ".join(guest.role for guest in guests if guest.vm is not None and guest.vm.lost is not None)
    why = f"{roles or 'guest'} lost: {lost}"
    whose = blame(inputs, lost)
    if whose is Outcome.INFRA:
        seen = record.seen if lost.reason is Loss.CRASH and not inputs.here.cancel.is_set() else 0
        # A peer that is gone fails checks in the guest that is left.
        record.cases[seen:] = [
            replace(case, outcome=whose, message=why) if case.outcome.is_bad else case for case in record.cases[seen:]
        ]
        if any(case.outcome.is_bad for case in record.cases):
            record.fail(record.cases)  # a guest that ends QEMU does not take back what it has shown
            return
    else:
        record.fail(record.cases)
    record.worsen(whose, why)


def has_died(lost: GuestLost | None) -> bool:
    """Whether a guest is known to have stopped: what its console shows of a panic is then believed."""
    return lost is not None and lost.reason in {Loss.PANIC, Loss.HANG}


def blame(inputs: JobInputs, lost: GuestLost) -> Outcome:
    """Return whose a lost guest is.

    CRASH: its kernel ended it. FAIL: it switched itself off, and what was to come did not. INFRA: QEMU, the user or the
    host did, which may have starved it.
    """
    if inputs.here.cancel.is_set():
        return Outcome.INFRA
    if lost.reason.is_kernels:
        return Outcome.CRASH
    return Outcome.FAIL if lost.reason is Loss.OFF else Outcome.INFRA


def leaks(inputs: JobInputs, guests: Sequence[JobGuest], record: Record) -> None:
    """Have kernels with debugging look for memory that was lost, all guests at once."""
    slow = [guest for guest in guests if inputs.kernels[guest.kernel].debug]
    asked = [(guest.vm, guest.role) for guest in slow if guest.vm is not None]
    if not asked:
        return
    with ThreadPoolExecutor(len(asked)) as pool:
        cases = [case for case in pool.map(lambda guest_role: debug.leaks(*guest_role), asked) if case is not None]
    record.cases += cases
    record.fail(cases)


def guest_log(inputs: JobInputs, guest: JobGuest, record: Record) -> GuestLog:
    """Look for splats in one guest's console, and make the cases of the clean log and of the kernel's taint.

    Raises:
        HostError: the console could not be stored: there is nothing to show for what would be said of it.
    """
    assert guest.vm is not None
    console = guest.vm.console
    if console.unwritten:
        raise HostError(f"cannot write {console.path.name}: {console.unwritten}", hint="is the disk full?")
    data = console.data()
    died = has_died(guest.vm.lost)
    missing = console.total - len(data)
    cut = f"{missing} bytes of the log are not kept" if missing > 0 else ""
    log = guest.before + b"\n" + data
    cut = cut or taint.hidden(*guest.readings, stamped=is_stamped(log))
    made = partial(starved.made_by_host, guest.vm)
    splats = clean_log(inputs, record, guest.role, guest.kernel, log, died=died, cut=cut, made_by_host=made)
    earlier = find_splats(guest.before, whole=False) if guest.before and guest.readings[1].bits else []
    if case := taint.judged(guest.role, *guest.readings, earlier, splats):
        record.cases.append(case)
        record.fail([case])
    return _log(guest.role, guest.kernel, data, console.total)


def _log(role: str, kernel: str, data: bytes, total: int) -> GuestLog:
    tail = data[-TAIL_BYTES:].decode("utf-8", "replace")
    return GuestLog(role, kernel, console_name(role), tail, total, total > len(data))


def never_up(inputs: JobInputs, failed: PrepareFailed) -> GuestLog:
    """Keep the console of a guest that never came to where its scenario starts, in the job's own folder."""
    path = inputs.folder / console_name(failed.role)
    if not path.exists() or path.stat().st_size < len(failed.console):
        path.write_bytes(failed.console)
    return _log(failed.role, failed.kernel, failed.console, len(failed.console))


def clean_log(
    inputs: JobInputs,
    record: Record,
    role: str,
    kernel: str,
    log: bytes,
    *,
    died: bool,
    cut: str = "",
    preparing: bool = False,
    made_by_host: Callable[[Sequence[Splat]], Sequence[Splat]],
) -> list[Splat]:
    """Make the case of a clean log, and return every splat in it, those of the host's making as well.

    Args:
        cut: what of it is missing, where a splat may have stood.
        preparing: the guest did not come to where its scenario starts.
        made_by_host: returns those of some splats that say nothing of the kernel, see `starved`; the log is not called
            clean for all that.
    """
    if dropped := sum(int(count) for count in _DROPPED.findall(log)):
        cut = cut or f"the kernel dropped {dropped} messages"
    decoder = decoder_of(inputs, kernel)
    found_in_log = find_splats(log, died=died)
    excused = made_by_host(found_in_log)
    splats = [decoder.decode(splat) for splat in found_in_log if splat not in excused]
    if excused and not splats:
        why = f"the host kept the processor from the guest: {excused[0].title}"
        record.worsen(Outcome.INFRA, f"{role} ({kernel}): {why}")
        found = Outcome.INFRA, why, excused[0].text
    elif splats and not inputs.scenario.expect_splat:
        first = splats[0]
        more = f" (and {len(splats) - 1} more)" if len(splats) > 1 else ""
        who = f"preparation of {kernel}" if preparing else role
        record.worsen(Outcome.CRASH, f"{who} ({kernel}): {first.title}{more}")
        found = Outcome.CRASH, first.title + more, first.decoded or first.text
    else:
        found = Outcome.SKIP if cut else Outcome.PASS, cut, ""
    case = log_case(role, *found, preparing=kernel if preparing else "")
    record.cases.append(case)
    if case.outcome is record.outcome is Outcome.CRASH:
        record.because += (case.id,)
    record.splats += splats
    return found_in_log


def decoder_of(inputs: JobInputs, kernel: str) -> Decoder:
    """Return what adds file and line to the splats of one kernel."""
    artifact = inputs.artifact(kernel)
    return Decoder(artifact / "vmlinux", artifact / "modules-debug")
