"""Kernel logs -> splats, on logs of a real 6.1 guest (lkdtm-*, nmi-hang, oom, rcu-stall, ...) and written samples."""

import os
import random
import re
import time
from pathlib import Path

import pytest

from kpatchlab.evidence.splats import MAX_LINES, MAX_SAME, find_splats

DATA = Path(__file__).parent / "data" / "splats"

EXPECTED = {
    "lkdtm-many": [
        ("warning", "WARNING in lkdtm_WARNING", False),
        ("warning", "WARNING in lkdtm_WARNING_MESSAGE", False),
        ("bug", "kernel BUG in lkdtm_BUG", False),
        ("oops", "BUG: kernel NULL pointer dereference in lkdtm_EXCEPTION", False),
        ("list", "list_add corruption in lkdtm_CORRUPT_LIST_ADD", False),
        ("list", "list_del corruption in lkdtm_CORRUPT_LIST_DEL", False),
        ("refcount", "refcount_t: decrement hit 0; leaking memory in lkdtm_REFCOUNT_DEC_ZERO", False),
        ("refcount", "refcount_t: saturated; leaking memory in lkdtm_REFCOUNT_INC_OVERFLOW", False),
    ],
    "lkdtm-oops-panic": [("oops", "BUG: kernel NULL pointer dereference in lkdtm_EXCEPTION", True)],
    "lkdtm-panic": [("panic", "Kernel panic: dumptest in lkdtm_PANIC", True)],
    "lkdtm-panic-on-warn": [("warning", "WARNING in lkdtm_WARNING_MESSAGE", True)],
    "lkdtm-soft-lockup": [("soft-lockup", "BUG: soft lockup in lkdtm_SOFTLOCKUP", True)],
    "lkdtm-hung-task": [("hung-task", "INFO: task hung in direct_entry", True)],
    "nmi-hang": [("hard-lockup", "hard lockup in lkdtm_HARDLOCKUP", True)],
    "rcu-stall": [("rcu-stall", "rcu_sched stall in lkdtm_SOFTLOCKUP", False)] * 3,
    "oom": [("oom", "Out of memory: killed init", False)],
    "stack-guard": [("oops", "BUG: stack guard page was hit in lkdtm_STACK_GUARD_PAGE_LEADING", False)],
    "sysrq-crash": [("panic", "Kernel panic: sysrq triggered crash in sysrq_handle_crash", True)],
    "kasan": [("kasan", "BUG: KASAN: slab-use-after-free in rpcrdma_xprt_drain", False)],
    "two-cpus": [
        ("warning", "WARNING in skb_splice_from_iter", False),
        ("refcount", "refcount_t: underflow; use-after-free in siw_qp_put", False),
    ],
    "lockdep-circular": [
        ("lockdep", "lockdep: possible circular locking dependency detected in cifs_reconnect", False)
    ],
    "faults": [
        ("oops", "general protection fault in opinfo_put", True),
        ("oops", "general protection fault in rxrpc_send_data", False),
        ("oops", "BUG: kernel NULL pointer dereference in siw_tx_hdt", False),
        ("oops", "BUG: unable to handle page fault in nvmet_tcp_done_recv_pdu", False),
    ],
    "checkers": [
        ("ubsan", "UBSAN: array-index-out-of-bounds in queue_data", False),
        ("kcsan", "BUG: KCSAN: data-race in tcp_sendmsg_locked / tcp_poll", False),
        ("bug", "BUG kmalloc-64: Right Redzone overwritten in alg_setkey", False),
        ("kmemleak", "kmemleak: new suspected memory leaks", False),
        ("lockdep", "BUG: sleeping function called from invalid context in send_to_sock", False),
        ("lockdep", "BUG: scheduling while atomic in lowcomms_queue_swork", False),
        ("workqueue", "BUG: workqueue lockup: rxrpc_process_call", False),
        ("bug", "BUG: Bad page state in unix_stream_sendpage", False),
        ("bug", "unregister_netdevice: waiting for a device to become free", False),
        ("lockdep", "lockdep: suspicious RCU usage in tls_sw_sendpage", False),
    ],
    "plain": [
        ("lockdep", "lockdep: trying to register non-static key in siw_create_qp", False),
        ("lockdep", "lockdep: chain_key collision in rxrpc_send_data", False),
        ("bug", "csd: non-responsive CSD lock in siw_run_sq", False),
        ("bug", "sysfs: cannot create duplicate filename in erofs_register_sysfs", False),
        ("bug", "kmem_cache_destroy cifs_request: Slab cache still has objects in exit_cifs", False),
        ("warning", "WARNING in exit_cifs", False),
    ],
    "warn-6.19": [("warning", "WARNING in tcp_sendmsg_locked", False)],
    "innocent": [],
}


def read(name):
    return (DATA / f"{name}.txt").read_bytes()


def facts(log, **options):
    return [(s.kind, s.title, s.fatal) for s in find_splats(log, **options)]


def one(log):
    (splat,) = find_splats(log)
    return splat


def test_every_sample_has_an_expectation():
    assert {path.stem for path in DATA.glob("*.txt")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_samples(name):
    assert facts(read(name)) == EXPECTED[name]


@pytest.mark.parametrize("name", [n for n in EXPECTED if n not in {"two-cpus", "innocent"}])
def test_the_same_without_time_stamps(name):
    """A kernel without CONFIG_PRINTK_TIME; user space's lines cannot be told apart then."""
    log = re.sub(rb"(?m)^\[ *[\d.]+\](?:\[ *T\d+\])? ", b"", read(name))
    assert facts(log) == EXPECTED[name]


def test_level_prefixes_and_colours():
    log = re.sub(rb"(?m)^\[", b"<4>[", read("lkdtm-oops-panic"))
    assert facts(log) == EXPECTED["lkdtm-oops-panic"]
    plain = re.sub(rb"(?m)^\[ *[\d.]+\] ", b"<4>", read("lkdtm-oops-panic"))
    assert facts(plain) == EXPECTED["lkdtm-oops-panic"]
    red = read("lkdtm-panic").replace(b"] Kernel panic", b"] \x1b[1;31mKernel panic\x1b[0m")
    assert facts(red) == EXPECTED["lkdtm-panic"]


def test_text_is_whole_and_clean():
    splat = one(read("lkdtm-oops-panic"))
    lines = splat.text.split("\n")
    assert "BUG: kernel NULL pointer dereference, address:" in lines[0]
    assert "Kernel panic - not syncing: Fatal exception" in splat.text
    assert lines[-1].endswith("Kernel Offset: disabled")
    assert "\r" not in splat.text
    warning = find_splats(read("lkdtm-many"))[1].text.split("\n")
    assert warning[0].endswith("------------[ cut here ]------------")
    assert warning[-1].endswith("---[ end trace 0000000000000000 ]---")
    kasan = one(read("kasan"))
    assert kasan.text.count("=====\n") == 1
    assert kasan.text.endswith("=====")
    assert "the server says" not in kasan.text


def test_reports_of_two_cpus_do_not_mix():
    first, second = find_splats(read("two-cpus"))
    assert "T202" not in first.text
    assert "T101" not in second.text
    assert len(first.text.split("\n")) == len(second.text.split("\n")) == 11


def test_fingerprint_survives_what_varies():
    log = read("nmi-hang")
    other = log.replace(b"CPU: 0 PID: 42", b"CPU: 3 PID: 977").replace(b"[    7.", b"[  812.")
    other = other.replace(b"ffa000000014be18", b"ffb1110000222000").replace(b"+0x8/0x10", b"+0xc/0x20")
    other = other.replace(b"direct_entry.cold+", b"direct_entry.constprop.0.isra.0+")
    assert one(log).fingerprint == one(other).fingerprint
    assert one(log).title == one(other).title
    assert one(log.replace(b"lkdtm_HARDLOCKUP", b"siw_run_sq")).fingerprint != one(log).fingerprint


def test_the_same_oops_with_and_without_its_panic_is_one():
    alone = next(s for s in find_splats(read("lkdtm-many")) if s.kind == "oops")
    assert alone.fingerprint == one(read("lkdtm-oops-panic")).fingerprint


def test_user_space_on_the_line_before_a_message():
    log = read("lkdtm-panic").replace(b"[    1.682431] Kernel panic", b"progress 50% [    1.682431] Kernel panic")
    assert facts(log) == EXPECTED["lkdtm-panic"]


def test_a_panic_that_the_console_did_not_get_through():
    log = b"[    1.000000] eth0: up\n[    2.000000] Kernel panic - not syncing: stack-protector: gone\n"
    assert facts(log) == []
    assert facts(log, died=True) == [("panic", "Kernel panic: stack-protector: gone", True)]
    forged = log + b"[    3.000000] eth0: still there\n" * 5
    assert facts(forged) == []


def test_a_forged_panic_behind_a_real_warning_is_not_fatal():
    warning = find_splats(read("lkdtm-many"))[0].text.encode()
    assert facts(warning + b"\n[    3.000000] Kernel panic - not syncing: just a test\n") == [
        ("warning", "WARNING in lkdtm_WARNING", False)
    ]


def test_a_log_with_a_hole():
    whole = read("lkdtm-oops-panic").split(b"\n")
    start = next(n for n, line in enumerate(whole) if b"BUG: kernel NULL" in line)
    log = b"\n".join([*whole[: start + 1], b"[... 123456 bytes cut ...]", b"[   99.000000] eth0: up"])
    splat = one(log)
    assert splat.kind == "oops"
    assert splat.text.endswith("[... 123456 bytes cut ...]")
    headless = b"\n".join(whole[start + 20 :])  # a dump without a name is nothing, its panic is one
    assert facts(headless) == [("panic", "Kernel panic: Fatal exception", True)]


def test_dmesg_on_the_console_does_not_count_twice():
    log = read("lkdtm-panic-on-warn")
    assert facts(log + b"\n" + log) == EXPECTED["lkdtm-panic-on-warn"]


def test_a_flood_is_bounded_and_the_panic_behind_it_kept():
    trace = b"".join(b"[    1.000000]  f%d+0x1/0x2\n" % n for n in range(2 * MAX_LINES))
    log = b"".join(
        b"[    1.%06d] WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2\n[    1.000000] Call Trace:\n" % n + trace
        for n in range(20)
    )
    panic = read("lkdtm-panic")
    found = find_splats(log + panic)
    assert [s.kind for s in found] == ["warning"] * MAX_SAME + ["panic"]
    assert found[0].text.endswith("lines cut ...]")


def test_garbage_is_survived_and_linear():
    rng = random.Random(1)
    pieces = [read(name) for name in EXPECTED] + [b"\xff\x00\x1b[", b"[" * 5000, b" in" * 3000, b"\r", b"\n"]
    for _ in range(30):
        parts = []
        for _ in range(10):
            piece = rng.choice(pieces)
            cut = rng.randrange(len(piece) + 1)
            parts += [piece[:cut], rng.randbytes(50)]
        for splat in find_splats(b"".join(parts)):
            assert splat.text
            assert splat.title.isprintable()
            assert len(splat.fingerprint) == 12
    begin = time.process_time()
    find_splats(os.urandom(1 << 20) + b"[" * (1 << 20) + b"[   12.345678]" * (1 << 16) + b"a " * (1 << 20))
    assert time.process_time() - begin < 5


def test_text_is_taken_as_well():
    assert facts(read("lkdtm-panic").decode()) == EXPECTED["lkdtm-panic"]
    assert find_splats(b"") == []


def test_an_address_in_a_caches_name_is_no_part_of_the_title():
    log = (
        b"[   12.000002][  T1] BUG smbd_response_%s (Not tainted): Objects remaining in smbd_response_%s on x()\n"
        b"[   12.000005][  T1] CPU: 0 PID: 5 Comm: x Not tainted 6.1 #1\n[   12.000006][  T1] Call Trace:\n"
        b"[   12.000009][  T1]  __kmem_cache_shutdown+0x10/0x20\n"
    )
    one, other = (find_splats(log % (address, address)) for address in (b"000000009911a085", b"00000000deadbeef"))
    assert one[0].title == other[0].title
    assert "9911a085" not in one[0].title
