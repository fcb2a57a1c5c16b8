"""A job's judgement, on guests that only answer what a test says."""

import io
import itertools
import tarfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kpatchlab.build.built import Programs
from kpatchlab.errors import GuestLost, GuestRefused, Loss
from kpatchlab.evidence.splats import find_splats
from kpatchlab.guest.vm import Exit, Identity, SavedGuest
from kpatchlab.lab.scenario import ScenarioFile
from kpatchlab.model import BuildResult, CaseKind, ModuleFailure, Outcome
from kpatchlab.plan.jobs import JobSpec, RoleSpec
from kpatchlab.run import guests as job_guests
from kpatchlab.run import job, leftovers, payload, saved, taint
from kpatchlab.run.inputs import Here
from kpatchlab.run.task import JobTask, KernelUnderTest
from tests.fake_stages import FakeHost

OOPS = b"""[    5.123456] BUG: kernel NULL pointer dereference, address: 0000000000000008
[    5.123456] #PF: supervisor read access in kernel mode
[    5.123456] Oops: 0000 [#1] PREEMPT SMP
[    5.123456] CPU: 0 PID: 77 Comm: cat Not tainted 6.1.0 #1
[    5.123456] RIP: 0010:opinfo_put+0x12/0x80 [ksmbd]
[    5.123456] Call Trace:
[    5.123456]  <TASK>
[    5.123456]  smb2_open+0x1234/0x2000 [ksmbd]
[    5.123456]  </TASK>
[    5.123456] ---[ end trace 0000000000000000 ]---
"""
LOCKUP = b"""\
[   30.100000] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [python3:123]
[   30.100000] CPU: 0 PID: 123 Comm: python3 Not tainted 6.1.0 #1
[   30.100000] RIP: 0010:finish_task_switch+0x91/0x2a0
[   30.100000] Call Trace:
[   30.100000]  <TASK>
[   30.100000]  __schedule+0x2d5/0x8b0
[   30.100000]  </TASK>
"""
GOOD = b"KTAP version 1\n1..1\nok 1 - data\n"
BUILT = BuildResult("with", Outcome.PASS, key="key-with")


class FakeConsole:
    def __init__(self):
        self.bytes = b"[    0.000000] Linux version 6.1.0\n"
        self.last = 0.0
        self.more = 0
        self.unwritten = ""

    def data(self):
        return self.bytes

    @property
    def total(self):
        return len(self.bytes) + self.more


class FakeGuest:
    """Answers commands by their first word; everything else succeeds in silence."""

    def __init__(self, answers):
        self.answers = answers
        self.console = FakeConsole()
        self.lost = None
        self.ran, self.looks = [], []
        self.closed = False
        self.kept_s = 0.0  # what the host kept from it

    def run(self, argv, **more):
        self.ran.append((tuple(argv), more))
        answer = self.answers.get(Path(argv[0]).name, b"")
        self.on_output = more.get("on_output")
        if callable(answer):
            answer = answer(self, argv)
        if isinstance(answer, BaseException):
            self.lost = answer
            raise answer
        return answer if isinstance(answer, Exit) else ended(answer)

    def got_s(self):
        return 10.0

    def withheld_s(self, within_s=None):
        return min(self.kept_s, within_s or self.kept_s)

    def identify(self, identity):
        self.identity = identity

    def put_many(self, files):
        self.files = {name for name, _, _ in files}

    def close(self):
        self.closed = True

    def check(self):
        if self.lost:
            raise self.lost

    def settle(self):
        self.check()
        self.ran.append((("settle",), {}))

    def look(self, paths, *, drop_caches):
        self.check()
        if taint.FILE in paths:
            return self.answers.get("taint", dict)()
        self.looks.append(drop_caches)
        return self.answers.get("look", lambda guest: {})(self)


def ended(stdout=b"", status=0, signal=0, stderr=b"", total=None, timed_out=False):
    return Exit(status, signal, stdout, stderr, len(stdout) if total is None else total, len(stderr), 0.1, timed_out)


class Host(FakeHost):
    """A host with a kernel, a root, an initramfs and the files of a scenario in its cache."""

    def __init__(self, root):
        super().__init__(root)
        kernel = {
            "config": "CONFIG_UNIX=y\nCONFIG_NFSD=m\n# CONFIG_TLS is not set\n",
            "modules.dep": "kernel/fs/nfsd/nfsd.ko: kernel/net/sunrpc/sunrpc.ko\n",
            "modules.builtin": "kernel/fs/ext4/ext4.ko\n",
        }
        self.keep("kernel", BUILT.key, kernel)
        self.keep("root", "key-root", {"packages.txt": "python3\n"})
        self.keep("initrd", "key-initrd", {})
        self.payload = payload.keep([("/lab/scenario/run.sh", b"#!/bin/sh\n", 0o755)], self.cache, "probe")

    def keep(self, kind, key, files):
        def make(work):
            for name, text in files.items():
                (work / name).parent.mkdir(exist_ok=True)
                (work / name).write_text(text)

        self.cache.get(kind, key, make)

    def task(self, scenario, build=BUILT, foreign=(), more=None, turns=1, **kernel):
        """Return a job of one role of a scenario, on a kernel that is as said."""
        spec = JobSpec("probe@with#1", "probe", {}, {"guest": "with"}, "with", 1,
                       (RoleSpec("guest", "with", 512, 1),), "base", "default", 10.0, foreign, turns)  # fmt: skip
        under_test = KernelUnderTest(build=build, initrd="key-initrd", **kernel)
        return JobTask(
            spec=spec, scenario=ScenarioFile.model_validate(scenario), kernels={"with": under_test},
            roots={"x86_64": "key-root"}, payload=(self.payload,), accel="tcg", **(more or {}),
        )  # fmt: skip


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Return a function that runs a one-role scenario on a fake guest."""
    host = Host(tmp_path)
    stored = SavedGuest(tmp_path / "saved", None)
    stored.path.mkdir()
    (stored.path / "symbols").write_text("tcp_sendmsg\nsplice_to_socket\n")
    guests = []

    def play(answers=None, build=None, before=b"", more=None, foreign=(), kernel=None, turns=1, **scenario):
        (stored.path / "console.log").write_bytes(before)
        guest = FakeGuest({"run.sh": GOOD, **(answers or {})})
        guests.append(guest)
        monkeypatch.setattr(saved, "booted", lambda *_, **__: stored)
        monkeypatch.setattr(saved, "prepared", lambda *_, **__: stored)
        monkeypatch.setattr(job_guests, "resume", lambda *_, **__: guest)
        text = {"description": "d", "roles": {"guest": {"run": "run.sh"}}, **scenario}
        folder = tmp_path / "scratch" / str(len(guests))
        folder.mkdir(parents=True)
        task = host.task(text, build or BUILT, foreign, more, turns, **(kernel or {}))
        result = job.run_job(task, Here(host, folder, threading.Event()))
        play.guest = guest
        return result

    play.host = host
    return play


def guests_how():
    return saved.Preparation(Identity("guest"), (), (), (), ())


def case(result, name):
    return next(c for c in result.cases if c.name == name)


QUIET = [
    ("0 7 Y", "0 1 Y", "the level of the guest's console is 1"),
    ("0 1 Y", "0 1 Y", "the level of the guest's console is 1"),
    ("0 7 Y", "0 5 Y", "the level of the guest's console is 5"),
    ("0 7 Y", "0 7 N", "switched off the time stamps"),
    ("0 7 N", "0 7 N", "switched off the time stamps"),
    ("- - -", "0 7 N", "switched off the time stamps"),
    ("0 7 Y", "0 7 Y", ""),
    ("0 8 Y", "0 7 Y", ""),
    ("0 7 Y", "", ""),
]


def says(*readings):
    """Answer as a guest whose kernel has this taint, level of the console and time stamps, one after the other."""
    names, left = (taint.FILE, taint.LEVEL, taint.STAMPS), iter(readings)
    return {"taint": lambda: dict(zip(names, next(left).split(), strict=False))}


@pytest.mark.parametrize(("before", "after", "why"), QUIET)
def test_a_console_that_the_guest_has_made_quiet_is_not_called_clean(bench, before, after, why):
    log = case(bench(says(before, after)), "log: guest")
    assert log.outcome is (Outcome.SKIP if why else Outcome.PASS)
    assert why in log.message


def test_an_oops_that_a_quiet_console_hides_fails_the_job(bench):
    assert bench(says("0 7 Y", f"{1 << 7} 1 Y")).outcome is Outcome.FAIL


def test_a_good_scenario_passes(bench):
    result = bench()
    assert result.outcome is Outcome.PASS
    assert [c.name for c in result.cases] == ["job", "data", "log: guest"]
    assert result.reported
    assert bench.guest.closed


def test_an_oops_after_ok_is_a_crash(bench):
    def oops(guest, _):
        guest.console.bytes += OOPS
        return GOOD

    result = bench({"run.sh": oops})
    assert result.outcome is Outcome.CRASH
    assert "opinfo_put" in result.message
    assert case(result, "data").outcome is Outcome.PASS
    assert case(result, "log: guest").outcome is Outcome.CRASH
    assert len(result.splats) == 1


def test_a_splat_that_comes_seconds_later_belongs_to_the_job(bench):
    def later(guest, _):
        threading.Timer(0.3, lambda: setattr(guest.console, "bytes", OOPS)).start()
        return GOOD

    assert bench({"run.sh": later}).outcome is Outcome.PASS  # as without settling: the test is none if it comes sooner
    result = bench({"run.sh": later}, more={"settle_s": 0.6})
    assert result.outcome is Outcome.CRASH
    assert case(result, "log: guest").outcome is Outcome.CRASH
    assert result.duration_s < 0.3  # what it idles is not what it takes
    assert (("settle",), {}) in bench.guest.ran


def test_a_guest_that_dies_while_it_idles_is_the_jobs(bench):
    def later(guest, _):
        threading.Timer(0.2, lambda: setattr(guest, "lost", GuestLost(Loss.PANIC, "the kernel panicked"))).start()
        return GOOD

    result = bench({"run.sh": later}, more={"settle_s": 0.6})
    assert result.outcome is Outcome.CRASH
    assert result.reported  # every check was
    assert case(result, "data").outcome is Outcome.PASS


def test_a_splat_from_before_the_fork_is_not_lost(bench):
    assert bench(before=OOPS).outcome is Outcome.CRASH


def test_a_failed_check_fails_the_job(bench):
    result = bench({"run.sh": b"KTAP version 1\n1..2\nok 1 - a\nnot ok 2 - b\n"})
    assert result.outcome is Outcome.FAIL
    assert result.message.startswith("b")


@pytest.mark.parametrize(
    ("answer", "outcome", "words"),
    [
        (ended(GOOD, status=3), Outcome.FAIL, "3"),
        (ended(GOOD, status=-1, signal=9), Outcome.FAIL, "signal 9"),
        (ended(b"", status=0), Outcome.FAIL, ""),
        (ended(GOOD, status=-1, signal=15, timed_out=True), Outcome.TIMEOUT, "longer than 10 s"),
        (ended(GOOD, total=1 << 27), Outcome.FAIL, "134217728 bytes"),
        (GuestLost(Loss.PANIC, "the kernel panicked"), Outcome.CRASH, "panic"),
        (GuestLost(Loss.HANG, "no heartbeat for 3 s"), Outcome.CRASH, "hang"),
        (GuestLost(Loss.OFF, "the guest switched itself off"), Outcome.FAIL, "switched itself off"),
        (GuestLost(Loss.CRASH, "QEMU ended with status 1"), Outcome.INFRA, "QEMU"),
        (GuestLost(Loss.EXIT, "QEMU was killed"), Outcome.INFRA, "QEMU"),
    ],
)
def test_how_a_script_ends_decides(bench, answer, outcome, words):
    result = bench({"run.sh": answer})
    assert result.outcome is outcome
    assert words in result.message


def test_all_skipped_is_a_skip_and_not_a_pass(bench):
    result = bench({"run.sh": b"KTAP version 1\n1..1\nok 1 - x # SKIP no such file\n"})
    assert result.outcome is Outcome.SKIP


@pytest.mark.parametrize(
    ("needs", "words"),
    [({"config": ["TLS"]}, "CONFIG_TLS"), ({"modules": ["siw"]}, "module siw"), ({"packages": ["zfs"]}, "zfs")],
)
def test_what_a_kernel_or_root_lacks_is_a_skip_with_its_reason(bench, needs, words):
    result = bench(needs=needs)
    assert result.outcome is Outcome.SKIP
    assert words in result.message


def test_of_alternatives_one_is_enough(bench):
    assert bench(needs={"config": ["NFS_V4_1|NFSD", "UNIX"]}).outcome is Outcome.PASS
    lacks = bench(needs={"config": ["TLS|NFS_V4_1", "UNIX"]})
    assert lacks.outcome is Outcome.SKIP
    assert "lacks CONFIG_TLS or CONFIG_NFS_V4_1" in lacks.message


def test_what_is_there_is_no_skip(bench):
    needs = {"config": ["UNIX", "NFSD"], "modules": ["nfsd", "ext4"], "packages": ["python3"]}
    assert bench(needs=needs).outcome is Outcome.PASS


def test_a_module_that_did_not_build_blocks_what_needs_it_in_whole_or_through_others(bench, tmp_path):
    failure = ModuleFailure("sunrpc", "net/sunrpc/svc.c", 7, "error: no sendpage", dependents=("nfsd",))
    build = replace(BUILT, module_failures=(failure,))
    for module in ("sunrpc", "nfsd"):
        result = bench(build=build, needs={"modules": [module]})
        assert result.outcome is Outcome.BLOCKED
        assert "net/sunrpc/svc.c:7: error: no sendpage" in result.message
    assert bench(build=build).outcome is Outcome.PASS


def test_a_kernel_that_does_not_build_blocks_its_column(bench):
    build = BuildResult("with", Outcome.BLOCKED, error="no rule")
    result = bench(build=build)
    assert result.outcome is Outcome.BLOCKED
    assert "no rule" in result.message


def script_calls(guest):
    return [more for argv, more in guest.ran if argv[0].endswith("/run.sh")]


def test_a_slow_kernel_gets_more_time_and_no_figures(bench, tmp_path):
    metric = b"KTAP version 1\n1..1\nok 1 - a\nmetric rate 1 MiB/s higher\n"
    assert [m.name for m in bench({"run.sh": metric}).metrics] == ["rate"]
    (tmp_path / "saved" / "slowness").write_text("3.50\n")
    result = bench({"run.sh": metric}, kernel={"debug": True})
    assert result.metrics == ()
    (call,) = script_calls(bench.guest)
    assert call["timeout_s"] == 35
    assert call["env"]["LAB_SCALE"] == "3.5"


@pytest.mark.parametrize(("kept_s", "scale"), [(0.5, "1"), (10.0, "2"), (500.0, "10")])
def test_scripts_wait_longer_in_a_guest_that_the_host_starves(bench, kept_s, scale):
    def starves(guest, _):
        guest.kept_s = kept_s
        return ended()

    roles = {"guest": {"run": "run.sh", "setup": "setup.sh"}}
    result = bench({"setup.sh": starves}, roles=roles)
    calls = [more for argv, more in bench.guest.ran if argv[0].endswith(".sh")]
    assert [call["env"]["LAB_SCALE"] for call in calls] == ["1", scale]
    assert {call["timeout_s"] for call in calls} == {10.0}, "the lab's own deadline counts what the guest got"
    assert result.withheld_s == kept_s


def test_a_leak_fails_the_job_of_a_kernel_with_debugging(bench):
    def shell(guest, argv):
        return b"unreferenced object 0xf (size 8):\n  backtrace:\n    siw_go+0x1/0x2\n" if "sleep" in argv[-1] else b""

    result = bench({"sh": shell}, kernel={"debug": True})
    assert result.outcome is Outcome.FAIL
    assert case(result, "leaks: guest").message == "1 objects of 8 bytes in all, made in siw_go"
    assert [c.name for c in bench({"sh": shell}).cases] == ["job", "data", "log: guest"]


WARNING = b"""[    5.000001] WARNING: CPU: 0 PID: 77 at net/x.c:7 other_function+0x1/0x2
[    5.000002] CPU: 0 PID: 77 Comm: cat Not tainted 6.1.0 #1
[    5.000003] RIP: 0010:other_function+0x1/0x2
[    5.000004] Call Trace:
[    5.000005]  caller+0x1/0x2
[    5.000006] ---[ end trace 0000000000000000 ]---
"""


def tainted(*bits, says=b""):
    """Answer as a guest whose kernel has these bits, one reading after the other, and prints something on the way."""
    readings = iter(bits)

    def run(guest, _):
        guest.console.bytes += says
        return GOOD

    return {"taint": lambda: {taint.FILE: f"{next(readings)}\n"}, "run.sh": run}


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (0, 1 << 9, "bit 9 (W) is set: the kernel issued a warning; no report in the log explains it"),
        (1 << 12, 1 << 12 | 1 << 7, "bit 7 (D) is set: the kernel has died"),
        (0, 1 << 5 | 1 << 14, "bit 14 (L) is set: a soft lockup"),
        (0, 1 << 4, "bit 4 (M) is set"),
        (1 << 9, 1 << 9, "bit 9 (W) is set since before the job"),
    ],
)
def test_a_taint_that_no_report_explains_fails(bench, before, after, words):
    """The kernel warned, and its message was not seen: dropped, hidden, or in a format that is not known."""
    result = bench(tainted(before, after))
    assert result.outcome is Outcome.FAIL
    found = case(result, "taint: guest")
    assert (found.kind, found.outcome, found.role) == (CaseKind.TAINT, Outcome.FAIL, "guest")
    assert words in found.message
    assert result.because == (found.id,)
    assert case(result, "log: guest").outcome is Outcome.PASS


def test_a_taint_that_a_report_explains_passes(bench):
    result = bench(tainted(0, 1 << 9, says=WARNING))
    assert case(result, "taint: guest").outcome is Outcome.PASS
    assert result.outcome is Outcome.CRASH
    assert case(bench(tainted(0, 1 << 7, says=OOPS)), "taint: guest").outcome is Outcome.PASS
    both = case(bench(tainted(0, 1 << 7 | 1 << 9, says=OOPS)), "taint: guest")
    assert "bit 9" in both.message
    assert "bit 7" not in both.message


def test_a_warning_within_another_report_explains_its_bit(bench):
    slab = b"[    5.000000] BUG kmalloc-64 (Not tainted): Poison overwritten\n" + WARNING
    assert case(bench(tainted(0, 1 << 5 | 1 << 9, says=slab)), "taint: guest").outcome is Outcome.PASS
    unknown = b"[    5.000000] ------------[ cut here ]------------\n" + WARNING.replace(b"WARNING: CPU", b"NOTE: CPU")
    assert case(bench(tainted(0, 1 << 9, says=unknown)), "taint: guest").outcome is Outcome.PASS
    alone = b"[    5.000000] BUG: Bad rss-counter state mm:00 type:MM_ANONPAGES val:2\n"
    assert "bit 9" in case(bench(tainted(0, 1 << 5 | 1 << 9, says=alone)), "taint: guest").message


def test_a_report_from_before_the_job_explains_only_what_was_set_then(bench):
    assert case(bench(tainted(1 << 9, 1 << 9), before=WARNING), "taint: guest").outcome is Outcome.PASS
    refcount = b"[    4.000000] refcount_t: underflow; use-after-free.\n" + WARNING
    assert case(bench(tainted(0, 1 << 9), before=refcount), "taint: guest").outcome is Outcome.FAIL


def test_what_somebody_loaded_is_no_fault(bench):
    """A module out of the tree, without a signature, forced, from staging; a live patch; a test in the kernel."""
    loaded = sum(1 << bit for bit in (0, 1, 2, 3, 6, 8, 10, 11, 12, 13, 15, 16, 17, 18))
    result = bench(tainted(0, loaded))
    assert case(result, "taint: guest").outcome is Outcome.PASS
    assert result.outcome is Outcome.PASS


def test_a_guest_that_died_has_no_reading(bench):
    answers = tainted(0) | {"run.sh": GuestLost(Loss.PANIC, "the kernel panicked")}
    result = bench(answers)
    assert "taint: guest" not in {c.name for c in result.cases}


def test_scenario_is_told_to_break_what_it_sends(bench):
    bench(more={"broken": True})
    assert script_calls(bench.guest)[0]["env"]["LAB_BREAK"] == "1"
    bench()
    assert "LAB_BREAK" not in script_calls(bench.guest)[0]["env"]


REACH = [
    {"function": "tcp_sendmsg"},
    {"function": "tcp_sendpage", "unless_symbol": "splice_to_socket"},
    {"function": "splice_to_socket", "if_symbol": "splice_to_socket"},
    {"function": "kernel_sendpage", "max": 0},
    {"function": "siw_0copy_tx"},
]


def test_reach_counts_become_cases(bench):
    counts = b"tcp_sendmsg 12\nsplice_to_socket 3\nkernel_sendpage 0\nsiw_0copy_tx -1\n"
    result = bench({"reach": lambda _, argv: counts if argv[1] == "read" else b""}, reach=REACH)
    outcomes = {c.name: c.outcome for c in result.cases if c.name.startswith("reach")}
    assert outcomes == {
        "reach: tcp_sendmsg (guest)": Outcome.PASS,
        "reach: tcp_sendpage (guest)": Outcome.SKIP,
        "reach: splice_to_socket (guest)": Outcome.PASS,
        "reach: kernel_sendpage (guest)": Outcome.PASS,
        "reach: siw_0copy_tx (guest)": Outcome.SKIP,
    }
    assert result.outcome is Outcome.PASS
    assert {r.function: r.count for r in result.reach}["siw_0copy_tx"] == -1
    assert [(c.function, c.role) for c in result.cases if not c.applies] == [("tcp_sendpage", "guest")]


@pytest.mark.parametrize(("uses", "outcome"), [(b"nvme-tcp:crypto_ahash_digest\n", Outcome.FAIL), (b"", Outcome.PASS)])
def test_a_rule_that_the_kernels_own_code_cannot_meet_is_no_failure(bench, uses, outcome):
    """The function is there, and the module that is under test does not call it any more."""

    def reach(_, argv):
        return {"uses": uses, "read": b"tcp_sendmsg 1\nshash_ahash_digest 0\n"}.get(argv[1], b"")

    rule = {"function": "shash_ahash_digest", "if_symbol": "nvme-tcp:crypto_ahash_digest"}
    result = bench({"reach": reach}, reach=[{"function": "tcp_sendmsg"}, rule])
    assert result.outcome is outcome
    if not uses:
        told = case(result, "reach: shash_ahash_digest (guest)")
        assert (told.outcome, told.applies) == (Outcome.SKIP, False)
        assert told.message == "condition: only where module nvme-tcp uses crypto_ahash_digest"


def test_functions_of_the_series_are_counted_beside_the_rules_and_judge_nothing(bench):
    """What the rules ask for is asked for once, and plainly; the other kernels' functions are not asked for."""
    asked = []

    def reach(_, argv):
        asked.append(argv[1:])
        return b"tcp_sendmsg 2\nhash_sendmsg 0\n" if argv[1] == "read" else b""

    patched = {"patched": ("tcp_sendmsg", "hash_sendmsg:mod:algif_hash")}
    result = bench({"reach": reach}, reach=[{"function": "tcp_sendmsg"}], kernel=patched)
    assert asked == [["start", "tcp_sendmsg", "hash_sendmsg:mod:algif_hash"], ["read"]]
    assert result.outcome is Outcome.PASS
    assert [(r.role, r.function, r.count) for r in result.patched] == [
        ("guest", "tcp_sendmsg", 2), ("guest", "hash_sendmsg", 0),
    ]  # fmt: skip
    assert [r.function for r in result.reach] == ["tcp_sendmsg"]


@pytest.mark.parametrize("counts", [b"tcp_sendmsg 0\n", b"", b"tcp_sendmsg x\n"])
def test_a_function_that_did_not_run_fails_the_job(bench, counts):
    result = bench({"reach": lambda _, argv: counts if argv[1] == "read" else b""}, reach=[{"function": "tcp_sendmsg"}])
    assert result.outcome is Outcome.FAIL


def test_a_function_that_must_not_run_fails_the_job(bench):
    rule = [{"function": "kernel_sendpage", "max": 0}]
    result = bench({"reach": lambda _, argv: b"kernel_sendpage 2\n" if argv[1] == "read" else b""}, reach=rule)
    assert result.outcome is Outcome.FAIL


def test_attachments_cannot_climb_out(bench, tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in ("./good.txt", "../../evil.txt"):
            member = tarfile.TarInfo(name)
            member.size = 2
            archive.addfile(member, io.BytesIO(b"hi"))
    result = bench({"sh": lambda _, argv: stream.getvalue() if "tar" in argv[2] else b""})
    assert [Path(p).name for p in result.attachments] == ["good.txt"]
    assert not list(tmp_path.rglob("evil.txt"))


def test_a_preparation_that_fails_is_told(bench, monkeypatch):
    def fail(*_):
        raise saved.PrepareFailed("modprobe failed (status 1): siw", OOPS)

    monkeypatch.setattr(job_guests, "_bring_up", fail)
    result = bench()
    assert result.outcome is Outcome.CRASH
    assert result.splats
    assert [(c.kind, c.name, c.role) for c in result.cases] == [
        (CaseKind.JOB, "job", ""), (CaseKind.PREPARATION, "log: preparation of with", "guest"),
    ]  # fmt: skip


def test_a_job_that_dies_at_boot_keeps_its_console(bench, monkeypatch, tmp_path):
    def fail(*_):
        raise saved.PrepareFailed("silence: no agent within 120 s", OOPS, GuestLost(Loss.SILENCE, "no agent"))

    monkeypatch.setattr(job_guests, "_bring_up", fail)
    result = bench()
    assert [(log.role, log.kernel, log.console) for log in result.guests] == [("guest", "with", "console-guest.log")]
    assert "ksmbd" in result.guests[0].console_tail
    assert next(tmp_path.rglob("scratch/*/console-guest.log")).read_bytes() == OOPS


def test_a_cold_boot_that_dies_is_judged_by_its_console(bench, monkeypatch):
    def boot(*_, console_path, **__):
        console_path.write_bytes(OOPS)
        raise GuestLost(Loss.PANIC, "it died")

    monkeypatch.setattr(job_guests, "boot", boot)
    result = bench(cold=True)
    assert result.outcome is Outcome.CRASH
    assert result.splats
    assert [log.console for log in result.guests] == ["console-guest.log"]


@pytest.mark.parametrize(("kept_s", "outcome"), [(25.0, Outcome.INFRA), (2.0, Outcome.CRASH)])
def test_a_watchdog_that_the_host_set_off_is_no_verdict(bench, kept_s, outcome):
    def locks_up(guest, _):
        guest.console.bytes += LOCKUP
        guest.kept_s = kept_s
        return ended(GOOD)

    result = bench({"run.sh": locks_up})
    assert result.outcome is outcome
    assert case(result, "log: guest").outcome is outcome
    assert bool(result.splats) is (outcome is Outcome.CRASH)


def test_a_starved_preparation_is_the_hosts(bench, monkeypatch):
    def fail(*_):
        raise saved.PrepareFailed("starved: 12 s of 1200 s", LOCKUP, GuestLost(Loss.STARVED, "12 s of 1200 s"))

    monkeypatch.setattr(job_guests, "_bring_up", fail)
    result = bench()
    assert {c.outcome for c in result.cases} == {Outcome.INFRA}
    assert not result.splats


def test_a_preparation_that_fails_on_a_host_that_set_off_a_watchdog_is_the_hosts(bench, monkeypatch):
    failed = saved.PrepareFailed("modprobe failed (status 1): siw", LOCKUP)

    def fail(*_):
        raise failed

    monkeypatch.setattr(job_guests, "_bring_up", fail)
    assert bench().outcome is Outcome.CRASH
    failed.excused = find_splats(LOCKUP)
    result = bench()
    assert result.outcome is Outcome.INFRA
    assert not result.splats


def test_forks_differ():
    how = saved.Preparation(Identity("guest", "52:54:00:77:00:01", "", "0" * 32, b""), (), (), (), ())
    a, b = job_guests.fresh_identity(how), job_guests.fresh_identity(how)
    assert len({a.mac, b.mac}) == len({a.machine_id, b.machine_id}) == len({a.hostname, b.hostname}) == 2
    assert a.seed != b.seed


def test_a_prepared_rdma_device_keeps_its_mac():
    how = saved.Preparation(Identity("guest", "52:54:00:77:00:01", "", "0" * 32, b""), (), ("siw",), (), ())
    assert job_guests.fresh_identity(how).mac == "52:54:00:77:00:01"


def test_a_guest_that_still_prints_is_let_finish(bench, monkeypatch):
    def late(guest, _):
        def print_on():
            for _ in range(6):
                guest.console.last = time.monotonic()
                time.sleep(0.05)
            guest.console.bytes += OOPS
            guest.console.last = time.monotonic()

        threading.Thread(target=print_on, daemon=True).start()
        return GOOD

    assert bench({"run.sh": late}).outcome is Outcome.CRASH


@pytest.mark.parametrize("outcome", [Outcome.BLOCKED, Outcome.SKIP])
def test_selftests_that_are_not_there_end_the_job_before_it_begins(bench, outcome):
    built = {"kselftest/net/tls": Programs(outcome, reason="tls.c:3: no")}
    result = bench(foreign=("kselftest/net/tls",), kernel={"tests": built})
    assert result.outcome is outcome
    assert result.message == "kselftest/net/tls of kernel with: tls.c:3: no"


def test_selftests_are_put_into_the_guest(bench, tmp_path):
    bench.host.keep("kselftest", "key-tls", {"programs/tls": "ELF"})
    built = {"kselftest/net/tls": Programs(Outcome.PASS, "kselftest", "key-tls")}
    assert bench(foreign=("kselftest/net/tls",), kernel={"tests": built}).outcome is Outcome.PASS
    assert "/lab/kselftest/net/tls/tls" in bench.guest.files


def test_what_was_found_before_the_guest_died_is_kept(bench):
    def dies(guest, _):
        guest.on_output("stderr", b"noise")
        guest.on_output("stdout", b"KTAP version 1\n1..3\nok 1 - first\nnot ok 2 - second\n")
        guest.on_output("stdout", b"# Subtest: more\n  1..2\n  ok 1 - third\n")
        guest.console.bytes += OOPS
        return GuestLost(Loss.PANIC, "Fatal exception")

    result = bench({"run.sh": dies})
    assert result.outcome is Outcome.CRASH
    assert [(c.name, c.outcome) for c in result.cases[1:4]] == [
        ("first", Outcome.PASS), ("second", Outcome.FAIL), ("more / third", Outcome.PASS),
    ]  # fmt: skip


@pytest.mark.parametrize("began", [True, False])
def test_a_lost_job_tells_whether_its_script_began(bench, began):
    def looks(guest):
        guest.lost = None if began else GuestLost(Loss.PANIC, "Fatal exception")
        guest.check()
        return {}

    result = bench({"look": looks, "run.sh": GuestLost(Loss.PANIC, "Fatal exception")})
    assert (result.outcome, result.guest_s > 0) == (Outcome.CRASH, began)


def test_checks_that_fail_for_a_guest_that_the_lab_lost_are_no_kernels_fault(bench):
    def fails_alone(guest, _):
        guest.on_output("stdout", b"KTAP version 1\n1..3\nok 1 - first\nnot ok 2 - timed out\n")
        return GuestLost(Loss.EXIT, "QEMU was killed")

    result = bench({"run.sh": fails_alone})
    assert result.outcome is Outcome.INFRA
    assert [(c.name, c.outcome) for c in result.cases[1:3]] == [("first", Outcome.PASS), ("timed out", Outcome.INFRA)]


@pytest.mark.parametrize("how", [Loss.OFF, Loss.CRASH])
def test_a_check_that_failed_is_not_taken_back_by_the_guests_end(bench, how):
    def ends(guest, _):
        guest.on_output("stdout", b"KTAP version 1\n1..3\nok 1 - first\nnot ok 2 - second\n")
        return GuestLost(how, "gone")

    result = bench({"run.sh": ends})
    assert (result.outcome, result.message) == (Outcome.FAIL, "second: not ok")
    assert [(c.name, c.outcome) for c in result.cases[1:3]] == [("first", Outcome.PASS), ("second", Outcome.FAIL)]
    assert [case.name for case in result.because] == ["second"]


def test_a_check_that_failed_is_not_taken_back_where_qemu_fails_while_the_job_settles(bench):
    def looks(guest):
        guest.lost = GuestLost(Loss.CRASH, "QEMU ended with status 1") if guest.looks[1:] else None
        guest.check()
        return {}

    result = bench({"run.sh": b"KTAP version 1\n1..1\nnot ok 1 - first\n", "look": looks})
    assert (result.outcome, result.cases[1].outcome) == (Outcome.FAIL, Outcome.FAIL)


@pytest.mark.parametrize(
    ("how", "outcome"), [(Loss.EXIT, Outcome.PASS), (Loss.HANG, Outcome.CRASH), (Loss.CRASH, Outcome.CRASH)]
)
def test_only_the_end_that_an_expected_oops_brings_is_no_loss(bench, monkeypatch, how, outcome):
    guests, made = [], job.guests_of
    monkeypatch.setattr(job, "guests_of", lambda inputs: guests.extend(found := made(inputs)) or found)

    def looks(guest):
        if guest.looks[1:]:
            guests[0].broken = find_splats(OOPS)[0]
            guest.lost = GuestLost(how, "gone")
        guest.check()
        return {}

    result = bench({"look": looks}, expect_splat=True)
    assert result.outcome is outcome


def test_a_check_that_fails_after_qemu_failed_elsewhere_is_no_kernels_fault(bench):
    def ends(guest, _):
        guest.on_output("stdout", b"KTAP version 1\n1..3\nok 1 - first\n")
        guest.lost = GuestLost(Loss.CRASH, "QEMU ended with status 1")
        guest.on_output("stdout", b"not ok 2 - second\n")
        return guest.lost

    result = bench({"run.sh": ends})
    assert result.outcome is Outcome.INFRA
    assert [(c.name, c.outcome) for c in result.cases[1:3]] == [("first", Outcome.PASS), ("second", Outcome.INFRA)]


@pytest.mark.parametrize("ends", [False, True])
def test_results_without_end_fail_the_job(bench, ends):
    flood = b"KTAP version 1\n1..60000\n" + b"".join(b"not ok %d - x\n" % n for n in range(1, 60_001))

    def run(guest, _):
        guest.on_output("stdout", flood)
        return GuestLost(Loss.OFF, "gone") if ends else flood

    result = bench({"run.sh": run})
    assert result.outcome is Outcome.FAIL
    assert len(result.cases) < 21_000


def test_counters_that_do_not_start_are_seen_of_the_kernel(bench):
    refuses = {"reach": lambda _, argv: ended(status=1, stderr=b"no tracefs") if argv[1] == "start" else b""}
    result = bench(refuses, reach=[{"function": "tcp_sendmsg", "min": 1}])
    assert (result.outcome, result.message) == (Outcome.FAIL, "guest: counting did not start: no tracefs")
    assert not result.reported


@pytest.mark.parametrize("when", ["resumed", "prepared"])
def test_a_guest_that_takes_no_files_is_seen_of_the_kernel(bench, monkeypatch, when):
    def refuse(*_):
        raise GuestRefused("guest: put: cannot write /lab/x: No space left on device")

    if when == "resumed":
        monkeypatch.setattr(FakeGuest, "put_many", refuse)
    else:
        monkeypatch.setattr(job_guests, "_bring_up", lambda *_: saved.prepare(FakeGuest({}), guests_how()))
        monkeypatch.setattr(FakeGuest, "identify", refuse)
    result = bench()
    assert result.outcome is Outcome.FAIL
    assert "No space left" in result.message


@pytest.mark.parametrize("oops", [b"", OOPS])
def test_a_log_of_which_some_is_missing_is_not_called_clean(bench, oops):
    def drops(guest, _):
        guest.console.bytes += b"[    1.0] ** 12 printk messages dropped **\n** 3 printk messages dropped **\n" + oops
        return GOOD

    def long(guest, _):
        guest.console.bytes += oops
        guest.console.more = 7
        return GOOD

    for answer, words in ((drops, "the kernel dropped 15 messages"), (long, "7 bytes of the log are not kept")):
        result = bench({"run.sh": answer})
        (case,) = [case for case in result.cases if case.name.startswith("log: ")]
        assert (case.outcome, case.message == words) == ((Outcome.CRASH, False) if oops else (Outcome.SKIP, True))
        assert result.outcome is (Outcome.CRASH if oops else Outcome.PASS)


@pytest.mark.parametrize(
    ("answer", "reported"),
    [
        (b"KTAP version 1\n1..1\nnot ok 1 - data\n", True),
        (b"KTAP version 1\n1..2\nnot ok 1 - data\n", False),
        (ended(GOOD, status=-1, signal=9), False),
        (ended(GOOD, status=-1, timed_out=True), False),
        (GuestLost(Loss.PANIC, "x"), False),
    ],
)
def test_a_job_says_whether_it_reported_all(bench, answer, reported):
    assert bench({"run.sh": answer}).reported is reported


def dies_of(oops, lost):
    def script(guest, _):
        guest.console.bytes += oops
        guest.on_output("stdout", b"KTAP version 1\n1..2\nnot ok 1 - a\n")
        return lost

    return script


@pytest.mark.parametrize(
    ("answers", "more", "names"),
    [
        ({}, {}, []),
        ({"run.sh": b"KTAP version 1\n1..3\nnot ok 1 - a\nok 2 - b\nnot ok 3 - c\n"}, {}, ["a", "c"]),
        ({"run.sh": b"KTAP version 1\n1..1\nok 1 - a # SKIP none\n"}, {}, []),
        ({"run.sh": b"KTAP version 1\n1..2\nok 1 - a\n"}, {}, []),  # the report is not whole: no check says so
        ({"run.sh": ended(b"KTAP version 1\n1..2\nnot ok 1 - a\n", timed_out=True)}, {}, []),
        ({"reach": b"tcp_sendmsg 0\n"}, {"reach": [{"function": "tcp_sendmsg"}]}, ["reach: tcp_sendmsg (guest)"]),
        ({"sh": b"unreferenced object 0xf (size 8):\n"}, {"kernel": {"debug": True}}, ["leaks: guest"]),
        ({"run.sh": dies_of(OOPS, GuestLost(Loss.PANIC, "x"))}, {}, ["log: guest"]),
        ({"run.sh": dies_of(b"", GuestLost(Loss.EXIT, "QEMU was killed"))}, {}, []),
    ],
)
def test_a_job_names_the_cases_that_made_it_fail(bench, answers, more, names):
    result = bench(answers, **more)
    assert [case.name for case in result.because] == names
    assert {case.id for case in result.cases} >= set(result.because)


def test_what_follows_from_a_failed_step_is_not_what_made_the_job_fail(bench):
    roles = {"guest": {"run": "run.sh", "setup": "setup.sh"}}
    result = bench({"setup.sh": ended(status=1)}, reach=[{"function": "tcp_sendmsg"}], roles=roles)
    assert case(result, "reach: tcp_sendmsg (guest)").outcome is Outcome.FAIL
    assert (result.outcome, result.because) == (Outcome.FAIL, ())


def test_what_a_job_leaves_is_read_before_and_after(bench):
    seen = iter([{"/proc/loadavg": "0 0 0 1/70 1"}, {"/proc/loadavg": "0 0 0 1/75 1"}])
    result = bench({"look": lambda _: next(seen)})
    assert [(left.role, left.what, left.turns) for left in result.left] == [("guest", "threads", (5.0,))]
    assert bench.guest.looks == [False, True]  # what was read before stays in the page cache


def test_a_job_of_several_turns_is_judged_by_its_first(bench, monkeypatch):
    monkeypatch.setattr(leftovers, "CALM_S", 0)
    counts = itertools.count(70, 3)
    ran = itertools.count()

    def script(guest, _):
        return GOOD if not next(ran) else b"KTAP version 1\n1..1\nnot ok 1 - data\n"

    answers = {"look": lambda _: {"/proc/loadavg": f"0 0 0 1/{next(counts)} 1"}, "run.sh": script}
    result = bench(answers, turns=4)
    assert result.outcome is Outcome.PASS
    assert result.turns == 4
    assert next(ran) == 4
    assert [left.turns for left in result.left] == [(3.0, 3.0, 3.0, 3.0)]
    assert result.guest_s == pytest.approx(0.1)  # of one turn
