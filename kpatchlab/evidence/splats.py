"""Kernel log bytes -> splats: each one cut out, named and fingerprinted.

A log is read line by line, once; memory is bounded by `MAX_SPLATS` times `MAX_LINES`. Where the log has time
stamps (`printk.time=1`), only stamped lines are the kernel's, and what user space writes to the console between
them is left out. Where it has caller tags too (CONFIG_PRINTK_CALLER), reports of two CPUs that run into each
other are told apart by them.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field

from kpatchlab.evidence import patterns as p
from kpatchlab.model import Splat
from kpatchlab.textclean import iter_lines, one_line, printable

LINE_BYTES = 4096
MAX_LINES = 600
"""Lines of one report that are kept; a stall with every CPU's backtrace runs to thousands."""
MAX_SPLATS = 100
MAX_SAME = 3
"""How often one fingerprint is kept: a WARN in a hot path fills any log."""
MAX_OPEN = 32
LINGER_LINES = 60
"""A panic this many lines after a report can still be its consequence."""
TOLERANCE = {"lockdep": 12, "kasan": 12, "oom": LINGER_LINES, "workqueue": 20}
"""Lines in the midst of a report that are not known to belong to one, by kind; else 8."""
AFTER_END = 4
"""The same after `---[ end trace`: an oops repeats its registers there."""
FINGERPRINT_FRAMES = 4

_STAMP = re.compile(rb"(?:<\d{1,3}>)?\[ {0,11}\d{1,12}\.\d{6}\](?:\[ *([TC]\d+)\])? ?")
_LEVEL = re.compile(rb"<\d{1,3}>")
_ODD = re.compile(rb"[^\t\x20-\x7e]")
_CUT = re.compile(rb"\[\.\.\. \d+ bytes cut \.\.\.\]")
# The first characters of every header but one; most lines are let go here.
_HINT = re.compile(
    r"[\[(]? ?(?:Kernel|kernel|BUG|UBSAN|kmemleak|unref|Unable|Oops|PANIC|general|Internal|WARNING|INFO|rcu:"
    r"|NMI|watch|Watch|Memory|Out|refcount|list_|unregister|divide|invalid|stack|int3|double|align|control"
    r"|bounds|overflow|csd: |sysfs: |kmem_cache_d)|.{1,20} invoked oom"
)
_ADDRESS = re.compile(r"(?<![0-9a-z])(?:0x)?[0-9a-f]{16}(?![0-9a-z])")
_VOLATILE = re.compile(r"\b0x[0-9a-fA-F]+|\b[0-9a-f]{12,16}\b|\b\d{2,}\b|(?<=CPU )\d+|(?<=CPU#)\d+")


@dataclass(slots=True)
class _Block:
    """A report under construction; `lines` holds pairs of the whole line and the message without its stamp."""

    start: int
    kind: str = ""
    title: str = ""
    function: str = ""
    lines: list[tuple[str, str]] = field(default_factory=list)
    pending: list[tuple[str, str]] = field(default_factory=list)
    cut: int = 0
    traced: bool = False
    proven: bool = False
    ended: bool = False
    panic_at: int = -1
    fatal: bool = False

    def add(self, text: str, message: str) -> None:
        """Take a line that belongs here, and what stood between it and the last one."""
        for pair in (*self.pending, (text, message)):
            if len(self.lines) < MAX_LINES:
                self.lines.append(pair)
            else:
                self.cut += 1
        self.pending.clear()

    def name(self, header: p.Header, message: str) -> bool:
        """Take a header: the first, or one that says more; False where it begins another report."""
        if self.kind == header.kind == "oom" and p.KILLED.match(message):
            return True
        if self.kind:
            if self.traced or self.ended or self.pending or header.kind not in p.CONTINUED.get(self.kind, ()):
                return False
            if self.kind != "warning":
                return True
        match = header.pattern.match(message)
        groups = match.groupdict("") if match else {}
        function = _plain(groups.pop("function", ""))
        if header.kind == "kcsan":
            groups["what"] = re.sub(r"\+0x\w+(?:/0x\w+)?", "", groups["what"])
        else:
            # A cache's name is kept, sizes in it and all, but no address that its owner put there (smbd_response_%p).
            groups = {key: _ADDRESS.sub("N", value) for key, value in groups.items()}
            groups = {key: value if key == "cache" else _VOLATILE.sub("N", value) for key, value in groups.items()}
        self.kind, self.title = header.kind, one_line(header.title.format(**groups), 160).rstrip(" .!:")
        self.function = "" if p.DULL.fullmatch(function) else function
        return True

    def take(self, text: str, message: str) -> bool:
        """Take or hold back a line that is no header; False where the report has long ended."""
        if self.panic_at >= 0 and p.PANIC_PROOF.match(message):
            self.fatal = True
        frame = "+0x" in message and p.ANY_FRAME.search(message)
        tolerance = AFTER_END if self.ended else TOLERANCE.get(self.kind, 8)
        if not self.kind:
            belongs = True  # between "cut here" and the header stands the message of WARN(), free text
        elif p.RULE.match(message) and self.kind in p.RULED and p.RULE.match(self.lines[0][1]) and not self.ended:
            belongs = self.ended = True
        elif len(self.pending) > tolerance:
            belongs = False
        else:
            belongs = bool(frame or p.BELONGS.match(message))
            if not belongs and not self.ended and not self.pending:
                belongs = message[:1] in {" ", "\t"}
        if not belongs:
            self.pending.append((text, message))
            return len(self.pending) <= LINGER_LINES
        self.add(text, message)
        self.traced |= bool(frame and (p.FRAME.match(message) or p.PROGRAM_COUNTER.match(message)))
        self.proven |= bool(frame or p.BELONGS.match(message))
        self.ended |= bool(p.END.match(message))
        return bool(self.kind) or len(self.lines) <= 20

    def panic(self, text: str, message: str) -> None:
        """Take the panic that follows from this report."""
        self.panic_at = len(self.lines)
        self.add(text, message)

    def splat(self, *, died: bool) -> Splat | None:
        """Return the finished report, None where it is not one."""
        if self.panic_at >= 0 and not self.fatal:
            if died or (self.panic_at > 0 and self.kind != "panic"):
                self.fatal = True
            else:
                del self.lines[self.panic_at :]
        if not self.kind or not self.lines:
            return None
        if self.kind in p.PROVEN_BY_TRACE and not self.proven and not self.fatal and not _stands_alone(self.title):
            return None
        messages = [message for _, message in self.lines]
        functions = _functions(self.kind, messages)
        if self.function:
            functions = [self.function, *(name for name in functions if name != self.function)]
        title = _title(self, functions, messages)
        basis = functions[:FINGERPRINT_FRAMES] if functions and self.kind != "oom" else [title]
        digest = hashlib.sha256("\n".join([self.kind, *basis]).encode()).hexdigest()[:12]
        text = "\n".join(line for line, _ in self.lines)
        if self.cut:
            text += f"\n[... {self.cut} lines cut ...]"
        return Splat(self.kind, title, digest, text, fatal=self.fatal)


def find_splats(log: bytes | str, *, died: bool = False) -> list[Splat]:
    """Return the kernel's reports in the order in which they begin.

    Args:
        log: a console's bytes; anything at all may be between the kernel's lines.
        died: the guest is known to have stopped (pvpanic, QEMU's end): a panic's message is then believed
            without the dump that should follow it, which a dying console can swallow.
    """
    data = log.encode("utf-8", "surrogateescape") if isinstance(log, str) else log
    stamped = _is_stamped(data)
    finder = _Finder(died=died)
    for number, raw in enumerate(iter_lines(data, LINE_BYTES)):
        if _CUT.match(raw):
            finder.cut(raw.decode("ascii", "replace"))
            continue
        match = _STAMP.match(raw) or (b"[" in raw and _last_stamp(raw)) or None
        if match:
            text, message = raw[match.start() :], raw[match.end() :]
            caller = (match[1] or b"").decode()
        elif stamped:
            continue
        else:
            level = _LEVEL.match(raw)
            text, message, caller = raw, raw[level.end() :] if level else raw, ""
        finder.feed(number, caller, _text(text), _text(message))
    return finder.finish()


def _is_stamped(log: bytes) -> bool:
    return any(match.start() == 0 or log[match.start() - 1] in b"\r\n" for match in _STAMP.finditer(log))


def _last_stamp(line: bytes) -> re.Match[bytes] | None:
    """Find the stamp of a message that the kernel printed behind a line of user space without its end."""
    last = None
    for last in _STAMP.finditer(line):  # noqa: B007 - the last one is wanted
        pass
    return last


def _text(raw: bytes) -> str:
    return printable(raw).replace("\n", " ").rstrip() if _ODD.search(raw) else raw.decode("ascii").rstrip()


class _Finder:
    """The open reports, one for each caller tag ("" where the log has none), and the finished ones."""

    def __init__(self, *, died: bool) -> None:
        self._died = died
        self._open: dict[str, _Block] = {}
        self._done: list[tuple[int, Splat]] = []
        self._seen: Counter[str] = Counter()
        self._rule: tuple[int, str, str, str] | None = None  # a "=====" line: the first of some reports

    def feed(self, number: int, caller: str, text: str, message: str) -> None:
        """Take the next line of the kernel's."""
        block = self._open.get(caller)
        header = None
        if _HINT.match(message):
            header = next((h for h in p.HEADERS if h.pattern.match(message)), None)
        if header and header.kind == "panic":
            self._panic(header, number, caller, text, message)
        elif header:
            if block is None or not block.name(header, message):
                block = self._begin(number, caller)
                block.name(header, message)
            block.add(text, message)
            block.traced |= bool(p.FRAME.match(message))
        elif p.CUT_HERE.match(message):
            if block is None or not block.kind or block.traced or block.ended or block.panic_at >= 0 or block.pending:
                block = self._begin(number, caller)
            block.add(text, message)
        elif block and not block.take(text, message):
            self._close(caller)
        self._rule = (number, caller, text, message) if p.RULE.match(message) else None

    def _panic(self, header: p.Header, number: int, caller: str, text: str, message: str) -> None:
        block = self._open.get(caller)
        reason = message[len("Kernel panic - not syncing: ") :]
        if block and block.kind and block.kind != "panic" and block.panic_at < 0 and p.PANIC_FOLLOWS.match(reason):
            block.panic(text, message)
            return
        block = self._begin(number, caller)
        block.name(header, message)
        block.panic(text, message)
        if p.NMI_PANIC.match(reason):
            block.kind, block.title = "hard-lockup", "hard lockup"

    def _begin(self, number: int, caller: str) -> _Block:
        self._close(caller)
        if len(self._open) >= MAX_OPEN:
            self._close(next(iter(self._open)))
        block = self._open[caller] = _Block(number)
        if self._rule and self._rule[:2] == (number - 1, caller):
            block.add(*self._rule[2:])
        return block

    def _close(self, caller: str) -> None:
        block = self._open.pop(caller, None)
        splat = block.splat(died=self._died) if block else None
        if block and splat:
            self._seen[splat.fingerprint] += 1
            few = len(self._done) < MAX_SPLATS and self._seen[splat.fingerprint] <= MAX_SAME
            if few or splat.fatal:
                self._done.append((block.start, splat))

    def cut(self, mark: str) -> None:
        """End every open report where the log has a hole."""
        for caller, block in list(self._open.items()):
            if len(block.pending) <= TOLERANCE.get(block.kind, 8) and not block.ended:
                block.add(mark, "")
                block.proven |= block.kind != "panic"  # what would prove it may be in the hole
            self._close(caller)

    def finish(self) -> list[Splat]:
        """Return all reports, by where they begin; one that the log shows twice (`dmesg`) counts once."""
        for caller in list(self._open):
            self._close(caller)
        ordered = [splat for _, splat in sorted(self._done, key=lambda pair: pair[0])]
        return list({(splat.kind, splat.text): splat for splat in ordered}.values())


def _plain(function: str) -> str:
    """Drop what the compiler appends: .constprop.0, .isra.0, .part.0, .cold."""
    return function.split(".", 1)[0]


def _functions(kind: str, messages: list[str]) -> list[str]:
    """Return the functions of the report's own stack, innermost first, without dull and unsure ones."""
    begin = 0
    if kind in p.RIP_FIRST:
        begin = next((n for n, text in enumerate(messages) if p.PROGRAM_COUNTER.match(text)), 0)
        counter = p.PROGRAM_COUNTER.match(messages[begin])
        names = [_plain(counter["name"])] if counter else []
    else:
        names = []
    traces = (n for n, text in enumerate(messages) if n >= begin and text.lstrip().lower().startswith("call trace:"))
    if not (names and kind == "hard-lockup"):  # behind an NMI's registers, the trace goes on without a new title
        begin = next(traces, begin)
    for message in messages[begin:]:
        if names and p.OTHER_TRACE.match(message):
            break
        frame = p.FRAME.match(message)
        if frame and not frame["unsure"] and names[-1:] != [_plain(frame["name"])]:
            names.append(_plain(frame["name"]))
    return [name for name in names if not p.DULL.fullmatch(name)] or names


def _title(block: _Block, functions: list[str], messages: list[str]) -> str:
    if block.kind == "oom":
        killed = next((match for text in messages if (match := p.KILLED.match(text))), None)
        return f"{block.title}: killed {killed[1]}" if killed else block.title
    if block.kind == "workqueue":
        busy = next((match for text in messages if (match := p.IN_FLIGHT.match(text))), None)
        return f"{block.title}: {busy[1]}" if busy else block.title
    if block.kind == "kcsan":
        return block.title
    if block.kind == "hard-lockup" and any(p.USER_COUNTER.match(text) for text in messages):
        counter = next((text for text in messages if p.PROGRAM_COUNTER.match(text)), "")
        if not counter:
            return f"{block.title} in user space"
    return f"{block.title} in {functions[0]}" if functions else block.title


def _stands_alone(title: str) -> bool:
    """Whether a report of a kind that usually has a dump comes without one."""
    return title.startswith("unregister_netdevice")
