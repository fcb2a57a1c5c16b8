"""What splats look like: the first lines by kind, the lines that belong to one, and functions that tell nothing.

Formats are those of Linux 4.15 to 6.19 on x86-64, with the first lines and program counters of arm64 and RISC-V.
Every pattern is anchored and free of nested repetition: time is linear in the line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of a report: `title` is a template over the pattern's named groups."""

    kind: str
    pattern: re.Pattern[str]
    title: str


def _headers(*rows: tuple[str, str, str]) -> tuple[Header, ...]:
    return tuple(Header(kind, re.compile(pattern), title) for kind, pattern, title in rows)


_TRAPS = "divide error|invalid opcode|stack segment|int3|double fault|alignment check|control protection|bounds"
_LOCKDEP = (
    "possible [a-z ]+|inconsistent lock state|suspicious RCU usage|held lock freed|bad unlock balance detected"
    "|lock held when returning to user space|Nested lock was not taken|Invalid wait context|bad contention detected"
    r"|\w+-safe -> \w+-unsafe lock order detected|\S+ still has locks held|RCU used illegally from idle CPU"
    "|trying to register non-static key|chain_key collision"
)

HEADERS: tuple[Header, ...] = _headers(
    ("panic", r"Kernel panic - not syncing: (?P<what>.*)", "Kernel panic: {what}"),
    # A report of a sanitizer names its function; 6.1 says use-after-free, 6.2 and later slab-use-after-free.
    ("kasan", r"BUG: KASAN: (?P<what>[\w -]+?) in (?P<function>[\w.]+)", "BUG: KASAN: {what}"),
    ("kasan", r"BUG: KASAN: (?P<what>[\w -]+)", "BUG: KASAN: {what}"),
    ("kcsan", r"BUG: KCSAN: (?P<what>.*)", "BUG: KCSAN: {what}"),
    ("bug", r"BUG: (?P<tool>KFENCE|KMSAN): (?P<what>[\w -]+?) in (?P<function>[\w.]+)", "BUG: {tool}: {what}"),
    ("ubsan", r"UBSAN: (?P<what>.+?)(?: in |:\d|$)", "UBSAN: {what}"),
    ("kmemleak", r"kmemleak: \d+ new suspected memory leaks", "kmemleak: new suspected memory leaks"),
    ("kmemleak", r"(?:kmemleak: )?unreferenced object 0x", "kmemleak: unreferenced object"),
    # Faults. 6.11 (commit f9aa1fb9f8c0) put "Oops: " before what used to stand alone.
    ("oops", r"BUG: (?:unable to handle )?kernel NULL pointer", "BUG: kernel NULL pointer dereference"),
    ("oops", r"Unable to handle kernel NULL pointer", "BUG: kernel NULL pointer dereference"),
    ("oops", r"(?:BUG: u|U)nable to handle (?:page fault|kernel)", "BUG: unable to handle page fault"),
    ("oops", r"BUG: (?:\w+ )?stack guard page was hit", "BUG: stack guard page was hit"),
    ("oops", r"BUG: unable to handle (?P<what>[a-z -]+)", "BUG: unable to handle {what}"),
    ("oops", r"(?:Oops: )?general protection (?:fault|maybe)[,: ]", "general protection fault"),
    ("oops", rf"(?:Oops: |PANIC: )?(?P<what>{_TRAPS})[:,] ?(?:0x)?[0-9a-f]{{1,4}}", "{what}"),
    ("oops", r"(?:Oops(?::| - )|Internal error: )", "Oops"),
    ("bug", r"[Kk]ernel BUG at ", "kernel BUG"),
    # The two WARN formats: until 6.18, and since 6.19. Any other line with WARNING is a plain printk.
    ("warning", r"WARNING: CPU: \d+ PID: \d+ at ", "WARNING"),
    ("warning", r"WARNING: (?:\[[^\]]*\] )?[^ ]+:\d+ at [^ ]+, CPU#\d+", "WARNING"),
    ("lockdep", rf"(?:\[ (?:BUG|INFO): |(?:WARNING|INFO|BUG): )(?P<what>{_LOCKDEP})", "lockdep: {what}"),
    ("lockdep", r"BUG: sleeping function called", "BUG: sleeping function called from invalid context"),
    ("lockdep", r"BUG: scheduling while atomic", "BUG: scheduling while atomic"),
    ("hung-task", r"INFO: task .{1,40} blocked (?:in I/O wait )?for more than \d+ seconds", "INFO: task hung"),
    ("hung-task", r"INFO: task .{1,40} can't die for more than", "INFO: task hung"),
    ("rcu-stall", r"(?:rcu: )?INFO: (?P<what>rcu_\w+) (?:self-)?detected (?:expedited )?stall", "{what} stall"),
    ("soft-lockup", r"(?:NMI )?(?:watchdog: )?BUG: soft lockup", "BUG: soft lockup"),
    ("hard-lockup", r"(?:NMI watchdog: |watchdog: )?(?:CPU\d+: )?Watchdog detected hard LOCKUP", "hard LOCKUP"),
    ("workqueue", r"BUG: workqueue lockup", "BUG: workqueue lockup"),
    ("oom", r".{1,20} invoked oom-killer: ", "Out of memory"),
    ("oom", r"(?:Memory cgroup o|O)ut of memory: Killed process", "Out of memory"),
    ("refcount", r"refcount_t: (?P<what>.*)", "refcount_t: {what}"),
    ("list", r"(?P<what>list_(?:add|del)\w* (?:corruption|double add))", "{what}"),
    ("bug", r"BUG: Bad page (?P<what>\w+)", "BUG: Bad page {what}"),
    ("bug", r"BUG (?P<cache>[^ ]+) \((?:Not t|T)ainted[^)]*\): (?P<what>.*)", "BUG {cache}: {what}"),
    # Plain messages with a dump_stack() behind them. Since 5.17 that of kmem_cache_destroy() is a WARN, and goes on.
    ("bug", r"csd: (?:Detected|Continued) non-responsive CSD lock", "csd: non-responsive CSD lock"),
    ("bug", r"sysfs: cannot create duplicate filename ", "sysfs: cannot create duplicate filename"),
    (
        "bug",
        r"kmem_cache_destroy (?P<cache>.+): Slab cache still has objects$",
        "kmem_cache_destroy {cache}: Slab cache still has objects",
    ),
    ("bug", r"unregister_netdevice: waiting for", "unregister_netdevice: waiting for a device to become free"),
    ("bug", r"BUG: (?P<what>[^:,!\[]+?)(?: on CPU| in process| in preemptible|[:,!\[]|$)", "BUG: {what}"),
)

PROVEN_BY_TRACE = frozenset({"panic", "oops", "bug", "warning", ""})
"""Kinds whose first line anybody can write to /dev/kmsg: taken only where a dump follows."""

RIP_FIRST = frozenset({"oops", "bug", "warning", "refcount", "list", "rcu-stall", "soft-lockup", "hard-lockup"})
"""Kinds where the function at the program counter is the culprit, whatever ran above it on the stack."""

CONTINUED = {
    "list": {"bug", "warning", "oops"},
    "bug": {"oops"},
    "oops": {"oops"},
    "warning": {"refcount", "list"},
    "refcount": {"warning"},
}
"""Kind -> kinds of first lines that, before any stack, are the same report's second or third line."""

RULED = frozenset({"kasan", "kcsan", "ubsan", "bug"})
"""Kinds that end in a line of `=` if they begin with one."""

CUT_HERE = re.compile(r"-+\[ cut here \]-+")
RULE = re.compile(r"={10,}\s*$")
END = re.compile(r"---\[ end (?:trace|Kernel panic)")

PANIC_PROOF = re.compile(
    r"CPU: \d+ |Call [Tt]race:|Kernel Offset:|---\[ end Kernel panic|Rebooting in |Hardware name:|Dumping ftrace"
    r"|SMP: stopping secondary|Shutting down cpus| <(?:NMI|IRQ|TASK)>"
)
"""What panic() prints after its message; with `panic=-1` there is no end line."""

PANIC_FOLLOWS = re.compile(
    r"Fatal exception|.*panic_on_\w+ set|hung_task:|softlockup:|Hard LOCKUP|RCU Stall|Attempted to kill"
    r"|Aiee|Out of memory|System is deadlocked|BUG!"
)
"""Reasons of a panic that is the consequence of a report shortly before it."""

NMI_PANIC = re.compile(r"NMI: Not continuing|An NMI occurred")
"""A panic that the lab itself asks for, by an injected NMI, where a guest's heartbeat stopped."""

BELONGS = re.compile(
    r"\s*(?:"
    r"RIP: |RSP: |[RE](?:[ABCD]X|[SD]I|[SBI]P): |R\d\d: |[CD]R\d: |[DEFGC]S: |PKRU: |Code: |Stack: |Call [Tt]race:"
    r"|</?(?:TASK|IRQ|NMI|SOFTIRQ|ENTRY_TRAMPOLINE|#DF|#DB|#MC|#VC\d?)>|CPU: \d+ |CPU#\d|Comm: |Hardware name: "
    r"|Modules linked in:|Workqueue: |Tainted: |Not tainted|\[W\]=WARN|Last unloaded|Oops|PGD |P4D |#PF: |BAD$"
    r"|PREEMPT|Mem abort|Data abort|Internal error|pc : |lr : |sp : |epc : |x\d+ ?: |pstate: |KASAN: "
    r"|Kernel Offset:|Rebooting in |Dumping ftrace|---\[ end |note: |ORIG_RAX|Shutting down cpus|SMP: stop"
    r"|stack backtrace:|other info that|-{10,}|\*\*\* DEADLOCK|\d+ locks? held by|Showing |-> #\d|Possible unsafe"
    r"|(?:Read|Write|Free) (?:of size|at)|Allocated by|Freed by|The buggy|page: ?[0-9a-fr]|raw:|flags:"
    r"|Memory state|page dumped|which belongs|Reported by Kernel|value changed|(?:read|write)(?: \(\w+\))? to 0x"
    r'|>[0-9a-f]{12,}:|index -?\d|load of|shift exponent|rcu: |\(detected by|Sending NMI|NMI backtrace|"echo 0 >'
    r"|task:|workqueue |pwq |pool \d|in-flight:|pending:|in_atomic\(\)|preempt_count:"
    r'|backtrace:|comm "|hex dump|Slab 0x|Object|Redzone|Padding|Allocated in|Freed in|FIX '
    r"|hlock_id:|class_idx:|csd: "
    r"|RCU nest depth|no locks held|INFO: lockdep is turned off|irq event stamp|(?:hard|soft)irqs last"
    r"|Preemption disabled at|Mem-Info:|oom-kill:|oom_reaper:|Out of memory: Killed"
    r")"
)
"""Lines of register dumps, call traces and the prose around them."""

IN_FLIGHT = re.compile(r"\s*in-flight: \d+(?:\(RESCUER\))?:([\w.]+)")
KILLED = re.compile(r"(?:Memory cgroup o|O)ut of memory: Killed process \d+ \((.*?)\)")
OTHER_TRACE = re.compile(r"\s*(?:Allocated by|Freed by|Last potentially|The buggy|---\[ end trace|Showing all locks)")

SYMBOL = r"(?P<name>[A-Za-z_][\w.$]*)\+0x(?P<offset>[0-9a-f]+)/0x(?P<size>[0-9a-f]+)"
ANY_FRAME = re.compile(rf"{SYMBOL}(?: \[(?P<module>[\w-]+)[^\]\n]*\])?")
"""`function+0x1a/0x40 [module buildid]`, anywhere in a line."""
FRAME = re.compile(rf"\s*(?:\[<[0-9a-fx]+>\]\s*)?(?P<unsure>\? )?{SYMBOL}")
"""A line of a call trace; `unsure` marks an address that merely lay on the stack."""
PROGRAM_COUNTER = re.compile(rf"\s*(?:RIP: 0010:|pc : |epc : )(?:\[<[0-9a-f]+>\] )?{SYMBOL}")
USER_COUNTER = re.compile(r"\s*RIP: 0033:")

DULL = re.compile(
    # dumping, dying
    r"_*dump_stack\w*|show_stack|v?panic|nmi_panic|__warn\w*|warn_slowpath_\w+|report_bug|handle_bug|fixup_bug|die\w*|oops_\w+"
    r"|do_error_trap|do_trap|do_invalid_op|invalid_op|no_context|page_fault_oops|_*bad_area\w*|do_(?:user|kern)_addr_fault"
    r"|_*do_page_fault|(?:async_)?page_fault|(?:do_)?general_protection|kernelmode_fixup_or_oops|check_panic_on_warn"
    r"|(?:asm_|__)?(?:exc|sysvec)_\w+|(?:asm_)?common_interrupt\w*|apic_timer_interrupt|error_entry|ret_from_\w+"
    r"|entry_SYSCALL\w*|do_syscall_64|x64_sys_call|end_repeat_nmi|unknown_nmi_error|(?:default_)?do_nmi|nmi_\w+"
    # the checkers' own functions
    r"|_*kasan_\w+|print_address_description|print_report|end_report|check_memory_region|_*asan_\w+|_*tsan_\w+|kcsan_\w+"
    r"|_*ubsan_\w+|kfence_\w+|_*msan_\w+|kmsan_\w+|object_err|slab_err|check_object|check_bytes\w*|print_trailer"
    r"|\w+_debug_processing|__slab_\w+|slab_\w+|kfree|kmem_cache_(?:free|destroy)|bad_page|refcount_warn_saturate|__list_\w+_valid\w*"
    r"|__?_?_?(?:lock_acquire|might_sleep|might_resched)|lock_(?:acquire|release)|print_\w+_bug\w*|check_noncircular"
    r"|check_prev_add|validate_chain|mark_lock\w*|lockdep_\w+|debug_check_no_locks_freed|__schedule_bug"
    r"|register_lock_class|assign_lock_key|print_collision|check_no_collision|lookup_chain_cache\w*"
    # waiting
    r"|(?:__|io_)?schedule(?:_timeout\w*|_preempt_disabled|_idle|_rtlock)?|preempt_schedule\w*|__switch_to\w*|__cond_resched|_*raw_\w*lock\w*|_*mutex_lock\w*|down_\w+"
    r"|rwsem_\w+|_*wait_for_com\w+|do_wait_for_common|(?:native_)?queued_\w+_slowpath|pv_\w+|kvm_wait|prepare_to_wait\w*"
    r"|csd_lock_wait\w*|smp_call_function\w*|on_each_cpu\w*"
    # the detectors of stalls, on top of the stack that they complain of
    r"|\w*trigger_\w*backtrace|rcu_dump_cpu_stacks|rcu_sched_clock_irq|print_(?:other_)?cpu_stall|check_cpu_stall"
    r"|update_process_times|tick_\w+|_*hrtimer_\w+|watchdog_\w+|__perf_event_\w+|perf_event_\w*overflow|perf_\w*nmi\w*|\w+_pmu_\w+|handle_pmi_common"
    # who hands a bad pointer, or a name that is taken, to them is to blame
    r"|sysfs_warn_dup|sysfs_create_dir_ns|sysfs_do_create_link\w*|kobject_(?:add|init_and_add)\w*"
    r"|_*mem(?:cpy|set|move|cmp|chr)\w*|strn?(?:len|cpy|cmp|cat|chr)\w*|strscpy|_*copy_(?:from|to)_user\w*|rep_movs\w*|clear_page\w*"
)
"""Functions that say nothing about the fault (`re.fullmatch`): left out of titles and fingerprints."""
