"""What splats look like: the first lines by kind, the lines that belong to one, frames and program counters.

Formats are those of Linux 4.9 to 7.x on x86, and of 6.x on arm64, RISC-V and s390. Every pattern is anchored and free
of nested repetition: time is linear in the line.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass


class Trait(enum.Flag):
    """What else a first line says of its report."""

    ALONE = enum.auto()  # it can be the whole report: no dump has to prove it
    LEADS = enum.auto()  # the WARN() or BUG() right behind it, or behind what it prints of itself, is the same report
    DIRECT = enum.auto()  # its own stack begins on the next line, and what says "Call Trace" later is another
    HOLDER = enum.auto()  # the lines of held locks name the function
    TORN = enum.auto()  # the beginning of one: a report only where the log ends in the midst of the line
    PART = enum.auto()  # it stands within reports: the first line only where the others are lost
    NONE = 0


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of a report: `title` is a template over the pattern's named groups.

    The groups `function` and `cache` are names; numbers and addresses in all others are left out of titles.
    """

    kind: str
    pattern: re.Pattern[str]
    title: str
    trait: Trait = Trait.NONE


def _headers(*rows: tuple[str, str, str] | tuple[str, str, str, Trait]) -> tuple[Header, ...]:
    return tuple(Header(row[0], re.compile(row[1]), *row[2:]) for row in rows)


NAME = r"[A-Za-z_][\w.$]*"
SYMBOL = rf"(?P<name>{NAME})\+0x(?P<offset>[0-9a-f]+)/0x(?P<size>[0-9a-f]+)"
_AT = rf"(?P<function>{NAME})\+0x[0-9a-f]+/0x[0-9a-f]+"
_NULL = r"0x0{0,13}[0-9a-f]{1,3}\b|0{5,13}[0-9a-f]{3}\b"
_LOCKDEP = (
    "possible [a-z ]+|inconsistent lock state|suspicious RCU usage|held lock freed|bad unlock balance detected"
    "|Nested lock was not taken|Invalid wait context|bad contention detected|lock held at task exit time"
    r"|\w+-safe -> \w+-unsafe lock order detected|RCU used illegally from idle CPU"
    "|trying to register non-static key|chain_key collision|circular locking deadlock detected"
)

_REASON = r"[A-Za-z][\w ,.:/()'-]{2,80}?"
PANIC = "Kernel panic - not syncing: "

HEADERS: tuple[Header, ...] = _headers(
    (
        "panic",
        rf"{PANIC}(?P<what>stack-protector: Kernel stack is corrupted) in: (?:[0-9a-f]{{8,16}}\b|(?P<function>{NAME}))",
        "Kernel panic: {what}",
    ),
    ("panic", rf"{PANIC}(?P<what>.*)", "Kernel panic: {what}"),
    # A report of a sanitizer names its function; 6.1 says use-after-free, 6.2 and later slab-use-after-free.
    ("kasan", r"BUG: KASAN: (?P<what>[\w -]+?) in (?P<function>[\w.]+)", "BUG: KASAN: {what}"),
    ("kasan", r"BUG: KASAN: (?P<what>[\w -]+)", "BUG: KASAN: {what}"),
    ("kcsan", r"BUG: KCSAN: (?P<what>.*)", "BUG: KCSAN: {what}"),
    (
        "bug",
        r"BUG: (?P<tool>KFENCE|KMSAN): (?P<what>[\w -]+?) in (?P<function>[\w.]+)",
        "BUG: {tool}: {what}",
        Trait.DIRECT,
    ),
    ("oops", rf"UBSAN: (?P<what>.+?) at {_AT}", "UBSAN: {what}"),  # since 6.12, with traps: an oops follows
    ("ubsan", r"UBSAN: (?P<what>.+?)(?: in |:\d|$)", "UBSAN: {what}"),
    ("kmemleak", r"kmemleak: \d+ new suspected memory leaks", "kmemleak: new suspected memory leaks"),
    ("kmemleak", r"(?:kmemleak: )?unreferenced object(?: 0x|$)", "kmemleak: unreferenced object"),
    # Faults. 6.11 (commit f9aa1fb9f8c0) put "Oops: " before what used to stand alone.
    ("oops", r"BUG: (?:[Uu]nable to handle )?[Kk]ernel NULL pointer", "BUG: kernel NULL pointer dereference"),
    ("oops", r"Unable to handle kernel NULL pointer", "BUG: kernel NULL pointer dereference"),
    ("oops", rf"Unable to handle kernel .* at virtual address (?:{_NULL})", "BUG: kernel NULL pointer dereference"),
    ("oops", r"Unable to handle kernel access to user memory", "BUG: access to user memory without uaccess routines"),
    ("oops", r"(?:BUG: )?[Uu]nable to handle (?:page fault|kernel)", "BUG: unable to handle page fault"),
    ("oops", r"BUG: (?:#?\w+ )?stack guard page was hit", "BUG: stack guard page was hit"),
    ("oops", r"BUG: unable to handle (?P<what>[a-z -]+)", "BUG: unable to handle {what}"),
    ("oops", r"Insufficient stack space to handle exception|Kernel stack overflow", "kernel stack overflow"),
    (
        "oops",
        r"(?:Oops: )?(?:segment-related )?general protection (?:fault|maybe)[,: ]",
        "general protection fault",
    ),
    ("oops", r"(?:traps: )?PANIC: (?P<what>double fault|early exception)", "{what}", Trait.ALONE),
    ("oops", r"SError Interrupt on CPU|Bad mode in (?P<what>[\w ]+) handler", "bad mode {what}"),
    ("oops", r"Unhandled fault: (?P<what>[^(]+?) ?(?:\(|$)", "Unhandled fault: {what}"),
    ("oops", r"Alignment trap: not handling instruction", "Alignment trap"),
    ("oops", r"Unhandled .{1,40} exception on CPU", "unhandled exception"),
    ("oops", rf"CFI failure at {_AT}", "CFI failure"),
    # What die() prints: a reason, often with its code, and how many there were.
    ("oops", r"Oops ?\[#|(?:Oops|Internal error)(?:: | - )(?:Oops|[0-9a-f]{4,16}\b)", "Oops"),
    (
        "oops",
        rf"(?:Oops: |Internal error: )?(?P<what>{_REASON})(?:[:,] ?(?:0x)?[0-9a-f]{{1,16}})?(?:,? \w+:\d+)? ?\[#\d",
        "{what}",
    ),
    ("oops", r"(?:Oops(?::| - )|Internal error: )", "Oops"),
    ("bug", r"[Kk]ernel BUG at ", "kernel BUG"),
    # The two WARN formats: until 6.18, and since 6.19. Any other line with WARNING is a plain printk.
    ("warning", rf"WARNING: CPU: \d+ PID: \d+ at (?:.*? )??{_AT}", "WARNING"),
    ("warning", r"WARNING: CPU: \d+ PID: \d+ at ", "WARNING"),
    ("warning", rf"WARNING: (?:.* )?at {_AT}(?: \S+:\d+)?(?: \[[^\]]*\])?, CPU#\d+", "WARNING"),
    ("warning", r"WARNING: (?:.* )?at [^ ]+(?: \S+:\d+)?(?: \[[^\]]*\])?, CPU#\d+", "WARNING"),
    (
        "warning",
        rf"WARNING: (?:(?:\[.*\] )?\S+:\d+ )?at {_AT}(?: \[[^\]]*\]?)?(?:, .{{0,4}})?$",
        "WARNING",
        Trait.TORN,
    ),
    (
        "bug",
        r"WARNING: (?P<what>kernel stack (?:regs|frame pointer)) at .* has bad ",
        "WARNING: {what}: bad value",
        Trait.ALONE,
    ),
    (
        "lockdep",
        r"(?:\[ (?:BUG|INFO): |(?:WARNING|INFO|BUG): )(?P<what>lock held when returning to user space)",
        "lockdep: {what}",
        Trait.HOLDER,
    ),
    (
        "lockdep",
        r"(?:\[ BUG: |WARNING: |BUG: ).{1,40} still has locks held",
        "lockdep: still has locks held",
        Trait.HOLDER,
    ),
    ("lockdep", rf"(?:\[ (?:BUG|INFO): |(?:WARNING|INFO|BUG): )(?P<what>{_LOCKDEP})", "lockdep: {what}"),
    ("lockdep", r"BUG: sleeping function called", "BUG: sleeping function called from invalid context"),
    ("lockdep", r"BUG: scheduling while atomic", "BUG: scheduling while atomic"),
    ("lockdep", r"BUG: assuming (?P<what>[a-z ]+?) context", "BUG: assuming {what} context"),
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
    # Since 6.16 (commit 3f6f32b14ab3) a WARN() behind its hex dumps prints the stack.
    ("bug", r"BUG (?P<cache>[^ ]+) \((?:Not t|T)ainted[^)]*\): (?P<what>.*)", "BUG {cache}: {what}", Trait.LEADS),
    ("bug", rf"(?:INFO: )?(?P<what>Allocated|Freed) in {_AT} age=\d+ cpu=", "slab object: {what}", Trait.PART),
    # Messages that stand alone.
    ("bug", r"BUG: Bad rss-counter state", "BUG: Bad rss-counter state", Trait.ALONE),
    ("bug", r"BUG: non-zero pgtables_bytes on freeing mm", "BUG: non-zero pgtables_bytes on freeing mm", Trait.ALONE),
    ("bug", r"BUG: Dentry .* still in use", "BUG: Dentry still in use", Trait.ALONE | Trait.LEADS),
    (
        "bug",
        r"VFS: (?P<what>Busy inodes after unmount|Close: file count is (?:0|zero))",
        "VFS: {what}",
        Trait.ALONE | Trait.LEADS,
    ),
    (
        "bug",
        r"ref_tracker: (?:[^@]*@\S* has \d+/\d+ users at|leaked reference)",
        "ref_tracker: leaked reference",
        Trait.ALONE,
    ),
    (
        "bug",
        r"ref_tracker: reference already released",
        "ref_tracker: reference already released",
        Trait.ALONE | Trait.LEADS,
    ),
    (
        "bug",
        r"unregister_netdevice: waiting for",
        "unregister_netdevice: waiting for a device to become free",
        Trait.ALONE,
    ),
    (
        "bug",
        r"(?:softirq: )?huh, entered softirq \d+ (?P<what>\w+) .*with preempt_count",
        "softirq {what} changed preempt_count",
        Trait.ALONE,
    ),
    (
        "bug",
        r"(?:\w+: )?(?P<what>(?:Attempt to release|Freeing) (?:alive \w+|TCP socket)[a-z ]*?)(?: \d+)?:? [0-9a-f]{8}",
        "{what}",
        Trait.ALONE,
    ),
    ("bug", r"(?:mm|arch)/\S{1,60}:\d+: (?P<what>bad p[gu4m]d) ", "{what}", Trait.ALONE),
    ("bug", r"\w+: (?P<what>(?:Bad|Unused) swap (?:file|offset) entry) [0-9a-f]", "{what}", Trait.ALONE),
    # Plain messages with a dump_stack() behind them. Since 5.17 that of kmem_cache_destroy() is a WARN, and goes on.
    ("bug", r"csd: (?:Detected|Continued) non-responsive CSD lock", "csd: non-responsive CSD lock"),
    ("bug", r"sysfs: cannot create duplicate filename ", "sysfs: cannot create duplicate filename"),
    (
        "bug",
        r"kmem_cache_destroy (?P<cache>.+): Slab cache still has objects$",
        "kmem_cache_destroy {cache}: Slab cache still has objects",
    ),
    ("bug", r"(?P<what>BUG|INFO|WARNING):$", "{what}: cut off", Trait.TORN),
    ("bug", r"BUG: (?P<what>[^:,!\[]+?)(?: on CPU| in process| in preemptible|[:,!\[]|$)", "BUG: {what}"),
)

FIRST = frozenset(
    {"BUG", "UBS", "kme", "unr", "Una", "Oop", "PAN", "tra", "gen", "seg", "Int", "ker", "Ker", "WAR", "INF", "rcu"}
    | {"NMI", "wat", "Wat", "Mem", "Out", "ref", "lis", "csd", "sys", "CPU", "VFS", "Ins", "Bad", "SEr", "Unh", "Ali"}
    | {"All", "Fre", "[ B", "[ I", "---", "===", "8<-", "Cal"}
    | {"CFI", "huh", "sof", "Att", "IPv", "uni", "pac", "net", "mm/", "arc", "get", "swa", "_sw", "__s"}
)
"""The first characters of a line worth a look: those of `HEADERS`, `WHO`, `TRACE`, `CUT_HERE` and `RULE`. Two kinds of
first lines begin with what they like: those with `DIED` and with `OOM` in them."""
PAGE = 4096
"""Below this address, a pointer is a NULL pointer with an offset: PAGE_SIZE."""
DIED = "[#"
OOM = " invoked oom-killer"

PROVEN_BY_TRACE = frozenset({"panic", "oops", "bug", "warning", ""})
"""Kinds whose first line anybody can write to /dev/kmsg: taken only where a dump follows, or where the log ends."""

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

LED = frozenset({"warning", "bug"})
"""Kinds of first lines that belong to one with `Trait.LEADS`."""

RULED = frozenset({"kasan", "kcsan", "ubsan", "bug"})
"""Kinds that end in a line of `=` if they begin with one."""

MANY_DUMPS = frozenset({"rcu-stall", "soft-lockup", "hard-lockup", "hung-task", "workqueue", "panic", "oom"})
"""Kinds whose reports have the dumps of several tasks or processors."""

CUT_HERE = re.compile(r"-+\[ cut here \]-+|8<--- cut here ---")
RULE = re.compile(r" ?={10,}\s*$")
END = re.compile(r"---\[ end (?:trace|Kernel panic)")
HALF = re.compile(r"(?:INFO: task|WARNING:)(?: .{0,15})?$")
"""The first line up to a task's name that has a line feed in it: the rest follows as a line of its own."""

WHO = re.compile(r"CPU: \d+ (?:UID: \d+ )?PID: \d+ Comm: ?(?P<comm>.{0,15}?)(?: Not tainted| Tainted: |$)")
"""The first line of every dump of a task: dump_stack_print_info() in lib/dump_stack.c."""

INNOCENT = re.compile(
    r"FAULT_INJECTION|name \w+, interval \d|(?i:sysrq ?: )|Testing a |The following trace is a kernel self test"
    r"|=+\[ .*backtrace testing|NMI backtrace for cpu|Sending NMI|task:|CPU\d+:$|CPU\d+: stopping"
    r"|.{15} [RSDTtXZPI] [ \w]{1,40}? \d{1,9} +\d{1,9} 0x|potentially unexpected fatal signal|User process fault"
    r"|.*unhandled (?:exception|signal)|Disabling lock debugging"
)
"""Lines before a dump that somebody asked for, or that is about a user's program."""
ASKED = re.compile(
    r"\s*(?:\[<[0-9a-f]+>\] )?(?:\? )?(?:should_fail\w*|fail_dump|__handle_sysrq|backtrace_test_\w+)\+0x"
)
"""Frames of such a dump: another message may stand between it and its line."""

PANIC_PROOF = re.compile(
    r"CPU: \d+ |Call [Tt]race:|Kernel Offset:|---\[ end Kernel panic|Rebooting in |Hardware name:|Dumping ftrace"
    r"|SMP: stopping secondary|Shutting down cpus| <(?:NMI|IRQ|TASK)>"
)
"""What panic() prints after its message; with `panic=-1` there is no end line."""

PANIC_FOLLOWS = re.compile(
    r"(?:Oops[\w -]*: )?Fatal exception|.* set(?: \.\.\.)?\s*$|.*panic_on_\w+|.*too often|hung_task:|softlockup:"
    r"|Hard LOCKUP|RCU Stall|Attempted to kill|Aiee|Out of memory|System is deadlocked|BUG!|scheduling while atomic"
    r"|Machine halted|bad mode|[Kk]ernel stack overflow|Unrecoverable|Unhandled exception|corrupted stack end"
    r"|.*stall|Asynchronous SError"
)
"""Reasons of a panic that is the consequence of a report shortly before it."""

NMI_PANIC = re.compile(r"NMI: Not continuing|An NMI occurred")
"""A panic that the lab itself asks for, by an injected NMI, where a guest's heartbeat stopped."""

BELONGS = re.compile(
    r"\s*(?:"
    r"RIP: |RSP: |[RE](?:[ABCD]X|[SD]I|[SBI]P): |IP: |R\d\d: |[CD]R\d: |[DEFGC]S: |PKRU: |Code: |Stack:|Call [Tt]race:"
    r"|</?(?:TASK|IRQ|NMI|SOFTIRQ|ENTRY_TRAMPOLINE|#DF|#DB|#MC|#VC\d?)>|CPU: \d+ |CPU#\d|Comm: |Hardware name: "
    r"|Modules linked in:|Workqueue: |Tainted: |Not tainted|\[W\]=WARN|Last unloaded|Oops|PGD |P4D |#PF: |BAD$"
    r"|\*pd[pet]* ?=|pgd = |PREEMPT|Mem abort|Data abort|Internal error|(?:user|swapper|Current .{1,16}) pgtable:"
    r"|\[[0-9a-f]{8,16}\] (?:\*?pgd=|address between|virtual address)|Failing address:|Fault in |AS:[0-9a-f]+ "
    r"|Krnl (?:PSW|GPRS|Code)|Last Breaking-Event|status: [0-9a-f]{16}|(?:gp|ra|sp|t\d|s\d\d?|a\d) ?: [0-9a-f]{8,16}"
    r"|(?:PC|LR) is at|NIP \[|LR \[|MSR: |GPR\d\d: |REGS: |psr: |Flags: |Control: |ERA: |(?:Task|IRQ|Overflow) stack:"
    r"|pc : |lr : |sp : |epc : |x\d+ ?: |pstate: |KASAN: |addr:[0-9a-f]|file:\S+ f|file: .* fault:|caller is "
    r"|Kernel Offset:|Rebooting in |Dumping ftrace|---\[ end |note: |ORIG_RAX|Shutting down cpus|SMP: stop"
    r"|stack backtrace:|other info that|-{10,}|\*\*\* DEADLOCK|\d+ locks? held by|Showing |-> #\d|Possible unsafe"
    r"|(?:Read|Write|Free) (?:of size|at)|Allocated by|Freed by|The buggy|page: ?[0-9a-fr]|raw:|flags:"
    r"|Memory state|page dumped|which belongs|Reported by Kernel|value changed|(?:read|write)(?: \(\w+\))? to 0x"
    r'|>[0-9a-f]{12,}:|index -?\d|load of|shift exponent|rcu: |\(detected by|Sending NMI|NMI backtrace|"echo 0 >'
    r"|task:|workqueue |pwq |pool \d|in-flight:|pending:|in_atomic\(\)|preempt_count:"
    r'|backtrace(?: \(crc [0-9a-f]+\))?:|comm "|hex dump|Slab 0x|Object|Redzone|Padding|Allocated in|Freed in|FIX '
    r"|hlock_id:|class_idx:|csd: |Register r|Process .* \(pid: |Backtrace:|[0-9a-f]{4}: +[0-9a-f]{8}|handlers:"
    r"|last function: "
    r"|RCU nest depth|no locks held|INFO: (?:lockdep is turned off|Slab|Object|Freed|Allocated)|irq event stamp"
    r"|(?:hard|soft)irqs last|Preemption disabled at|Mem-Info:|oom-kill:|oom_reaper:|Out of memory: Killed"
    r")"
)
"""Lines of register dumps, call traces and the prose around them."""

DATA = re.compile(r"[0-9a-f]{8,16}: [0-9a-f]{2}|\s|=*$|Disabling lock deb|\(?(?:raw|____?ptrval____?)\b|[0-9a-f]{16} ")
"""Lines that are no title, and part no reports: hex dumps, what is indented or empty, and what taint brings along."""
DATA_FIRST = " \t=(r0123456789abcdef"
"""The first characters of such a line, if it is not empty."""
DATA_WORDS = frozenset({"Modu", "skb ", "mac=", "shin", "csum", "hash", "prio", "enca", "dev ", "sk f"})
"""The first characters of others: "Modules linked in:", and the lines of skb_dump() in net/core/skbuff.c."""

IN_FLIGHT = re.compile(r"\s*in-flight: \d+(?:\(RESCUER\))?:([\w.]+)")
KILLED = re.compile(r"(?:Memory cgroup o|O)ut of memory: Killed process \d+ \((.*?)\)")
OTHER_TRACE = re.compile(
    r"\s*(?:[Aa]llocated by|[Ff]reed by|Last potentially|The buggy|---\[ end trace|Showing all locks|Uninit was"
    r"|NMI backtrace for|task:|rcu: |Last Breaking|kfence-#\d+: )"
)
NULL_ADDRESS = re.compile(rf"\s*Failing address: (?:{_NULL})")
"""s390 names the page of the fault on a line of its own."""

ANY_FRAME = re.compile(rf"(?<![\w.$]){SYMBOL}(?: \[(?P<module>[\w-]+)[^\]\n]*\])?")
"""`function+0x1a/0x40 [module buildid]`, anywhere in a line."""
FRAME = re.compile(
    rf"\s*(?:\(?\[<?[0-9a-fx]+>?\]\s*){{0,2}}(?P<unsure>\? )?(?:\(?{NAME}\)? from (?:\[<\w+>\] \()?)?{SYMBOL}"
)
"""A line of a call trace; `unsure` marks an address that merely lay on the stack. s390 has frames in parentheses that
another report of the same fault has without, so these count. 32-bit arm says who was called from where."""
PROGRAM_COUNTER = re.compile(
    r"\s*(?:RIP: (?:0010|e030):|pc : |epc : |EIP: |E?IP: |EIP is at |PC is at |NIP \[[0-9a-f]+\] |ERA: [0-9a-f]+ "
    r"|Krnl PSW : [0-9a-f]+ [0-9a-f]+ \()(?:(?:\[<[0-9a-f]+>\]\s*)*)(?:0060:)?"
    rf"(?:{SYMBOL}|(?P<address>0x[0-9a-f]+|[0-9a-f]{{16}})\b)"
)
"""The program counter: a function, or an address that is in none, as after a call of a NULL pointer."""
DUMP_COUNTER = re.compile(r"\s*(?:RIP|pc |epc |EIP|NIP|ERA|PC is|Krnl PSW)\b")
"""The same as a part of a dump; up to 4.14, `IP: function` came before it."""
CALLER = re.compile(rf"\s*(?:lr : |ra : |LR is at )(?:\[<[0-9a-f]+>\] )?{SYMBOL}")
"""Who called the function at the program counter, where registers say so."""
USER_COUNTER = re.compile(r"\s*RIP: 0033:")
OWN = re.compile(
    rf"\s*(?:caller is (?P<caller>{NAME})\+0x|last function: (?P<last>{NAME})|.*\bworkfn=(?P<work>{NAME}))"
)
"""Lines on which a report itself says which function it is about."""
TRACE = re.compile(r"\s*Call [Tt]race:")
TAKES = re.compile(rf".{{1,200}}\}}, at: (?:\[<\w+>\] )?(?P<name>{NAME})\+0x")
"""What lockdep says of a lock that is taken, and where."""
HELD = re.compile(rf"\s*#\d+: .* at: (?:\[<\w+>\] )?(?P<held>{NAME})\+0x")

ASIDE = re.compile(
    rb"(?:WARNING: CPU|WARNING: .* at \w+\+0x|BUG: |Oops|general protection fault|Unable to handle kernel)"
)
"""First lines worth a look where the kernel's lines have stamps and these have none."""


def is_whole(text: str) -> bool:
    """Whether a report has all its parts: registers, and a stack of more than one frame below."""
    lines = text.split("\n")
    counter = any((match := PROGRAM_COUNTER.match(line)) and match["name"] for line in lines)
    trace = next((n for n, line in enumerate(lines) if TRACE.match(line)), len(lines))
    return counter and sum(bool(FRAME.match(line)) for line in lines[trace:]) > 1
