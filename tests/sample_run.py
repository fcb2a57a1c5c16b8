"""Runs that look like real ones: `sample()` for tests and for looking at reports, `large(jobs)` for sizes."""

from __future__ import annotations

import dataclasses
import random
import sys
from pathlib import Path

from kpatchlab.earlier import with_kinds
from kpatchlab.model import (
    BuildResult,
    Case,
    ChangedFunction,
    ConfigMiss,
    GuestLog,
    JobResult,
    KernelFacts,
    Metric,
    ModuleFailure,
    Outcome,
    PatchFacts,
    ReachCount,
    Run,
    Splat,
    SystemFacts,
)
from kpatchlab.verdict.ratios import AGAIN

P, F, S, C, T, B, I = (  # noqa: E741
    Outcome.PASS,
    Outcome.FAIL,
    Outcome.SKIP,
    Outcome.CRASH,
    Outcome.TIMEOUT,
    Outcome.BLOCKED,
    Outcome.INFRA,
)
COLUMNS = ("without", "with", "client=with,server=without", "client=without,server=with")

OOPS = """\
[   14.201877] BUG: KASAN: slab-use-after-free in opinfo_put+0x2d/0x50 [ksmbd]
[   14.202204] Write of size 4 at addr ffff888005b1c4a0 by task kworker/0:3/97
[   14.202410] CPU: 0 PID: 97 Comm: kworker/0:3 Not tainted 6.3.0-rc2-kpl #1
[   14.202633] Workqueue: ksmbd-io handle_ksmbd_work [ksmbd]
[   14.202801] Call Trace:
[   14.202911]  <TASK>
[   14.203005]  dump_stack_lvl+0x33/0x50
[   14.203121]  print_report+0xcc/0x620
[   14.203250]  kasan_report+0xa8/0xe0
[   14.203377]  opinfo_put+0x2d/0x50 [ksmbd]
[   14.203498]  __ksmbd_close_fd+0x1f1/0x2f0 [ksmbd]
[   14.203622]  smb2_close+0x2a8/0x500 [ksmbd]
[   14.203744]  handle_ksmbd_work+0x229/0x5f0 [ksmbd]
[   14.203866]  process_one_work+0x3f5/0x650
[   14.203989]  worker_thread+0x78/0x610
[   14.204110]  kthread+0x15c/0x180
[   14.204229]  ret_from_fork+0x2c/0x50
[   14.204350]  </TASK>
"""
DECODED = """\
BUG: KASAN: slab-use-after-free in opinfo_put (fs/ksmbd/oplock.c:196) ksmbd
Write of size 4 at addr ffff888005b1c4a0 by task kworker/0:3/97
CPU: 0 PID: 97 Comm: kworker/0:3 Not tainted 6.3.0-rc2-kpl #1
Workqueue: ksmbd-io handle_ksmbd_work [ksmbd]
Call Trace:
 <TASK>
 dump_stack_lvl (lib/dump_stack.c:107)
 print_report (mm/kasan/report.c:306 mm/kasan/report.c:416)
 kasan_report (mm/kasan/report.c:519)
 opinfo_put (./arch/x86/include/asm/atomic.h:95 fs/ksmbd/oplock.c:196) ksmbd
 __ksmbd_close_fd (fs/ksmbd/vfs_cache.c:331) ksmbd
 smb2_close (fs/ksmbd/smb2pdu.c:6012) ksmbd
 handle_ksmbd_work (fs/ksmbd/server.c:183 fs/ksmbd/server.c:214) ksmbd
 process_one_work (kernel/workqueue.c:2390)
 worker_thread (kernel/workqueue.c:2537)
 kthread (kernel/kthread.c:376)
 ret_from_fork (arch/x86/entry/entry_64.S:314)
 </TASK>
"""
SPLAT = Splat("kasan", "KASAN: slab-use-after-free in opinfo_put", "3fa9c1d20b77", OOPS, DECODED)
HUNG = Splat(
    "hung-task",
    "INFO: task rxperf blocked for more than N seconds, in rxrpc_send_data",
    "77aa01bc94e1",
    "INFO: task rxperf:212 blocked for more than 30 seconds.\n rxrpc_send_data+0x1d1/0x9a0\n"
    " rxrpc_do_sendmsg+0x4b5/0x7c0\n",
)
BOOT = "\n".join(
    f"[    {i / 40:.6f}] pci 0000:00:{i:02x}.0: [1af4:10{i:02x}] type 00 class 0x{i:06x}" for i in range(40)
)
CLEAN = ("reach: splice_to_socket (client)", "log: client", "log: server")


def job(
    scenario,
    column,
    cases,
    *,
    params=None,
    repeat=0,
    outcome=None,
    message="",
    splats=(),
    roles=("client", "server"),
    **more,
):
    """Make one job; `cases` is {name: outcome | (outcome, message) | (outcome, message, details)}.

    Names and messages are those of format 1, which the kinds of the checks follow from.
    """
    params = params or {}
    made = []
    for name, value in cases.items():
        made.append(Case(name, *(value if isinstance(value, tuple) else (value,)), duration_s=0.4))
    worst = max((c.outcome for c in made), key=[S, P, F, T, C, B, I].index, default=P)
    text = ",".join(f"{k}={v}" for k, v in sorted(params.items()))
    name = f"{scenario}[{text}].{column}.{repeat}" if text else f"{scenario}.{column}.{repeat}"
    mixed = "=" in column
    placement = dict(part.split("=") for part in column.split(",")) if mixed else dict.fromkeys(roles, column)
    outcome = outcome or worst
    tail = BOOT + "\n" + "".join(s.text for s in splats) + f"[   15.0] lab: {scenario} ends\n"
    blocked = outcome in {B, S}
    guests = (
        ()
        if blocked
        else tuple(
            GuestLog(role, kernel, f"jobs/{name}/console-{role}.log", tail, len(tail))
            for role, kernel in placement.items()
        )
    )
    command = f"kpatchlab run {scenario} --column {column} --repeat 1"
    fields = {
        "splats": tuple(splats), "guests": guests, "started": "2023-03-17T12:04:11+00:00",
        "duration_s": 0.0 if blocked else 6.4,
        "guest_s": 5.1, "overhead_s": 1.3, "reproduce": command, "stdout_tail": "KTAP version 1\n", **more,
    }  # fmt: skip
    found = JobResult(
        job=name,
        scenario=scenario,
        params=params,
        column=column,
        placement=placement,
        repeat=repeat,
        outcome=outcome,
        message=message,
        cases=tuple(made),
        **fields,
    )
    return with_kinds(found)


def builds():
    """Return the two kernels' builds: one base, siw does not compile with the series."""
    failure = ModuleFailure(
        "siw",
        "drivers/infiniband/sw/siw/siw_qp_tx.c",
        342,
        "error: 'struct proto_ops' has no member named 'sendpage'",
        "  CC [M]  drivers/infiniband/sw/siw/siw_qp_tx.o\n"
        "drivers/infiniband/sw/siw/siw_qp_tx.c: In function 'siw_tcp_sendpages':\n"
        "drivers/infiniband/sw/siw/siw_qp_tx.c:342:22: error: 'struct proto_ops' has no member named 'sendpage'\n"
        "  342 |                 rv = sock->ops->sendpage(sock, page[i], offset, bytes, flags);\n",
        ("siw_user", "rdma_siw_test"),
    )
    miss = ConfigMiss("SMC_LO", "y", "", "config/splice.config:41", "no such symbol in this tree")
    shared = {
        "base": "Linux 6.3-rc2 (eeac8ede1755)",
        "base_key": "eeac8ede",
        "compiler": "gcc (Debian 12.2.0-14) 12.2.0",
    }
    return (
        BuildResult(
            "without", P, key="a" * 64, release="6.3.0-rc2-kpl", duration_s=412.7, objects_compiled=2214,
            objects_total=2214, config_misses=(miss,), reproduce="kpatchlab build without", **shared,
        ),
        BuildResult(
            "with", P, key="b" * 64, release="6.3.0-rc2-kpl-splice", duration_s=96.2, objects_compiled=318,
            objects_total=2214, config_misses=(miss,), module_failures=(failure,),
            series="[RFC PATCH 00/28] splice, net: Replace sendpage with sendmsg(MSG_SPLICE_PAGES)",
            reproduce="kpatchlab build with", **shared,
        ),
    )  # fmt: skip


def _unix(jobs):
    for repeat in range(3):
        for column, speed in (("without", 1012.0), ("with", 1894.0)):
            cases = {
                "job": P,
                "sendfile 1 byte": P,
                "sendfile 4095": P,
                "sendfile 1M+13 whole": P,
                "splice file to socket": P,
            }
            cases["splice with MSG_MORE"] = (F, "sha256 differs at byte 4096") if column == "without" else P
            new = column == "with"
            cases["reach: splice_to_socket (client)"] = P if new else (S, "condition: kernel has no splice_to_socket")
            cases["reach: unix_stream_sendpage (client)"] = (
                P if not new else (S, "condition: kernel has no unix_stream_sendpage")
            )
            cases["log: client"] = P
            jobs.append(
                job(
                    "unix-splice", column, cases, repeat=repeat, roles=("client",),
                    metrics=(Metric("throughput", speed + 7 * repeat, "MB/s", "higher"),
                             Metric("cpu time", 0.31, "s", "lower")),
                    reach=(
                        ReachCount("client", "splice_to_socket", 4133 if new else -1),
                        ReachCount("client", "unix_stream_sendpage", 0 if new else 4133),
                    ),
                )
            )  # fmt: skip


def _pairs(jobs):
    for column in COLUMNS:
        new_server = column in {"with", "client=without,server=with"}
        cases = {
            "job": P,
            "write 64K+1": P,
            "read back whole": P,
            "O_DIRECT read at odd offset": P,
            **dict.fromkeys(CLEAN, P),
        }
        if column == "with":
            cases["O_DIRECT read at odd offset"] = (
                F,
                "EINVAL instead of 4097 bytes",
                "pread(3, 4097, 511) = -1 EINVAL\n",
            )
        if column == "client=with,server=without":
            cases["reach: splice_to_socket (client)"] = (S, "condition: server's kernel has no splice_to_socket")
        jobs.append(job("nfs", column, cases, params={"transport": "tcp", "vers": "4.2"}))
        if new_server or "with," in column:
            jobs.append(
                job(
                    "nfs",
                    column,
                    {},
                    params={"transport": "siw", "vers": "4.2"},
                    outcome=B,
                    message="module siw did not build",
                )
            )
        else:
            jobs.append(job("nfs", column, cases, params={"transport": "siw", "vers": "4.2"}))
        cases = {"job": P, "mount": P, "write": P, "read back whole": P, "close": P, "log: client": P, "log: server": P}
        if new_server:
            for late in ("read back whole", "close"):
                del cases[late]
            cases |= {"job": (C, SPLAT.title), "log: server": (C, SPLAT.title)}
            jobs.append(job("cifs-ksmbd", column, cases, splats=(SPLAT,), message=SPLAT.title))
        else:
            jobs.append(job("cifs-ksmbd", column, cases))


def _as_the_lab_tells_it(made):
    """Make the job's own check fail where another one does, with its words, as a real job's does."""
    first = next((c for c in made.cases if c.outcome.is_bad), None)
    if first is None or first.name == "job":
        return made
    told = f"{first.name}: {first.message}"
    return with_kinds(dataclasses.replace(made, message=told, cases=(Case("job", F, told), *made.cases[1:])))


def sample() -> Run:
    """Two kernels of one base, two mixed columns, seven scenarios, one of everything that can happen."""
    jobs: list[JobResult] = []
    _unix(jobs)
    _pairs(jobs)
    for column in ("without", "with"):
        for repeat in range(3):
            bad = column == "with" and repeat == 1
            jobs.append(
                job("udp-cork", column, {"job": P,
                    "more than 1472 bytes": (F, "1 of 9000 datagrams missing") if bad else P,
                    "corked send, then splice": P, "log: client": P}, repeat=repeat, roles=("client",))
            )  # fmt: skip
        rx = {"job": P, "call with 1 MiB": P, "log: client": P}
        if column == "with":
            rx = {"job": (T, "no output for 60 s; script killed"), "log: client": (F, HUNG.title)}
        jobs.append(
            job(
                "rxrpc",
                column,
                rx,
                roles=("client",),
                splats=(HUNG,) if column == "with" else (),
                message="no output for 60 s",
            )
        )
        jobs.append(job("smc", column, {}, outcome=S, message="kernel lacks CONFIG_SMC_LO", roles=("client",)))
        alg = {
            "job": P,
            "skcipher, 17 pages": P,
            "aead <script>alert(1)</script> & co": (F, "ENOKEY on both"),
            "log: client": P,
        }
        jobs.append(job("af-alg", column, alg, roles=("client",)))
    return Run(
        id="20230317-120411-a3f2",
        title="MSG_SPLICE_PAGES",
        started="2023-03-17T12:04:11+00:00",
        duration_s=731.4,
        complete=True,
        base="without",
        columns=COLUMNS,
        kernels=(
            KernelFacts("without", "base", "Linux 6.3-rc2, lean configuration"),
            KernelFacts("with", "series", "the same with the RFC's 28 patches"),
        ),
        builds=builds(),
        jobs=tuple(map(_as_the_lab_tells_it, jobs)),
        host={
            "hostname": "lab1",
            "accel": "tcg",
            "accel reason": "/dev/kvm is not there",
            "qemu": "7.2.15",
            "cpus": "2",
            "memory": "7.7 GiB",
        },
        command="kpatchlab run --repeat 3",
        version="0.1.0",
    )


PATCHES = (
    ("net: Declare MSG_SPLICE_PAGES internal sendmsg() flag", ("include/linux/socket.h",), ()),
    ("tcp: Support MSG_SPLICE_PAGES", ("net/ipv4/tcp.c",), (("tcp_sendmsg_locked", ""),)),
    ("tcp: Make sendpage actually use sendmsg", ("net/ipv4/tcp.c",), (("do_tcp_sendpages", ""), ("tcp_sendpage", ""))),
    ("ip, udp: Support MSG_SPLICE_PAGES", ("net/ipv4/ip_output.c", "net/ipv6/ip6_output.c"),
     (("__ip_append_data", ""), ("__ip6_append_data", ""), ("skb_splice_from_iter", "inlined"))),
    ("af_unix: Support MSG_SPLICE_PAGES", ("net/unix/af_unix.c",),
     (("unix_stream_sendmsg", ""), ("maybe_init_creds", "inlined"))),
    ("crypto: af_alg: Support MSG_SPLICE_PAGES", ("crypto/af_alg.c",), (("af_alg_sendmsg", ""),)),
    ("rxrpc: Use MSG_SPLICE_PAGES", ("net/rxrpc/output.c",), (("rxrpc_fill_out_ack", "gone"),)),
    ("siw: Use MSG_SPLICE_PAGES", ("drivers/infiniband/sw/siw/siw_qp_tx.c",),
     (("siw_tcp_sendpages", ""), ("siw_tx_hdt", ""))),
)  # fmt: skip
CALLS = {
    "unix-splice": {"unix_stream_sendmsg": 4133},
    "udp-cork": {"__ip_append_data": 9000, "__ip6_append_data": 0},
    "nfs": {"tcp_sendmsg_locked": 812, "do_tcp_sendpages": 0, "tcp_sendpage": 0},
    "af-alg": {"af_alg_sendmsg": -1},
    "bench-tcp": {},
}
SYSTEMS = (
    SystemFacts("af-unix", "AF_UNIX streams", ("unix-splice",)),
    SystemFacts("nfs", "NFS, client and server", ("nfs", "bench-tcp")),
    SystemFacts("cifs", "SMB", ("cifs-ksmbd",)),
    SystemFacts("udp", "UDP and UDPLITE", ("udp-cork",)),
    SystemFacts("tcp", "TCP", ("bench-tcp",)),
    SystemFacts("dlm", "Distributed lock manager", ("dlm",)),
)


def patches(kernel: str) -> tuple[PatchFacts, ...]:
    """Return eight patches: some that change functions, one that does not, some whose functions cannot be traced."""
    return tuple(
        PatchFacts(kernel, number, title, files, tuple(ChangedFunction(n, files[0], trace) for n, trace in functions))
        for number, (title, files, functions) in enumerate(PATCHES, 1)
    )


def bench_jobs(name="bench-tcp", repeats=5, seed=1) -> list[JobResult]:
    """Return a benchmark on the base, on the base again and on the other kernel, with figures of every kind."""
    source = random.Random(seed)
    shifts = {"4 KiB": 0.93, "64 KiB": 1.0, "1 MiB": 1.004, "noisy": 1.02}
    spread = {"noisy": 0.2}
    jobs = []
    for repeat in range(1, repeats + 1):
        for column in ("without", f"without{AGAIN}", "with"):
            here = column == "with"
            made = [
                Metric(f"send {size}", 1e6 * (shift if here else 1) * source.gauss(1, spread.get(size, 0.0007)),
                       "instructions/call", "lower")
                for size, shift in shifts.items()
            ]  # fmt: skip
            made += [Metric("no unit", 3.0, "", "higher"), Metric("no number", float("nan"), "s", "lower")]
            made += [Metric("on one side", 2.0, "MB/s", "higher")] if here else []
            jobs.append(
                job(name, column, {"job": P, "figures": P}, repeat=repeat, roles=("client",), metrics=tuple(made),
                    mode="instructions")
            )  # fmt: skip
    return jobs


def full() -> Run:
    """Return the sample with systems, patches and benchmarks: everything that a report can show."""
    run = sample()
    made = []
    for one in (*run.jobs, *bench_jobs()):
        calls = CALLS.get(one.scenario, {}) if one.column == "with" else {}
        made.append(dataclasses.replace(one, patched=tuple(ReachCount("client", n, c) for n, c in calls.items())))
    columns = (*run.columns, f"without{AGAIN}")
    return dataclasses.replace(run, jobs=tuple(made), systems=SYSTEMS, patches=patches("with"), columns=columns)


def huge(count: int = 2000) -> Run:
    """Return `large` spread over 100 scenarios of 25 systems, with patches and benchmarks: a whole night's run."""
    run = full()
    bench = [made for i in range(count // 40) for made in bench_jobs(f"bench-{i}", repeats=5, seed=i)][: count // 4]
    functions = [(p.title, f) for p in run.patches for f in p.functions]
    made = []
    for number, one in enumerate(large(count - len(bench)).jobs):
        calls = tuple(ReachCount("client", f.name, number * i % 3) for i, (_, f) in enumerate(functions) if not f.trace)
        made.append(dataclasses.replace(one, scenario=f"scenario-{number // 4 % 100}", patched=calls))
    names = list(dict.fromkeys(one.scenario for one in (*made, *bench)))
    systems = tuple(SystemFacts(f"system-{i}", f"The {i}th system", tuple(names[i::25])) for i in range(25))
    more = tuple(dataclasses.replace(p, number=p.number + 8 * i) for i in range(4) for p in run.patches)
    return dataclasses.replace(run, jobs=(*made, *bench), systems=systems, patches=more)


def large(count: int = 2000, tail_bytes: int = 1 << 16) -> Run:
    """Return a run with `count` jobs in four columns, one in twenty bad, each with consoles of `tail_bytes`."""
    jobs: list[JobResult] = []
    for i in range(count // 4):
        for column in COLUMNS:
            cases = (
                {"job": P}
                | {f"check {n} of sendfile at offset {n * 4096}": P for n in range(8)}
                | {"log: client": P, "log: server": P}
            )
            splats = ()
            if i % 5 == 0 and column == "with":
                cases |= {"log: server": (C, SPLAT.title), "job": (C, SPLAT.title)}
                splats = (SPLAT,)
            made = job("nfs", column, cases, params={"transport": "tcp", "vers": "4.2", "seed": str(i)}, splats=splats)
            guests = tuple(
                dataclasses.replace(g, console_tail=(BOOT * (1 + tail_bytes // len(BOOT)))[-tail_bytes:])
                for g in made.guests
            )
            jobs.append(dataclasses.replace(made, guests=guests))
    return dataclasses.replace(sample(), jobs=tuple(jobs))


if __name__ == "__main__":  # sample_run.py FORMAT FILE [JOBS]: render one for the eye
    from kpatchlab.report import FORMATS
    from kpatchlab.report.view import View

    run = huge(int(sys.argv[3])) if len(sys.argv) > 3 else full()
    Path(sys.argv[2]).write_bytes(FORMATS[sys.argv[1]].render(View(run, Path(sys.argv[2]).parent)))
