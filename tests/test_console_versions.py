"""Reports that some versions of the kernel, and some of its configurations, print in ways of their own."""

import pytest

from kpatchlab.evidence import logged
from kpatchlab.evidence.machinery import is_machinery
from kpatchlab.evidence.splats import find_splats
from tests.test_console_kinds import FAULT, FOREIGN, STACK, WHO, names, stamped

RULE = "=" * 77
CUT_HERE = "------------[ cut here ]------------"
END = "---[ end trace 0000000000000000 ]---"


@pytest.mark.parametrize(
    "lines",
    [
        ("UBSAN: shift out of bounds at victim+0x1b/0x60 [m]", "Oops: invalid opcode: 0000 [#1] SMP"),
        ("UBSAN: shift out of bounds at victim+0x1b/0x60 [m]", FOREIGN, "Oops: invalid opcode: 0000 [#1] SMP"),
        (CUT_HERE, "Internal error: UBSAN: shift out of bounds: 00000000f2005514 [#1]  SMP"),
    ],
)
def test_what_ubsan_traps_is_one_oops(lines):
    """CONFIG_UBSAN_TRAP: x86 since 6.12 says what it is on a line before the oops, arm64 on the oops' own."""
    assert names(*lines, *FAULT) == [("oops", "UBSAN: shift out of bounds in victim")]


@pytest.mark.parametrize(
    "second", ["Oops: invalid opcode: 0000 [#1] SMP", "Internal error: Oops - CFI: 00000000f2008228 [#1] SMP"]
)
def test_a_call_of_a_function_of_another_type_is_one_oops(second):
    first = "CFI failure at victim+0x16/0x20 [m] (target: other+0x0/0x10 [m]; expected type: 0x7e0c52a5)"
    assert names(first, second, *FAULT) == [("oops", "CFI failure in victim")]
    warning = ("WARNING: CPU: 0 PID: 9 at victim+0x16/0x20 [m]", *FAULT)  # CONFIG_CFI_PERMISSIVE
    assert names(first, *warning) == [("warning", "WARNING in victim")]


def test_what_ubsan_reports_is_none():
    assert names(RULE, "UBSAN: shift-out-of-bounds in net/x.c:12:3", "shift exponent 64 is too large", *STACK) == [
        ("ubsan", "UBSAN: shift-out-of-bounds in victim")
    ]


def slab(first, *, cut=("WARNING: CPU: 0 PID: 9 at mm/slub.c:1165 object_err+0x3a/0x50",), foreign=()):
    return (
        *(
            RULE,
            first,
            "-" * 77,
            "",
            "0xffff888003692380-0xffff888003692387 @offset=896. First byte 0x0 instead of 0xcc",
        ),
        *("Allocated in other+0x1b/0x60 [m] age=12 cpu=0 pid=9", " __kmalloc_noprof+0x1/0x2", " other+0x1b/0x60 [m]"),
        "Slab 0xffffea00000da480 objects=32 used=20 fp=0xffff888003692100 flags=0x80000000000240",
        "Object 0xffff888003692340 @offset=832 fp=0x0000000000000000",
        *("Redzone  ffff888003692330: cc cc cc cc", "Object   ffff888003692340: 6b 6b 6b 6b", *foreign),
        *(CUT_HERE, *cut, "Modules linked in: m", WHO, "RIP: 0010:object_err+0x3a/0x50", "Call Trace:", " <TASK>"),
        *(" free_to_partial_list+0x1/0x2", " kfree+0x2/0x3", " victim+0x1b/0x60 [m]", " caller+0x1/0x2", END),
        "FIX kmalloc-64: Restoring Right Redzone 0xffff-0xffff=0xcc",
    )


@pytest.mark.parametrize(
    ("cut", "foreign"),
    [
        (("WARNING: CPU: 0 PID: 9 at mm/slub.c:1165 object_err+0x3a/0x50",), ()),
        (("WARNING: mm/slub.c:1165 at object_err+0x3a/0x50, CPU#0: t/9",), ()),
        (("WARNING: mm/slub.c:1165 at object_err+0x3a/0x50, CPU#0: t/9",), (FOREIGN, FOREIGN)),
    ],
)
def test_a_slab_and_the_warning_behind_it_are_one_report(cut, foreign):
    """Since 6.16; before, the slab's report had a stack of its own."""
    first = "BUG kmalloc-64 (Not tainted): Right Redzone overwritten"
    lines = slab(first, cut=cut, foreign=foreign)
    once = [("bug", "BUG kmalloc-64: Right Redzone overwritten in victim")]
    assert names(*lines, FOREIGN) == once
    assert names(*lines, FOREIGN, *slab("BUG kmalloc-96 (Tainted: G    B): Object already free")) == [
        *once,
        ("bug", "BUG kmalloc-96: Object already free in victim"),
    ]


def test_a_reference_that_is_released_twice_is_one_report():
    """With the stacks of who took it and who released it first."""
    stacks = ("allocated in:", "     other+0x10/0x20", "freed in:", "     another+0x10/0x20")
    warning = (CUT_HERE, "WARNING: lib/ref_tracker.c:266 at ref_tracker_free+0x22b/0x2e0, CPU#0: t/9", WHO)
    stack = ("RIP: 0010:ref_tracker_free+0x22b/0x2e0", "Call Trace:", " victim+0x1b/0x60 [m]", END)
    assert names("ref_tracker: reference already released.", *stacks, *warning, *stack) == [
        ("bug", "ref_tracker: reference already released in victim")
    ]


def test_a_warning_behind_a_slabs_own_stack_is_another_report():
    lines = slab("BUG kmalloc-64 (Not tainted): Poison overwritten")
    slabs = lines[: lines.index(CUT_HERE)]
    warning = (CUT_HERE, "WARNING: CPU: 0 PID: 9 at a.c:1 other+0x1/0x2", WHO, "RIP: 0010:other+0x1/0x2", "Call Trace:")
    assert names(*slabs, *STACK, *warning, " caller+0x1/0x2", END) == [
        ("bug", "BUG kmalloc-64: Poison overwritten in victim"),
        ("warning", "WARNING in other"),
    ]


def test_a_bug_that_a_line_leads_to_has_an_oops_behind_it():
    """CONFIG_BUG_ON_DATA_CORRUPTION."""
    lines = ("VFS: Busy inodes after unmount of vdb (ext4)", CUT_HERE, "kernel BUG at fs/super.c:650!")
    assert names(*lines, "Oops: invalid opcode: 0000 [#1] SMP", *FAULT) == [
        ("bug", "VFS: Busy inodes after unmount in victim")
    ]


def test_two_lines_that_lead_are_two_reports():
    """The first one's warning is lost."""
    line = "BUG: Dentry 00000000a628c02{}{{i=1,n=x}}  still in use (1) [unmount of tmpfs]"
    assert len(find_splats(stamped(line.format(1), line.format(2)))) == 2


@pytest.mark.parametrize(
    ("line", "title"),
    [
        (
            "huh, entered softirq 3 NET_RX ffffffff81000000 with preempt_count 00000101, exited with 00000102?",
            "softirq NET_RX changed preempt_count",
        ),
        (
            "softirq: huh, entered softirq 3 NET_RX with preempt_count 00000100, exited with 00000101?",
            "softirq NET_RX changed preempt_count",
        ),
        ("IPv4: Attempt to release alive inet socket 00000000a628c021", "Attempt to release alive inet socket"),
        ("unix: Attempt to release alive unix socket: 00000000a628c021", "Attempt to release alive unix socket"),
        ("Attempt to release alive packet socket: ffff888003692380", "Attempt to release alive packet socket"),
        ("IPv4: Attempt to release TCP socket in state 1 00000000a628c021", "Attempt to release TCP socket in state"),
        ("Freeing alive netlink socket 00000000a628c021", "Freeing alive netlink socket"),
        ("IPv6: Freeing alive inet6 address 00000000a628c021", "Freeing alive inet6 address"),
        ("mm/pgtable-generic.c:53: bad pmd ffff888003692380(800000013c0008e7)", "bad pmd"),
        ("arch/x86/mm/pgtable.c:12: bad pud (____ptrval____)(800000013c0008e7)", "bad pud"),
        ("get_swap_device: Bad swap file entry 3ffffffffffff", "Bad swap file entry"),
        ("_swap_info_get: Unused swap offset entry 00000010", "Unused swap offset entry"),
    ],
)
def test_a_line_without_a_dump_that_only_a_fault_prints(line, title):
    assert names(FOREIGN, line, *[FOREIGN] * 9) == [("bug", title)]


@pytest.mark.parametrize("stack", ["#DF stack", "IRQ stack", "stack"])
def test_the_guard_page_of_any_stack(stack):
    first = f"BUG: {stack} guard page was hit at 000000001 (stack is 000000001..000000002)"
    assert names(first, "Oops: stack guard page: 0000 [#1] SMP", *FAULT) == [
        ("oops", "BUG: stack guard page was hit in victim")
    ]


def test_the_data_of_a_packet_is_no_title():
    data = (
        *("skb len=84 headroom=98 headlen=84 tailroom=1546", "mac=(84,14) mac_len=14 net=(98,20) trans=118"),
        "shinfo(txflags=0 nr_frags=0 gso(size=0 type=0 segs=0))",
        *("csum(0x0 start=0 offset=0 ip_summed=2 complete_sw=0 valid=0 level=0)", "hash(0x0 sw=0 l4=0) proto=0x0800"),
        *("dev name=eth0 feat=0x0000000000114b09", "skb linear:   00000000: 45 00 00 54"),
    )
    assert names("eth0: hw csum failure", *data, *STACK) == [("dump", "eth0: hw csum failure in victim")]


@pytest.mark.parametrize(
    ("what", "kind"), [("BUG: KASAN: slab-out-of-bounds", "kasan"), ("BUG: KMSAN: uninit-value", "bug")]
)
def test_a_report_with_files_and_lines_is_named_after_the_function_that_is_there(what, kind):
    inlined = ("atomic_read include/linux/atomic.h:32 [inline]", "get include/linux/m.h:7 [inline]")
    whole = (RULE, *(f"{what} in {name}" for name in inlined), f"{what} in victim+0x1b/0x60 m.c:12", *STACK, RULE)
    assert names(*whole, FOREIGN) == [(kind, f"{what} in victim")]
    (splat,) = find_splats(stamped(*whole, FOREIGN))
    assert splat.text.count("\n") == len(whole) - 1


def test_a_warning_with_files_and_lines():
    inlined = "WARNING: mm/m.c:7 at get include/linux/m.h:7 [inline], CPU#0: t/9"
    whole = "WARNING: mm/m.c:7 at victim+0x15/0x20 mm/m.c:7, CPU#0: t/9"
    fault = (WHO, "RIP: 0010:victim+0x15/0x20 mm/m.c:7", "Call Trace:", " caller+0x1/0x2 mm/m.c:3", END)
    assert names(whole, *fault) == names(CUT_HERE, inlined, whole, *fault) == [("warning", "WARNING in victim")]
    assert names(FOREIGN, whole, FOREIGN) == [("warning", "WARNING in victim")]


def test_lockdep_without_a_stack_is_named_after_where_the_lock_is_taken():
    lines = (
        *("WARNING: possible recursive locking detected", "5.10.110 #1 Not tainted", "-" * 44),
        *("swapper/1 is trying to acquire lock:", "c39f57d0 (gcov_lock){+.+.}-{3:3}, at: victim+0x3d/0xc2", ""),
        *("but task is already holding lock:", "c39f57d0 (gcov_lock){+.+.}-{3:3}, at: other+0x3d/0xc2"),
    )
    assert names(*lines) == [("lockdep", "lockdep: possible recursive locking detected in victim")]
    guesses = ("stack backtrace:", WHO, "Call Trace:", " ? dump_stack+0x1/0x2", " ? another+0x1/0x2")
    assert names(*lines, *guesses) == [("lockdep", "lockdep: possible recursive locking detected in victim")]
    assert names(*lines, "stack backtrace:", *STACK[:-3], " caller+0x1/0x2") == [
        ("lockdep", "lockdep: possible recursive locking detected in caller")
    ]


@pytest.mark.parametrize("count", [9, 55])
def test_a_fault_waits_for_its_lines_while_others_print(count):
    first = "BUG: unable to handle page fault for address: 0000000000200286"
    rest = ("#PF: supervisor read access in kernel mode", "PGD 8000000105b8d067", "Oops: 0000 [#1] SMP", *FAULT)
    assert names(first, *[FOREIGN] * count, *rest) == [("oops", "BUG: unable to handle page fault in victim")]
    assert names(first, *[FOREIGN] * count, "eth0: up") == []
    assert names(first, *[FOREIGN] * count, "irq 17: nobody cared", *STACK) == [
        ("dump", "irq N: nobody cared in victim")
    ]
    assert names(first, *[FOREIGN] * count, "sysrq: Show Regs", *STACK) == []
    assert names("Oops: general protection fault: 0000 [#1] SMP", *[FOREIGN] * count, *FAULT) == [
        ("oops", "general protection fault in victim")
    ]


def test_the_list_of_modules_is_no_title():
    assert names("something new: 7", "Modules linked in: m", *STACK) == [("dump", "something new: 7 in victim")]


@pytest.mark.parametrize("first", ["NOTICE: m.c:7 victim() says 3 on 0", "Modules linked in: m"])
def test_a_first_line_behind_cut_here_that_is_not_known_is_a_report(first):
    """As 6.19 changed that of WARN(), and others may; also where it is lost."""
    rip = ("RIP: 0010:victim+0x1b/0x60 [m]", "Code: 90", "RSP: 0018:ffff EFLAGS: 00010246")
    lines = (CUT_HERE, first, "Modules linked in: m", WHO, *rip, "Call Trace:", " <TASK>", " caller+0x1/0x2", END)
    ((kind, title),) = names(FOREIGN, *lines, *[FOREIGN] * 9)
    assert (kind, title.startswith(first.partition(":")[0])) == ("dump", True)
    assert title.endswith(" in victim")
    assert names(CUT_HERE, "just kidding", *[FOREIGN] * 30) == []
    assert names(CUT_HERE, "just kidding", WHO, *[FOREIGN] * 30) == []


@pytest.mark.parametrize(
    ("before", "function"),
    [
        (("FAULT_INJECTION: forcing a failure.", "name failslab, interval 1, probability 0"), "should_fail_ex"),
        (("sysrq: Show Regs",), "__handle_sysrq"),
        (("Testing a backtrace from process context.",), "backtrace_test_normal"),
    ],
)
def test_a_dump_that_somebody_asked_for_is_none_whatever_stands_before_it(before, function):
    dump = (WHO, "Call Trace:", " dump_stack_lvl+0x5d/0x80", f" {function}+0x1b/0x60", " victim+0x1/0x2")
    assert names(*before, FOREIGN, FOREIGN, *dump) == []
    assert names("irq 17: nobody cared", *STACK, *before, FOREIGN, *dump) == [("dump", "irq N: nobody cared in victim")]


def test_a_guest_of_xen_has_another_code_segment():
    assert names("Oops: 0003 [#1] SMP", WHO, "RIP: e030:victim+0x1b/0x60", "Call Trace:", " caller+0x1/0x2", END) == [
        ("oops", "Oops in victim")
    ]


@pytest.mark.parametrize("where", ["victim+0x1b/0x60 [m]", "ffffffff8343632e"])
def test_a_stack_protectors_panic(where):
    line = f"Kernel panic - not syncing: stack-protector: Kernel stack is corrupted in: {where}"
    assert names(line, *STACK) == [("panic", "Kernel panic: stack-protector: Kernel stack is corrupted in victim")]


def test_what_an_interrupt_broke_into_is_a_frame():
    """A call of a function without ENDBR traps: only the program counter below the trap names it."""
    bug = ("Missing ENDBR: victim+0x0/0x10 [m]", CUT_HERE, "kernel BUG at arch/x86/kernel/cet.c:102!")
    stack = ("RIP: 0010:exc_control_protection+0x9f/0xb0", "Call Trace:", " asm_exc_control_protection+0x22/0x30")
    within = ("RIP: 0010:victim+0x0/0x10 [m]", "Code: 90", "RSP: 0018:ffff EFLAGS: 00010246", " caller+0x1/0x2", END)
    assert names(*bug, "Oops: invalid opcode: 0000 [#1] SMP", WHO, *stack, *within) == [("bug", "kernel BUG in victim")]


@pytest.mark.parametrize(
    "function",
    [
        *("check_slab_allocation", "free_to_partial_list", "__free_one_page", "debug_dma_unmap_page", "check_unmap"),
        *("dma_map_page_attrs", "request_threaded_irq", "__setup_irq", "__cant_sleep"),
        *("arm64_serror_panic", "bug_brk_handler", "timer_shutdown_sync", "copy_page", "remove_proc_entry"),
        "stack_depot_save_flags",
        "_RNvCscSpY9Juk0HT_7___rustc17rust_begin_unwind",
        "_RNvNtCs43vyB533jt3_4core9panicking9panic_fmt",
    ],
)
def test_what_all_faults_of_a_kind_have_is_machinery(function):
    assert is_machinery(function)


@pytest.mark.parametrize(
    "function", ["rds_free_one_page_of", "my_dma_map_page", "_RNvMs_4rnull9NullBlock4init", "free_irq_vectors_of"]
)
def test_what_looks_like_it_is_not(function):
    assert not is_machinery(function)


@pytest.mark.parametrize(
    ("before", "stamp"),
    [
        ("kern  :err   : ", "[  445.803550] [     C15] "),
        ("", "[  445.803550] [    T9] "),
        ("kern  :warn  : ", "[  445.803550] "),
        ("<4>", "[  445.803550][    T9] "),
        ("", "[Mon Nov 30 17:06:32 2026] "),
        ("Nov 30 17:06:32 vm kernel: ", ""),
        ("Nov  3 17:06:32.123456 vm.example.org kernel: ", "[  445.803550] "),
        ("июл 30 17:06:32 vm kernel: ", ""),
        ("2026-11-30T17:06:32+0000 vm kernel: ", ""),
        ("2026-11-30T17:06:32,060000+00:00 ", ""),
        ("", "[  445.803550] vm kernel: "),
        ("> ", "[  445.803550] "),
        ("> > ", ""),
    ],
)
def test_a_log_as_dmesg_journald_and_mails_have_it(before, stamp):
    lines = (
        "irq 26: nobody cared",
        *STACK,
        "BUG: unable to handle page fault for address: 1",
        "Oops: 0002 [#1]",
        *FAULT,
    )
    log = logged.plain("".join(f"{before}{stamp}{line}\n" for line in lines).encode())
    found = [(splat.kind, splat.title) for splat in find_splats(log)]
    assert found == [
        ("dump", "irq N: nobody cared in victim"),
        ("oops", "BUG: unable to handle page fault in victim"),
    ]


def test_a_log_that_decode_stacktrace_went_over():
    log = stamped(
        *("BUG: unable to handle page fault for address: 1", "Oops: Oops: 0002 [#1] SMP", WHO),
        *("RIP: 0010:victim (net/core/x.c:12 (discriminator 3)) mod", "Call Trace:", " <TASK>"),
        *(
            " ? __die (arch/x86/kernel/dumpstack.c:421 arch/x86/kernel/dumpstack.c:434)",
            " caller (net/core/x.c:3)",
            END,
        ),
        *(FOREIGN, "BUG: sleeping function called from invalid context at m.c:1", WHO, "Call Trace:", " <TASK>"),
        *(" dump_stack_lvl (lib/dump_stack.c:107 (discriminator 4))", " __might_resched (kernel/sched/core.c:1)"),
        *(" victim (net/core/x.c:12) mod", " caller (./include/linux/x.h:3)", FOREIGN),
    )
    assert [splat.title for splat in find_splats(logged.plain(log))] == [
        "BUG: unable to handle page fault in victim",
        "BUG: sleeping function called from invalid context in victim",
    ]


def test_a_consoles_log_stays_as_it_is():
    log = stamped("irq 26: nobody cared", *STACK, ">ffff888012345600: fa fb", ["$ dmesg"])
    assert logged.plain(log) == log


@pytest.mark.parametrize(
    "last", ["WARNING: can't access registers at victim+0x16/0x20", "WARNING: x at victim+0x1/0x2"]
)
def test_a_log_that_ends_in_a_plain_warning_ends_in_no_report(last):
    """The stack's unwinder prints such lines; a WARN() that the log's end cut has its file, or nothing, before `at`."""
    assert names(FOREIGN, last) == []
    assert names(FOREIGN, "WARNING: [ret < 0] net/x.c:7 at victim+0x1/0x2 [mod") == [("warning", "WARNING in victim")]
