"""Kernel log bytes -> splats: each one cut out, named and fingerprinted.

A log is read line by line, once; memory is bounded by `MAX_SPLATS` times `MAX_LINES`. Where the log has time
stamps (`printk.time=1`), only stamped lines are the kernel's, and what user space writes to the console between
them is left out. Where it has caller tags too (CONFIG_PRINTK_CALLER), reports of two CPUs that run into each
other are told apart by them.

A report begins with a line of `patterns.HEADERS`. A dump of a stack below any other line is a report too, of kind
"dump": the kernel prints one only where something is wrong, or where somebody asked for it (`patterns.INNOCENT`).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from kpatchlab.evidence import naming
from kpatchlab.evidence import patterns as p
from kpatchlab.model import Splat
from kpatchlab.textclean import iter_lines, line_of

LINE_BYTES = 4096
MAX_LINES = 600
"""Lines of one report that are kept; a stall with every CPU's backtrace runs to thousands."""
MAX_SPLATS = 100
MAX_SAME = 3
"""How often one fingerprint is kept: a WARN in a hot path fills any log."""
MAX_OPEN = 32
MAX_CALLERS = 1024
"""Callers whose last line is kept, for the dump that may come below it."""
MAX_LEAD = 40
"""Lines that are kept from a dump's title to the dump itself: a hex dump can stand between."""
DUMP_LINES = 100
"""Lines of a log between the first line of a dump and its "Call Trace"."""
LINGER_LINES = 60
"""A panic this many lines after a report can still be its consequence."""
TOLERANCE = {"lockdep": 12, "kasan": 12, "oom": LINGER_LINES, "workqueue": 20}
"""Lines in the midst of a report that are not known to belong to one, by kind; else 8."""
BESIDE = 8
"""The same between a report's first lines, before any stack."""
AFTER_END = 4
"""The same after `---[ end trace`: an oops repeats its registers there."""

_STAMP = re.compile(rb"(?:<\d{1,3}>)?\[ {0,11}\d{1,12}\.\d{6}\](?:\[ *([TC]\d+)\])? ?")
_STAMP_AT = re.compile(rb"\[ {0,11}\d{1,12}\.\d{6}\](?:\[ *([TC]\d+)\])? ")
_LEVEL = re.compile(rb"<\d{1,3}>")
_CUT = re.compile(rb"\[\.\.\. \d+ bytes cut \.\.\.\]")

Pair = tuple[str, str]
"""A whole line, and its message without stamp."""


@dataclass(slots=True)
class _Block:
    """A report under construction."""

    start: int
    kind: str = ""
    title: str = ""
    function: str = ""
    header: p.Header | None = None
    lines: list[Pair] = field(default_factory=list)
    pending: list[Pair] = field(default_factory=list)
    cut: int = 0
    traced: bool = False
    proven: bool = False
    ended: bool = False
    dumped: bool = False
    stacked: bool = False
    counted: bool = False
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
        counted = p.DIED in message
        # A log with files and lines names who was inlined first: "BUG: KASAN: ... in F FILE:LINE [inline]".
        inlined = self.kind == header.kind and bool(self.lines) and self.lines[-1][1].endswith("[inline]")
        if self.kind and not inlined:
            if not self._goes_on(header, counted=counted):
                return False
            self.counted |= counted
            if self.kind != "warning":
                return True
        self.counted = counted
        self.kind, self.header = header.kind, header
        self.title, self.function = naming.first_line(header, message)
        return True

    def is_beginning(self) -> bool:
        """Whether one of its first lines can come yet."""
        # What leads to a WARN() can have stacks of its own: of who allocated a slab's object.
        stacked = self.dumped or self.stacked if self._leads() else self.traced
        over = stacked or self.ended or self.panic_at >= 0
        return bool(self.kind) and not over and len(self.pending) <= (LINGER_LINES if self._waits() else BESIDE)

    def _waits(self) -> bool:
        """Whether nothing but the first line of a fault is there: others print dozens of lines while it takes long."""
        return self.kind == "oops" and not self.proven

    def _leads(self) -> bool:
        return self.header is not None and p.Trait.LEADS in self.header.trait

    def _goes_on(self, header: p.Header, *, counted: bool) -> bool:
        """Whether a header is a later line of this report's beginning."""
        if not self.is_beginning():
            return False
        if self._leads() and not self.pending and header.kind in p.LED:
            return p.Trait.LEADS not in header.trait
        if header.kind not in p.CONTINUED.get(self.kind, ()):
            return False
        if self.kind == header.kind:  # die() counts its calls, once for each
            return counted and not self.counted
        return True

    def take(self, text: str, message: str) -> bool:
        """Take or hold back a line that is no header; False where the report has long ended."""
        if self.panic_at >= 0 and not self.fatal and p.PANIC_PROOF.match(message):
            self.fatal = True
        frame = "+0x" in message and p.ANY_FRAME.search(message)
        known: bool | None = bool(frame) or None
        tolerance = LINGER_LINES if self._waits() else AFTER_END if self.ended else TOLERANCE.get(self.kind, 8)
        if not self.kind:
            belongs = True  # between "cut here" and the header stands the message of WARN(), free text
        elif self._is_last_rule(message):
            belongs = self.ended = True
        elif len(self.pending) > tolerance:
            belongs = False
        else:
            belongs = known = bool(frame or p.BELONGS.match(message))
            if not belongs and not self.ended and (not self.pending or self.kind == "lockdep"):
                belongs = message[:1] in {" ", "\t"}
        if not belongs:
            self.pending.append((text, message))
            return len(self.pending) <= LINGER_LINES
        self.add(text, message)
        if frame and not self.traced:
            self.traced = bool(p.FRAME.match(message) or p.DUMP_COUNTER.match(message))
        if not self.proven:
            self.proven = bool(p.BELONGS.match(message)) if known is None else known
        if message.startswith("---[") and p.END.match(message):
            self.ended = True
        return bool(self.kind) or len(self.lines) <= 20

    def _is_last_rule(self, message: str) -> bool:
        """Whether a line of `=` ends a report that began with one."""
        ruled = message[:2] in {"==", " ="} and self.kind in p.RULED and not self.ended
        return ruled and bool(p.RULE.match(message) and p.RULE.match(self.lines[0][1]))

    def panic(self, text: str, message: str) -> None:
        """Take the panic that follows from this report."""
        self.panic_at = len(self.lines)
        self.add(text, message)

    def is_over(self, *, at_trace: bool) -> bool:
        """Whether a dump behind foreign lines is another report's; `at_trace`: its "Call Trace" comes, not its head."""
        if not self.kind or self.panic_at >= 0 or self.kind in p.MANY_DUMPS:
            return False
        if all(p.DATA.match(line) for _, line in self.pending):
            return False
        if self._waits() and not self.counted and len(self.pending) > BESIDE:
            return True  # die() counts a fault before it dumps
        trait = self.header.trait if self.header else p.Trait.NONE
        alone = self.kind == "bug" and p.Trait.ALONE in trait and p.Trait.LEADS not in trait
        return self.ended or alone or (self.stacked if at_trace else self.dumped)

    def is_report(self, *, died: bool, last: bool) -> bool:
        """Finish, and say whether it is a report; `last`: the log ends in it."""
        if self.panic_at >= 0 and not self.fatal:
            reason = self.lines[self.panic_at][1][len(p.PANIC) :]
            last_word = last and not self.pending and p.PANIC_FOLLOWS.match(reason)
            if died or last_word or (self.panic_at > 0 and self.kind != "panic"):
                self.fatal = True
            else:
                del self.lines[self.panic_at :]
        if not self.kind and died and last:  # it died behind "cut here"
            self.kind, self.title = "bug", "cut off"
            return True
        return bool(self.kind and self.lines) and self._is_proven(last=last)

    def splat(self) -> Splat:
        """Return the finished report."""
        messages = [message for _, message in self.lines]
        if self.kind == "dump":
            titles = (text for text in messages if not p.CUT_HERE.match(text.lstrip()))
            self.title = naming.before_dump(next(titles), next(filter(p.WHO.match, messages), ""))
        own = messages[: self.panic_at] if self.panic_at > 0 and self.kind != "panic" else messages
        if not any(p.FRAME.match(text) for text in own[1:]):  # a WARN up to 5.x panics before its own dump
            own = messages
        named = naming.name(self.kind, self.title, self.header, self.function, own)
        digest = hashlib.sha256("\n".join([self.kind, *named.basis]).encode()).hexdigest()[:12]
        text = "\n".join(line for line, _ in self.lines)
        if self.cut:
            text += f"\n[... {self.cut} lines cut ...]"
        return Splat(self.kind, named.title, digest, text, fatal=self.fatal)

    def _is_proven(self, *, last: bool) -> bool:
        """Whether the kernel itself printed this: somebody may have written the first line to /dev/kmsg."""
        trait = self.header.trait if self.header else p.Trait.NONE
        if p.Trait.TORN in trait:
            return self.traced or (last and not self.pending)
        if self.kind == "dump":
            return self.traced and not any(p.ASKED.match(message) for _, message in self.lines)
        if self.kind not in p.PROVEN_BY_TRACE or self.proven or self.fatal or p.Trait.ALONE in trait:
            return True
        exact = self.counted or any(p.ANY_FRAME.search(message) for _, message in self.lines)
        return last and self.kind != "panic" and (exact or not self.pending)


def find_splats(log: bytes | str, *, died: bool = False, whole: bool = True) -> list[Splat]:
    """Return the kernel's reports in the order in which they begin.

    Args:
        log: a console's bytes; anything at all may be between the kernel's lines.
        died: the guest is known to have stopped (pvpanic, QEMU's end): a panic's message is then believed
            without the dump that should follow it, which a dying console can swallow.
        whole: nothing comes behind it: a first line at its end is believed without a dump. False while a guest
            still prints.
    """
    data = log.encode("utf-8", "surrogateescape") if isinstance(log, str) else log
    stamped = is_stamped(data)
    finder = _Finder(died=died, whole=whole)
    aside = _Aside()
    for number, raw in enumerate(iter_lines(data, LINE_BYTES)):
        if _CUT.match(raw):
            finder.cut(raw.decode("ascii", "replace"))
            continue
        match = _STAMP.match(raw) or (b"[" in raw and _last_stamp(raw)) or None
        if match:
            if aside.lines:
                aside.end()
            begin, end = match.span()
            text = line_of(raw[begin:])
            if raw.find(b"[", end) >= 0 and (inner := _STAMP_AT.search(raw, end)):
                for text, size, caller in _messages(raw, match, inner):
                    finder.feed(number, caller, text, text[size:])
                continue
            finder.feed(number, match[1].decode() if match[1] else "", text, text[end - begin :])
        elif not stamped:
            level = _LEVEL.match(raw)
            text = line_of(raw)
            finder.feed(number, "", text, text[level.end() :] if level else text)
        elif aside.lines or p.ASIDE.match(raw):
            aside.take(number, raw)
    aside.end()
    return finder.finish(aside.found)


def _messages(raw: bytes, stamp: re.Match[bytes], inner: re.Match[bytes] | None) -> Iterator[tuple[str, int, str]]:
    """Yield the messages of a line into which other CPUs broke: whole, the length of the stamp, the caller."""
    while True:
        end = inner.start() if inner else len(raw)
        yield line_of(raw[stamp.start() : end]), stamp.end() - stamp.start(), (stamp[1] or b"").decode()
        if not inner:
            return
        stamp, inner = inner, _STAMP_AT.search(raw, inner.end())


def is_stamped(log: bytes) -> bool:
    """Whether a log has the kernel's time stamps at the beginning of lines."""
    return any(match.start() == 0 or log[match.start() - 1] in b"\r\n" for match in _STAMP.finditer(log))


def _last_stamp(line: bytes) -> re.Match[bytes] | None:
    """Find the stamp of a message that the kernel printed behind a line of user space without its end."""
    last = None
    for last in _STAMP.finditer(line):  # noqa: B007 - the last one is wanted
        pass
    return last


class _Aside:
    """Lines without stamps in a log that has them: user space's, unless they are a whole report, registers and all.

    The kernel prints such lines once somebody has turned `/sys/module/printk/parameters/time` off.
    """

    def __init__(self) -> None:
        self.found: list[tuple[int, Splat]] = []
        self.lines: list[bytes] = []
        self._start = 0

    def take(self, number: int, raw: bytes) -> None:
        """Take the next line of what may be a report."""
        self._start = self._start if self.lines else number
        if len(self.lines) < MAX_LINES:
            self.lines.append(raw)

    def end(self) -> None:
        """Take up what the lines so far are, if they are a report."""
        finder = _Finder(died=False, whole=False)
        for number, raw in enumerate(self.lines):
            finder.feed(number, "", text := line_of(raw), text)
        self.lines = []
        if len(self.found) < MAX_SPLATS:
            self.found += [(self._start, splat) for splat in finder.finish([]) if p.is_whole(splat.text)]


class _Finder:
    """The open reports, one for each caller tag ("" where the log has none), and the finished ones."""

    def __init__(self, *, died: bool, whole: bool) -> None:
        self._died = died
        self._whole = whole
        self._open: dict[str, _Block] = {}
        self._done: list[tuple[int, Splat]] = []
        self._seen: Counter[str] = Counter()
        self._rule: tuple[int, str, Pair] | None = None  # a "=====" line: the first of some reports
        self._half: tuple[int, str, Pair] | None = None  # a first line that a line feed in a task's name cut
        self._before: dict[str, list[Pair]] = {}  # the last line of who has no report, and the data below it
        self._asked: dict[str, int] = {}  # where the last dump began that somebody asked for

    def feed(self, number: int, caller: str, text: str, message: str) -> None:
        """Take the next line of the kernel's."""
        word = message[:3]
        if word[:1] == " ":
            word = message.lstrip(" ")[:3]
        if (word in p.FIRST or p.DIED in message or p.OOM in message or self._half) and self._begins(
            number, caller, text, message
        ):
            return
        block = self._open.get(caller)
        if block:
            if block.take(text, message):
                return
            self._close(caller)
        self._remember(caller, text, message)

    def _remember(self, caller: str, text: str, message: str) -> None:
        data = message[:1] in p.DATA_FIRST and p.DATA.match(message)
        if data or message[:4] in p.DATA_WORDS or " mems_allowed=" in message[:60]:
            lead = self._before.get(caller)
            if lead and len(lead) < MAX_LEAD:
                lead.append((text, message))
            return
        if len(self._before) > MAX_CALLERS:
            self._before.clear()
        self._before[caller] = [(text, message)]

    def _begins(self, number: int, caller: str, text: str, message: str) -> bool:
        """Take a line that may begin a report; False where it does not."""
        bare = message.lstrip(" ")
        if p.RULE.match(message):
            self._rule = (number, caller, (text, message))
            return False
        if p.WHO.match(bare) or p.TRACE.match(bare):
            return self._dump(number, caller, text, message)
        if p.CUT_HERE.match(bare):
            block = self._open.get(caller)
            if block is None or not block.is_beginning():
                block = self._begin(number, caller)
            block.add(text, message)
            return True
        first: list[Pair] = [(text, message)]
        if half := self._rest_of(number, caller):
            first.insert(0, half)
            bare = f"{half[1]} {bare}"
        header = next((h for h in p.HEADERS if h.pattern.match(bare)), None)
        if header is None:
            if p.HALF.match(bare):
                self._half = number, caller, (text, bare)
            return False
        if header.kind == "panic":
            self._panic(header, number, caller, text, bare)
            return True
        block = self._open.get(caller)
        if block and p.Trait.PART in header.trait:
            return False
        if block is None or not block.name(header, bare):
            block = self._begin(number, caller)
            block.name(header, bare)
        for pair in first:
            block.add(*pair)
        block.traced |= bool(p.FRAME.match(message))
        return True

    def _rest_of(self, number: int, caller: str) -> Pair | None:
        """Return the first part of a line that a line feed cut, where this is what follows it."""
        if self._half is None:
            return None
        begun, who, first = self._half
        if who == caller or number > begun + BESIDE:
            self._half = None
        return first if who == caller else None

    def _dump(self, number: int, caller: str, text: str, message: str) -> bool:
        """Take the first line of a dump, or of its stack; False where it is the open report's, or was asked for."""
        block = self._open.get(caller)
        at_trace = bool(p.TRACE.match(message))
        if block and not block.is_over(at_trace=at_trace):
            block.kind = block.kind or "dump"  # a first line behind "cut here" that is not known
            block.dumped |= not at_trace
            block.stacked |= at_trace
            return False
        if block:
            titles = [n for n, (_, line) in enumerate(block.pending) if not p.DATA.match(line)]
            lead = block.pending[titles[-1] :][:MAX_LEAD] if titles else []
            before = [*block.pending[-BESIDE:], *lead]
            self._close(caller)
        else:
            lead = before = self._before.pop(caller, [])
        if at_trace and number - self._asked.pop(caller, -DUMP_LINES) < DUMP_LINES:
            return False
        if any(p.INNOCENT.match(line) for _, line in before):
            if len(self._asked) > MAX_CALLERS:
                self._asked.clear()
            self._asked[caller] = number
            return False
        if not lead or p.BELONGS.match(lead[0][1]):
            return False  # the first lines of a report are lost: a dump without a name is nothing
        block = self._begin(number, caller)
        block.kind, block.dumped = "dump", True
        for pair in (*lead, (text, message)):
            block.add(*pair)
        return True

    def _panic(self, header: p.Header, number: int, caller: str, text: str, message: str) -> None:
        block = self._open.get(caller)
        reason = message[len(p.PANIC) :]
        if block and block.kind and block.kind != "panic" and block.panic_at < 0:
            at_once = not block.pending and not block.ended
            if at_once or p.PANIC_FOLLOWS.match(reason):
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
            block.add(*self._rule[2])
        return block

    def _close(self, caller: str, *, last: bool = False) -> None:
        block = self._open.pop(caller, None)
        if block is None or not block.is_report(died=self._died, last=last):
            return
        if len(self._done) < MAX_SPLATS or block.fatal:
            splat = block.splat()
            self._seen[splat.fingerprint] += 1
            if self._seen[splat.fingerprint] <= MAX_SAME or splat.fatal:
                self._done.append((block.start, splat))

    def cut(self, mark: str) -> None:
        """End every open report where the log has a hole."""
        for caller, block in list(self._open.items()):
            if len(block.pending) <= TOLERANCE.get(block.kind, 8) and not block.ended:
                block.add(mark, "")
                block.proven |= block.kind != "panic"  # what would prove it may be in the hole
            self._close(caller)
        self._before.clear()

    def finish(self, aside: list[tuple[int, Splat]]) -> list[Splat]:
        """Return all reports, by where they begin; one that the log shows twice (`dmesg`) counts once."""
        for caller in list(self._open):
            self._close(caller, last=self._whole)
        self._done += [(start, splat) for start, splat in aside if splat.fingerprint not in self._seen]
        ordered = [splat for _, splat in sorted(self._done, key=lambda pair: pair[0])]
        return list({(splat.kind, splat.text): splat for splat in ordered}.values())
