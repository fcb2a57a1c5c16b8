"""Kernel reports of every kind, and what is none: each with its kind, its title and whether the kernel stopped there.

The files are cut to the lines that matter. Most are written after reports of kernels from 4.9 to 6.19; arm64-null-read,
riscv64-* and s390x-* are from guests of 6.12.
"""

import re
import time
from pathlib import Path

import pytest

from kpatchlab.evidence.patterns import DIED, FIRST, HEADERS, OOM
from kpatchlab.evidence.splats import find_splats

DATA = Path(__file__).parent / "data" / "console"

EXPECTED = {
    "an-unrelated-line-before-oops": [("oops", "BUG: kernel NULL pointer dereference in victim", False)],
    "arm64-dump-stack": [("lockdep", "lockdep: suspicious RCU usage in victim", False)],
    "arm64-null-read-6-12": [("oops", "BUG: kernel NULL pointer dereference in splat_deref", False)],
    "arm64-page-fault": [("oops", "BUG: unable to handle page fault in victim", False)],
    "arm64-panic-after-an-oops": [("oops", "Oops in victim", True)],
    "bug-line-names-the-function-lock-held-when-returning-to": [
        ("lockdep", "lockdep: lock held when returning to user space in victim", False)
    ],
    "divide-error-5-8-5-9": [("oops", "divide_error in victim", False)],
    "early-exception": [("oops", "early exception in victim", False)],
    "fortify": [("bug", "kernel BUG in victim", False)],
    "hung-task-on-a-helper": [("hung-task", "INFO: task hung in victim", False)],
    "hung-task-whose-name-has-a-line-feed": [("hung-task", "INFO: task hung in victim", False)],
    "irq-lock-order": [("lockdep", "lockdep: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected in victim", False)],
    "irq-nobody-cared": [("dump", "irq 4: nobody cared in __report_bad_irq", False)],
    "kcov-in-the-program-counter": [("soft-lockup", "BUG: soft lockup in victim", False)],
    "kcsan-report-with-a-blank-more": [("kcsan", "BUG: KCSAN: data-race in victim", False)],
    "kmemleak-of-a-slab-cache": [("kmemleak", "kmemleak: unreferenced object in victim", False)],
    "kmemleak": [("kmemleak", "kmemleak: unreferenced object in victim", False)],
    "kobject-re-initialised": [
        (
            "dump",
            "kobject: kobject (N): tried to init an initialized object, something is seriously wrong in victim",
            False,
        )
    ],
    "odebug": [("warning", "WARNING in victim", False)],
    "page-allocation-failure": [("dump", "page allocation failure: order:4 in victim", False)],
    "page-poisoning": [("dump", "pagealloc: memory corruption in victim", False)],
    "panic-that-follows-kasan-fault-panic-set": [("kasan", "BUG: KASAN: slab-out-of-bounds in victim", True)],
    "panic-that-follows-kernel-system-warned-too-often-kernel": [("warning", "WARNING in victim", True)],
    "panic-that-follows-kmsan-panic-set": [("bug", "BUG: KMSAN: uninit-value in victim", True)],
    "panic-that-follows-machine-halted": [("oops", "double fault in victim", True)],
    "panic-that-follows-oopsed-too-often-kernel-oops-limit-is": [
        ("oops", "BUG: kernel NULL pointer dereference in victim", True)
    ],
    "panic-that-follows-scheduling-while-atomic": [("lockdep", "BUG: scheduling while atomic in victim", True)],
    "preemptible": [("bug", "BUG: using smp_processor_id() in victim", False)],
    "rcu-stall-sched-show-task": [("rcu-stall", "rcu_preempt stall in victim", False)],
    "refcount-helpers-no-full-inline": [("refcount", "refcount_t: underflow; use-after-free in victim", False)],
    "retpoline-in-the-program-counter": [("oops", "general protection fault in victim", False)],
    "riscv-dump-stack": [("bug", "BUG: Bad page state in victim", False)],
    "riscv64-null-read-6-12": [("oops", "BUG: kernel NULL pointer dereference in splat_deref", False)],
    "riscv64-sysrq-panic-6-12": [("panic", "Kernel panic: sysrq triggered crash in __handle_sysrq", True)],
    "rss-counter-and-page-tables-leaked": [
        ("bug", "BUG: Bad rss-counter state", False),
        ("bug", "BUG: non-zero pgtables_bytes on freeing mm", False),
    ],
    "s390x-wild-write-6-12": [("oops", "BUG: unable to handle page fault in splat_write", False)],
    "segment-related-gpf-5-5-6-10": [("oops", "general protection fault in victim", False)],
    "skb-panic": [("bug", "kernel BUG in victim", False)],
    "spinlock": [("bug", "BUG: spinlock bad magic in victim", False)],
    "still-has-locks-held": [("lockdep", "lockdep: still has locks held in victim", False)],
    "ubsan-overflow": [("ubsan", "UBSAN: signed-integer-overflow in victim", False)],
    "usercopy": [("bug", "kernel BUG in victim", False)],
    "warn-header-log-cut-there-by-the-end-of-the-guest": [("warning", "WARNING in victim", False)],
    "warn-in-a-module-6-19": [("warning", "WARNING in amd_thing", False)],
    "warn-in-a-module-with-a-build-id-6-19": [("warning", "WARNING in amd_thing", False)],
    "warn-in-the-page-allocator-for-a-huge-order": [("warning", "WARNING in victim", False)],
    "warn-whose-registers-are-missing-its-own-line-names-the": [("warning", "WARNING in victim", True)],
    "warn-with-the-condition-brackets-in-it-6-19": [("warning", "WARNING in victim", False)],
    "warn-without-file-6-19-cfi-no-bugverbose": [("warning", "WARNING in victim", False)],
    "x86-32-pde": [("oops", "BUG: kernel NULL pointer dereference in victim", False)],
}

WHO = "CPU: 0 UID: 0 PID: 9 Comm: t Not tainted 6.12.0 #1"
STACK = (
    WHO,
    "Call Trace:",
    " <TASK>",
    " dump_stack_lvl+0x5d/0x80",
    " victim+0x1b/0x60",
    " caller+0x48e/0x1040",
    " </TASK>",
)
FAULT = (
    WHO,
    "RIP: 0010:victim+0x1b/0x60",
    "Call Trace:",
    " caller+0x48e/0x1040",
    "---[ end trace 0000000000000000 ]---",
)
NULL_POINTER = "BUG: kernel NULL pointer dereference, address: 0000000000000010"
USER = "Unable to handle kernel access to user memory"
FOREIGN = "usb 1-6: New USB device found"


def stamped(*messages, caller=""):
    """Return a log of these messages with the kernel's stamps; a list is lines of its own, without any."""
    rows = []
    for number, message in enumerate(messages):
        tag = f"[{caller:>6}]" if caller else ""
        rows.append(message[0] if isinstance(message, list) else f"[    1.{number:06d}]{tag} {message}")
    return "\n".join([*rows, ""]).encode()


def facts(log, **options):
    return [(splat.kind, splat.title, splat.fatal) for splat in find_splats(log, **options)]


def names(*messages, **options):
    """Return kind and title of each report."""
    return [(splat.kind, splat.title) for splat in find_splats(stamped(*messages), **options)]


def test_every_file_has_an_expectation():
    assert {path.stem for path in DATA.glob("*.txt")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_report(name):
    assert facts((DATA / f"{name}.txt").read_bytes()) == EXPECTED[name]


@pytest.mark.parametrize("name", [name for name in EXPECTED if not name.startswith("kmemleak") and "-cut-" not in name])
def test_a_report_between_other_lines(name):
    """What stands before and behind a report does not change it; kmemleak's file has no stamps."""
    log = (DATA / f"{name}.txt").read_bytes()
    around = stamped(*[f"eth{n}: link becomes ready" for n in range(12)])
    assert facts(around + log + around) == EXPECTED[name]


@pytest.mark.parametrize(
    "first",
    [
        "WARNING: drivers/x/amd.c:58 at victim+0x12/0x20, CPU#8: my task/469",
        "WARNING: drivers/x/amd.c:58 at victim+0x12/0x20 [amdx], CPU#8: my task (x)/469",
        "WARNING: [ret < 0 && tbl[i].n[0] == 'a'] net/core/x.c:7 at victim+0x12/0x20 [amdx], CPU#0: t/9",
        "WARNING: at victim+0x12/0x20 [amdx 0123456789abcdef], CPU#0: t/9",
        "WARNING: [a at b] at victim+0x12/0x20, CPU#12: t/9",
        "WARNING: CPU: 0 PID: 9 at victim+0x12/0x20",
        "WARNING: CPU: 0 PID: 9 at net/core/x.c:7 victim+0x12/0x20 [amdx]",
        "WARNING: CPU: 0 PID: 9 at net/core/x.c:7 victim+0x12/0x20()",
    ],
)
def test_a_warning(first):
    rip = "RIP: 0010:victim+0x12/0x20 [amdx]"
    whole = (
        "------------[ cut here ]------------",
        first,
        "Modules linked in: amdx",
        WHO,
        rip,
        "Call Trace:",
        " f+0x1/0x2",
    )
    assert names(*whole) == [("warning", "WARNING in victim")]
    assert names(first) == [("warning", "WARNING in victim")]  # the guest died there
    assert names(first, FOREIGN, FOREIGN) == [("warning", "WARNING in victim")]


@pytest.mark.parametrize(
    "text",
    ["WARNING: this is plain", "WARNING: at 3 o'clock, CPU time is short", "WARNING: x at home, CPU#1", "WARNING: foo"],
)
def test_a_plain_line_with_warning_is_none(text):
    assert names(text, FOREIGN) == []


@pytest.mark.parametrize(
    ("first", "title"),
    [
        ("segment-related general protection fault: beec [#1] PREEMPT SMP", "general protection fault"),
        (
            "general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP",
            "general protection fault",
        ),
        ("Oops: general protection fault, maybe for address 0x10: 0000 [#1] SMP", "general protection fault"),
        ("divide_error: 0000 [#1] PREEMPT SMP", "divide_error"),
        ("divide error: 0000 [#1] PREEMPT SMP", "divide error"),
        ("invalid_op: 0000 [#1] SMP", "invalid_op"),
        ("stack segment: 0000 [#3] SMP", "stack segment"),
        ("coprocessor segment overrun: 0000 [#1] SMP", "coprocessor segment overrun"),
        ("Oops: alignment check: 0000 [#1] SMP", "alignment check"),
        ("Oops: int3: 0000 [#1] SMP", "int3"),
        ("PANIC: early exception 0x0d IP 10:ffffffff81000000 error 0 cr2 0x10", "early exception"),
        ("traps: PANIC: double fault, error_code: 0x0", "double fault"),
        ("Oops: 0002 [#1] SMP", "Oops"),
        ("Oops: Oops: 0002 [#1] SMP NOPTI", "Oops"),
        ("Internal error: synchronous external abort: 0000000096000210 [#1] PREEMPT SMP", "synchronous external abort"),
        ("specification exception: 0006 ilc:3 [#1] SMP", "specification exception"),
    ],
)
def test_a_trap(first, title):
    assert names(first, *FAULT) == [("oops", f"{title} in victim")]


@pytest.mark.parametrize(
    ("first", "title"),
    [
        ("bad: scheduling from the idle thread!", "bad: scheduling from the idle thread"),
        ('irq 17: nobody cared (try booting with the "irqpoll" option)', "irq N: nobody cared"),
        (
            "t: page allocation failure: order:0, mode:0x820(GFP_ATOMIC), nodemask=(null)",
            "page allocation failure: order:0",
        ),
        ("t/9: vmalloc error: size 4096, failed to map pages", "vmalloc error: size N, failed to map pages"),
        ("XFS (vda): Internal error i != 1 at line 17 of file fs/xfs/x.c.  Caller xfs_btree_x+0x1/0x2", None),
        ("percpu: allocation failed, size=8 align=8 atomic=1, alloc from reserved chunk failed", None),
        ("kmemleak: Cannot insert 0xffff888003692380 into the object search tree (overlaps existing)", None),
        ("kobject_add_internal failed for eth0 with -EEXIST, don't try to register things with the same name", None),
        ("kobject: (00000000a628c021): attempted to be registered with empty name!", "kobject: (N): attempted"),
        ("unknown subsystem: something is wrong", "unknown subsystem: something is wrong"),
    ],
)
def test_a_dump_below_any_other_line(first, title):
    (found,) = names(FOREIGN, first, *STACK, FOREIGN)
    assert found[0] == "dump"
    assert found[1].endswith(" in victim")
    assert found[1].startswith(title or first[:20])


def test_a_dump_without_its_head():
    """ex_handler_msr() prints a stack alone."""
    first = "unchecked MSR access error: WRMSR to 0x38f at rIP: 0xffffffff81 (native_write_msr+0x4/0x20)"
    ((kind, title),) = names(first, "Call Trace:", " victim+0x1b/0x60")
    assert (kind, title.endswith(" in victim")) == ("dump", True)


def test_a_dump_behind_another_report():
    warning = ("WARNING: CPU: 0 PID: 9 at a.c:1 other+0x1/0x2", *FAULT[:-1], FAULT[-1])
    assert names(*warning, "irq 4: nobody cared", *STACK) == [
        ("warning", "WARNING in victim"),
        ("dump", "irq 4: nobody cared in victim"),
    ]
    assert names("BUG: Bad rss-counter state mm:00 type:MM_ANONPAGES val:2", "irq 4: nobody cared", *STACK) == [
        ("bug", "BUG: Bad rss-counter state"),
        ("dump", "irq 4: nobody cared in victim"),
    ]


@pytest.mark.parametrize(
    "before",
    [
        ("FAULT_INJECTION: forcing a failure.", "name failslab, interval 1, probability 0, space 0, times 1"),
        ("sysrq: Show backtrace of all active CPUs", "NMI backtrace for cpu 0"),
        ("sysrq: Show backtrace of all active CPUs", "sysrq: CPU1:"),
        ("sysrq: Show Regs",),
        ("sysrq: SysRq : Show Regs",),
        ("Testing a backtrace from process context.", "The following trace is a kernel self test and not a bug!"),
        ("Sending NMI from CPU 0 to CPUs 1:", "NMI backtrace for cpu 1"),
    ],
)
def test_a_dump_that_somebody_asked_for(before):
    assert names(*before, *STACK) == []
    assert names(*before, WHO, FOREIGN, *STACK[1:]) == []
    warning = ("WARNING: CPU: 0 PID: 9 at a.c:1 victim+0x1/0x2", *FAULT)
    assert names(*warning, *before, *STACK) == [("warning", "WARNING in victim")]


def test_the_tasks_that_sysrq_shows():
    new = (
        "sysrq: Show State",
        "task:init            state:S stack:0     pid:1     ppid:0      flags:0x00000000",
        "Call Trace:",
    )
    old = ("sysrq: Show Blocked State", "  task                        PC stack   pid father")
    old = (*old, "kworker/0:1     D    0    12      2 0x80000000", "Call Trace:")
    assert names(*new, *STACK[2:]) == []
    assert names(*old, *STACK[2:]) == []


def test_a_user_program_that_dies():
    registers = ("RIP: 0033:0x401000", "RSP: 002b:00007ffe EFLAGS: 00010246", "Code: 90 90")
    assert names("potentially unexpected fatal signal 11.", WHO, *registers) == []
    arm = ("pc : 0000aaaabbbb0000", "lr : 0000aaaabbbb0010", "sp : 0000ffffcccc0000")
    assert names("t[9]: unhandled exception: DABT (lower EL), ESR 0x92000046", WHO, *arm) == []


@pytest.mark.parametrize(
    ("line", "title"),
    [
        ("BUG: Bad rss-counter state mm:ffff88005fac4300 idx:0 val:15", "BUG: Bad rss-counter state"),
        ("BUG: non-zero pgtables_bytes on freeing mm: 8192", "BUG: non-zero pgtables_bytes on freeing mm"),
        ("VFS: Busy inodes after unmount of vdb (ext4)", "VFS: Busy inodes after unmount"),
        ("VFS: Busy inodes after unmount of tmpfs. Self-destruct in 5 seconds.", "VFS: Busy inodes after unmount"),
        ("ref_tracker: net notrefcnt@ffff888012345678 has 1/1 users at", "ref_tracker: leaked reference"),
        ("ref_tracker: netdev@0000000055f4b7f9 has 3/7 users at", "ref_tracker: leaked reference"),
        ("ref_tracker: reference already released.", "ref_tracker: reference already released"),
        ("BUG: Dentry 00000000a628c021{i=1,n=x}  still in use (1) [unmount of tmpfs]", "BUG: Dentry still in use"),
    ],
)
def test_a_line_that_is_a_whole_report(line, title):
    assert names(FOREIGN, line, *[FOREIGN] * 70) == [("bug", title)]
    if line.endswith("users at"):
        stack = ("     sk_alloc+0x10/0x20", "     victim+0x10/0x20")
        assert names(line, *stack, FOREIGN) == [("bug", "ref_tracker: leaked reference in sk_alloc")]


def test_a_warning_behind_the_line_that_says_why_is_the_same_report():
    warning = ("------------[ cut here ]------------", "WARNING: CPU: 0 PID: 9 at fs/dcache.c:1 umount_check+0x1/0x2")
    dump = (
        WHO,
        "RIP: 0010:umount_check+0x1/0x2",
        "Call Trace:",
        " d_walk+0x1/0x2",
        "---[ end trace 0000000000000000 ]---",
    )
    line = "BUG: Dentry 00000000a628c021{i=1,n=x}  still in use (1) [unmount of tmpfs]"
    assert names(line, *warning, "Modules linked in:", "", *dump) == [
        ("bug", "BUG: Dentry still in use in umount_check")
    ]
    other = names("BUG: Bad rss-counter state mm:00 type:MM_ANONPAGES val:2", *warning, *dump)
    assert [kind for kind, _ in other] == ["bug", "warning"]


def test_a_guest_that_died_behind_cut_here():
    assert names(FOREIGN, "------------[ cut here ]------------", died=True) == [("bug", "cut off")]
    assert names(FOREIGN, "------------[ cut here ]------------") == []


@pytest.mark.parametrize(
    "first",
    [
        ("INFO: task a", "b:18088 blocked for more than 143 seconds."),
        ("INFO: task", "ab:18088 blocked for more than 143 seconds."),
        ("INFO: task a", "b", "c:18088 blocked in I/O wait for more than 143 seconds."),
        ("INFO: task a b:7 blocked for more than 143 seconds.",),
        ("INFO: task a", "b:7 can't die for more than 143 seconds."),
    ],
)
def test_a_line_feed_in_a_tasks_name(first):
    stack = ("task:a", "b state:D stack:0 pid:18088", "Call Trace:", " __schedule+0x10e9/0x6820", " victim+0x1b/0x60")
    assert names(*first, *stack) == [("hung-task", "INFO: task hung in victim")]
    tagged = stamped(*first, *stack, caller="T41")
    assert facts(tagged) == [("hung-task", "INFO: task hung in victim", False)]
    ((kind, title),) = names(
        "a", "b: page allocation failure: order:4, mode:0x1", "CPU: 0 PID: 9 Comm: a", "b Not tainted 6", *STACK[1:]
    )
    assert (kind, title) == ("dump", "b: page allocation failure: order:4 in victim")


@pytest.mark.parametrize(
    ("last", "found"),
    [
        (("BUG: unable to handle page fault for address: ffffea0000f0e440", "#PF: supervisor read access"), "oops"),
        (("------------[ cut here ]------------", "kernel BUG at mm/slub.c:3035!"), "bug"),
        (("BUG: KFENCE: out-of-bounds read in victim+0x1/0x2",), "bug"),
        (("WARNING: drivers/x/amd.c:58 at victim+0x12/0x20 [am",), "warning"),
        (("Kernel panic - not syncing: Fatal exception in interrupt",), "panic"),
        (("BUG: spinlock bad magic on CPU#0, t/9",), "bug"),
    ],
)
def test_a_log_that_ends_in_a_report(last, found):
    assert [kind for kind, _ in names(FOREIGN, *last)] == [found]
    live = names(FOREIGN, *last, whole=False)
    assert live == [] or "#PF" in last[-1]  # while the guest prints, the rest may still come


@pytest.mark.parametrize("count", [1, 3, 7])
@pytest.mark.parametrize(
    ("lines", "title"),
    [
        ((NULL_POINTER, "Oops: 0000 [#1] SMP NOPTI"), "BUG: kernel NULL pointer dereference in victim"),
        ((NULL_POINTER, "PGD 0 P4D 0", "Oops: Oops: 0002 [#1] SMP"), "BUG: kernel NULL pointer dereference in victim"),
        (("kernel BUG at mm/x.c:7!", "Oops: invalid opcode: 0000 [#1] SMP"), "kernel BUG in victim"),
        (("kernel BUG at mm/x.c:7!", "Internal error: Oops - BUG: 00000000f2000800 [#1] SMP"), "kernel BUG in victim"),
        (("kernel BUG at mm/x.c:7!", "Kernel BUG [#1]"), "kernel BUG in victim"),
        (
            (
                "refcount_t: underflow; use-after-free.",
                "WARNING: CPU: 0 PID: 9 at lib/refcount.c:28 refcount_warn_saturate+0x1/0x2",
            ),
            "refcount_t: underflow; use-after-free in victim",
        ),
        (
            (
                "list_del corruption. prev->next should be x",
                "------------[ cut here ]------------",
                "kernel BUG at lib/list_debug.c:56!",
            ),
            "list_del corruption in victim",
        ),
    ],
)
def test_foreign_lines_among_the_first_ones(lines, title, count):
    """They change neither the number of reports nor kind, title and fingerprint."""
    (alone,) = find_splats(stamped(*lines, *FAULT))
    mixed = [row for line in lines for row in (line, *[FOREIGN] * count)]
    (among,) = find_splats(stamped(*mixed, *FAULT))
    assert among.title == alone.title == title
    assert (among.kind, among.fingerprint) == (alone.kind, alone.fingerprint)


def test_who_allocated_and_freed_a_slab_object_are_parts_of_its_report():
    line = "-----------------------------------------------------------------------------"
    head = (
        "BUG kmalloc-64 (Tainted: G    B            ): Right Redzone overwritten",
        line,
        "",
        "0xf-0xf. First byte 0x0",
    )
    allocated = ("Allocated in maker+0x1/0x2 age=3 cpu=0 pid=9", " __kmalloc+0x1/0x2", " maker+0x1/0x2")
    freed = (
        "INFO: Freed in other+0x1/0x2 age=4 cpu=0 pid=9",
        " kfree+0x1/0x2",
        "Slab 0xf objects=1",
        "Object   f: 00 00",
    )
    stack = (WHO, "Call Trace:", " dump_stack+0x1/0x2", " check_object+0x1/0x2", " victim+0x1/0x2")
    assert names(*head, *allocated, *freed, *stack) == [("bug", "BUG kmalloc-64: Right Redzone overwritten in victim")]
    assert names(FOREIGN, *freed) == [("bug", "slab object: Freed in other")]  # all else was dropped


@pytest.mark.parametrize("what", ["atomic", "non migratable"])
def test_a_context_that_is_not_as_assumed(what):
    """The kernel takes it for a warning, as sleeping where that is not allowed: sched/core.c."""
    first = f"BUG: assuming {what} context at kernel/bpf/x.c:17"
    assert names(first, "in_atomic(): 0, irqs_disabled(): 0, pid: 9, name: t", *STACK) == [
        ("lockdep", f"BUG: assuming {what} context in victim")
    ]


def test_two_oopses_are_two():
    found = names(NULL_POINTER, "Oops: 0000 [#1] SMP", *FAULT, NULL_POINTER, "Oops: 0000 [#2] SMP", *FAULT)
    assert found == [("oops", "BUG: kernel NULL pointer dereference in victim")] * 2


@pytest.mark.parametrize(
    "reason",
    [
        "Fatal exception in interrupt",
        "Oops - BUG: Fatal exception",
        "UBSAN: panic_on_warn set ...",
        "kfence.fault=panic set ...",
        "panic_on_taint set ...",
        "kernel: system warned too often (kernel.warn_limit is 5)",
        "Oopsed too often (kernel.oops_limit is 1)",
        "RCU Stall",
        "softlockup: hung tasks",
        "hung_task: blocked tasks",
        "Attempted to kill the idle task!",
        "Aiee, killing interrupt handler!",
        "workqueue: 1 stall(s) exceeded threshold",
    ],
)
def test_a_panic_that_follows(reason):
    end = (f"Kernel panic - not syncing: {reason}", WHO, "Call Trace:", " panic+0x2c0/0x41c", " other+0x5f/0x180")
    log = stamped(
        NULL_POINTER,
        "Oops: 0000 [#1] SMP",
        *FAULT,
        FOREIGN,
        *end,
        f"---[ end Kernel panic - not syncing: {reason} ]---",
    )
    assert facts(log) == [("oops", "BUG: kernel NULL pointer dereference in victim", True)]


def test_a_panic_of_its_own_is_told_beside_an_earlier_warning():
    warning = ("WARNING: CPU: 0 PID: 9 at a.c:1 victim+0x1/0x2", *FAULT)
    panic = (
        "Kernel panic - not syncing: VFS: Unable to mount root fs",
        *STACK[:3],
        " panic+0x1/0x2",
        " mount_root+0x1/0x2",
    )
    assert [kind for kind, _ in names(*warning, FOREIGN, *panic)] == ["warning", "panic"]


@pytest.mark.parametrize(
    "helpers",
    [
        ("kobject_create_and_add",),
        ("delay_tsc", "__const_udelay"),
        ("__x86_return_thunk",),
        ("srso_alias_return_thunk",),
        ("__sanitizer_cov_trace_const_cmp8", "write_comp_data"),
        ("kmem_cache_alloc_lru_noprof",),
        ("__vmalloc_node_range_noprof", "__kvmalloc_node_noprof"),
        ("alloc_pages_mpol_noprof", "___kmalloc_large_node"),
        ("kfree", "__slab_free"),
        ("refcount_dec_and_mutex_lock_checked",),
        ("debug_object_assert_init", "debug_print_object"),
        ("_raw_read_lock_irqsave", "do_raw_read_lock", "rwlock_bug"),
        ("__mutex_lock_common", "mutex_lock_nested"),
        ("skb_under_panic", "skb_push"),
        ("usercopy_warn", "check_stack_object"),
        ("folio_wait_bit_common", "io_schedule"),
        ("__pi_memcpy",),
        ("sized_strscpy",),
        ("__arch_copy_from_user",),
        ("dump_backtrace", "show_stack"),
        ("__list_add_valid_or_report",),
    ],
)
def test_machinery_is_no_title(helpers):
    counter, *stack = (*helpers, "victim")
    frames = [f" {name}+0x12/0x34" for name in stack]
    fault = (NULL_POINTER, "Oops: 0000 [#1] SMP", WHO, f"RIP: 0010:{counter}+0x12/0x34", "Call Trace:")
    assert names(*fault, *frames) == [("oops", "BUG: kernel NULL pointer dereference in victim")]
    stall = (
        "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [t:9]",
        WHO,
        f"RIP: 0010:{counter}+0x12/0x34",
        "Call Trace:",
    )
    assert names(*stall, *frames) == [("soft-lockup", "BUG: soft lockup in victim")]
    kasan = (f"BUG: KASAN: slab-out-of-bounds in {counter}+0x12/0x34", WHO, "Call Trace:", " dump_stack+0x1/0x2")
    assert names(*kasan, *frames) == [("kasan", "BUG: KASAN: slab-out-of-bounds in victim")]


def test_functions_that_only_look_like_machinery_are_named():
    for name in ("mark_block_processed", "watchdog_ping", "stub_complete", "find_get_context", "ntfs_read_lock_x"):
        assert names(NULL_POINTER, WHO, f"RIP: 0010:{name}+0x1/0x2", "Call Trace:", " caller+0x1/0x2") == [
            ("oops", f"BUG: kernel NULL pointer dereference in {name}")
        ]


@pytest.mark.parametrize(
    "registers",
    [
        (
            "RIP: 0010:0x0",
            "Code: Unable to access opcode bytes at 0xffffffffffffffd6.",
            "RSP: 0018:ffff888 EFLAGS: 00010246",
        ),
        ("pc : 0x0", "lr : victim+0x28/0x58", "sp : ffff8000805438e0"),
        ("epc : 0x0", " ra : victim+0x28/0x58", "epc : 0000000000000000 ra : ffffffff01e74076 sp : ff200000003437d0"),
        ("Krnl PSW : 0704c00180000000 0000000000000002 (0x2)", "           R:0 T:1 IO:1 EX:1 Key:0"),
    ],
)
def test_a_call_of_a_null_pointer_is_named_after_the_caller(registers):
    """The kernel repeats the registers of the first oops behind those of each later one."""
    first = (NULL_POINTER, "Oops: 0000 [#1] SMP", WHO, "RIP: 0010:earlier+0x1/0x2", "Call Trace:", " f+0x1/0x2")
    again = ("---[ end trace 0000000000000000 ]---", "RIP: 0010:earlier+0x1/0x2", "Code: 90")
    second = (NULL_POINTER, "#PF: supervisor instruction fetch in kernel mode", "Oops: 0010 [#2] SMP", WHO, *registers)
    stack = (
        "Call Trace:",
        " <TASK>",
        " ? __die_body+0x1a/0x60",
        " ? earlier+0x1/0x2",
        " victim+0x28/0x58",
        " caller+0x1/0x2",
    )
    found = find_splats(stamped(*first, *again, *second, *stack, *again))
    assert [splat.title for splat in found] == [
        "BUG: kernel NULL pointer dereference in earlier",
        "BUG: kernel NULL pointer dereference in victim",
    ]
    (read,) = find_splats(stamped(NULL_POINTER, WHO, "RIP: 0010:victim+0x28/0x58", "Call Trace:", " caller+0x1/0x2"))
    assert read.fingerprint != found[1].fingerprint


def test_a_guessed_frame_is_never_preferred_to_the_program_counter():
    guessed = (" ? __die_body+0x1a/0x60", " ? __reset_stat_session+0x1/0x2", " ? rds_conn_create+0x1/0x2")
    fault = (NULL_POINTER, "Oops: 0000 [#1] SMP", WHO, "RIP: 0010:kfree+0x12/0x34", "Call Trace:", *guessed)
    assert names(*fault) == [("oops", "BUG: kernel NULL pointer dereference in kfree")]
    assert names("WARNING: CPU: 0 PID: 9 at a.c:1 kfree+0x1/0x2", *fault[2:]) == [("warning", "WARNING in kfree")]


def test_a_frame_behind_a_call_that_does_not_return_is_not_named():
    stack = (" panic+0x11a/0x35a", " sysrq_reset_seq_param_set+0x0/0x7e", " __handle_sysrq+0xa4/0x188")
    panic = ("Kernel panic - not syncing: sysrq triggered crash", WHO, "Call Trace:", *stack)
    assert names(*panic) == [("panic", "Kernel panic: sysrq triggered crash in __handle_sysrq")]


def test_frames_in_parentheses_count():
    """s390 prints one frame or another in parentheses; the report is the same."""
    head = ("WARNING: CPU: 0 PID: 9 at a.c:1 victim+0x12/0x20 [splat]", WHO)
    head = (*head, "Krnl PSW : 0704d00180000000 000003ff7eac0152 (victim+0x12/0x20 [splat])", "Call Trace:")
    plain = (" [<000003ff7eac0152>] victim+0x12/0x20 [splat]", " [<000003ff7eac6000>] splat_init+0xae/0x1000 [splat]")
    unsure = (plain[0], "([<000003ff7eac6000>] splat_init+0xae/0x1000 [splat])")
    one, other = (find_splats(stamped(*head, *stack))[0] for stack in (plain, unsure))
    assert one.title == other.title == "WARNING in victim"
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    ("first", "title"),
    [
        (
            f"{USER} without uaccess routines at virtual address 0000000000000018",
            "BUG: kernel NULL pointer dereference",
        ),
        (
            f"{USER} outside uaccess routines at virtual address 00007fff12345678",
            "BUG: access to user memory without uaccess routines",
        ),
        (
            "Unable to handle kernel paging request at virtual address 0000000000000008",
            "BUG: kernel NULL pointer dereference",
        ),
        (
            "Unable to handle kernel paging request at virtual address dfff800000000003",
            "BUG: unable to handle page fault",
        ),
        (
            "Unable to handle kernel write to read-only memory at virtual address ffff8000812a0000",
            "BUG: unable to handle page fault",
        ),
        (
            "Unable to handle kernel execute from non-executable memory at virtual address ffff8000812a0000",
            "BUG: unable to handle page fault",
        ),
    ],
)
def test_faults_of_arm64_and_riscv(first, title):
    rows = ("Mem abort info:", "  ESR = 0x96000006", "swapper pgtable: 4k pages, 48-bit VAs, pgdp=00000000482a0000")
    rows = (
        *rows,
        "[ffff8000812a0000] pgd=0800000043e5f003, p4d=0800000043e5f003",
        "Internal error: Oops: 96000006 [#1] SMP",
    )
    dump = (
        WHO,
        "pc : victim+0xc/0x20 [splat]",
        "lr : splat_init+0x78/0xff8 [splat]",
        "Call trace:",
        " victim+0xc/0x20 [splat] (P)",
    )
    assert names(first, *rows, *dump) == [("oops", f"{title} in victim")]


def test_s390_names_the_page_of_a_null_pointer_on_a_line_of_its_own():
    first = "Unable to handle kernel pointer dereference in virtual kernel address space"
    rows = (
        "Fault in home space mode while using kernel ASCE.",
        "AS:0000000002040007 R3:0000000000000024 ",
        "Oops: 0004 ilc:2 [#1] SMP ",
    )
    dump = (
        WHO,
        "Krnl PSW : 0704d00180000000 000003ff7eac0152 (victim+0x12/0x20)",
        "Call Trace:",
        " [<000003ff7eac0152>] victim+0x12/0x20",
    )
    at = "Failing address: 0000000000000000 TEID: 0000000000000483"
    assert names(first, at, *rows, *dump) == [("oops", "BUG: kernel NULL pointer dereference in victim")]
    assert names(first, at.replace("0000000000000000", "6b6b6b6b6b6b6000"), *rows, *dump) == [
        ("oops", "BUG: unable to handle page fault in victim")
    ]


def test_a_message_that_another_cpu_broke_into():
    first = stamped(NULL_POINTER).decode().strip()
    log = f"[    1.000001] t: vmalloc: allocation failure: 7 bytes{first}\n".encode() + stamped(*FAULT)
    assert facts(log) == [("oops", "BUG: kernel NULL pointer dereference in victim", False)]


def test_a_whole_report_without_stamps_counts_where_the_others_have_them():
    """Somebody turned the stamps off; less than a whole report is user space's."""
    rows = [
        [row] for row in ("WARNING: CPU: 1 PID: 6576 at fs/x.c:212 victim+0x272/0x520", *FAULT[:-1], " caller2+0x1/0x2")
    ]
    assert names(FOREIGN, *rows, FOREIGN) == [("warning", "WARNING in victim")]
    for left_out in (2, 3):
        part = [row for number, row in enumerate(rows) if number != left_out]
        assert names(FOREIGN, *part, FOREIGN) == []
    same = [row for [row] in rows]
    assert len(names(*same, *rows, FOREIGN)) == 1


def test_no_first_line_is_passed_over():
    """Only lines with certain first characters are compared with HEADERS; every first line must have them."""
    stamp = re.compile(r"\[ *[\d.]+\](?:\[ *\w+\])? ?")
    files = [*DATA.glob("*.txt"), *DATA.parent.glob("splats/*.txt")]
    rows = [stamp.sub("", row).lstrip(" ") for path in files for row in path.read_text(errors="replace").splitlines()]
    first = [row for row in rows if any(header.pattern.match(row) for header in HEADERS)]
    assert len(first) > 90
    assert [row for row in first if row[:3] not in FIRST and DIED not in row and OOM not in row] == []


@pytest.mark.parametrize(
    "text",
    [
        "ref_tracker: " + "@" * 4000,
        "ref_tracker: " + "a@ has 1/" * 400,
        "WARNING: " + "at a+0x1/0x2 " * 300,
        "WARNING: CPU: 0 PID: 1 at " + "a" * 4000,
        "a" * 3900 + " +0x",
        "a" * 1900 + "+0x" + "a" * 1900,
        "BUG: KASAN: " + "a in " * 800,
        "Oops: " + "a " * 1900 + "[#",
        "x" * 15 + " R " + "1" * 3900,
        "x" * 15 + " R " + "1 " * 1900,
        "INFO: task " + "blocked for more than " * 150,
        "UBSAN: " + "x at a" * 600,
        "UBSAN: x at " + "a" * 4000,
        "Attempt to release alive " + "a " * 1900,
        "WARNING: [" + "] a:1 " * 600,
        "huh, entered softirq 3 NET " + "with " * 700,
        "unregister" + " " * 3900,
        "[<" * 1900,
    ],
)
def test_no_line_takes_long(text):
    """Whatever a line holds, it takes well below 2 ms; so 100 MiB of such lines take less than a minute."""
    log = stamped(*[text, WHO, "Call Trace:", " victim+0x1/0x2"] * 100)
    begin = time.process_time()
    find_splats(log)
    assert time.process_time() - begin < 0.8


@pytest.mark.parametrize(
    "first", ["PANIC: double fault, error_code: 0x0", "PANIC: early exception 0x0e IP 10:0 error 0"]
)
def test_a_foreign_line_behind_a_line_that_can_stand_alone(first):
    assert names(first, FOREIGN, *FAULT) == [("oops", f"{first[7:].split(',')[0].split(' 0x')[0]} in victim")]


def test_an_unknown_first_line_costs_linear_time():
    rows = stamped(
        *(f"WARNING: [{'[' * 40}] at {'a+0x' * 20} {n}" for n in range(3000)), *["CPU: 0 PID: 1 Comm: "] * 3000
    )
    begin = time.process_time()
    once = find_splats(rows * 2)
    half = time.process_time() - begin
    begin = time.process_time()
    assert find_splats(rows * 8) == once
    assert time.process_time() - begin < 10 * half + 1
