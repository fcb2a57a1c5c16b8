"""The lines of one report -> its title, and the functions that tell it from others.

The function is taken from reliable sources alone, in this order: what the report's own lines say it is about, the
program counter where the kind has one, the frames of its stack. A frame with `?` merely lay on the stack and is never
taken. Functions that say nothing (`machinery`) are passed over, unless there is nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kpatchlab.evidence import patterns as p
from kpatchlab.evidence.machinery import is_machinery, only_prints
from kpatchlab.textclean import one_line

TITLE_CHARS = 160
LEAD_CHARS = 512
"""What is looked at of a line that titles a dump; the kernel's own messages are shorter than 1 KiB."""
FINGERPRINT_FRAMES = 4
OWN_LINES = 24
"""The first lines of a report, which may say themselves what it is about."""

_ADDRESS = re.compile(r"(?<![0-9a-z])(?:0x)?[0-9a-f]{16}(?![0-9a-z])")
_VOLATILE = re.compile(r"\b0x[0-9a-fA-F]+|\b[0-9a-f]{12,16}\b|\b\d{2,}\b|(?<=CPU )\d+|(?<=CPU#)\d+")
_OFFSET = re.compile(r"\+0x\w+(?:/0x\w+)?")
_ASIDE = re.compile(r", mode:.*| \(try .*")
"""What comes behind "page allocation failure: order:4" and "irq 4: nobody cared": how, and advice."""


@dataclass(frozen=True, slots=True)
class Named:
    """What a report is called; `basis` is what its fingerprint is made of, next to its kind."""

    title: str
    basis: Sequence[str]


def first_line(header: p.Header, message: str) -> tuple[str, str]:
    """Return the title that a report's first line gives it, and the function on that line, or ""."""
    match = header.pattern.match(message)
    groups = match.groupdict("") if match else {}
    function = _plain(groups.pop("function", ""))
    if header.kind == "kcsan":
        groups["what"] = _OFFSET.sub("", groups["what"])
    else:
        # A cache's name is kept, sizes in it and all, but no address that its owner put there (smbd_response_%p).
        groups = {key: _ADDRESS.sub("N", value) for key, value in groups.items()}
        groups = {key: value if key == "cache" else _VOLATILE.sub("N", value) for key, value in groups.items()}
    return _ended(header.title.format(**groups)), function


def before_dump(message: str, who: str) -> str:
    """Return the title that the line before a dump gives it; `who` is the dump's own first line."""
    message = message[:LEAD_CHARS]
    match = p.WHO.match(who.lstrip())
    comm = match["comm"] if match else ""
    text = re.sub(rf"^{re.escape(comm)}(?:[/(\[]\d+[)\]]?)?: ", "", message) if comm else message
    text = _OFFSET.sub("", _ASIDE.sub("", text))
    return _ended(_VOLATILE.sub("N", _ADDRESS.sub("N", text)))


def name(kind: str, title: str, header: p.Header | None, function: str, messages: Sequence[str]) -> Named:
    """Return what a report is called.

    Args:
        title: of its first line, as `function` on it; "" where there is none.
        messages: its lines without stamps; those of a panic that follows from it only where it has no stack of its own.
    """
    if kind == "oom":
        killed = next((match for text in messages if (match := p.KILLED.match(text))), None)
        title = f"{title}: killed {killed[1]}" if killed else title
        return Named(title, [title])
    if kind == "oops" and any(p.NULL_ADDRESS.match(text) for text in messages[:4]):
        title = "BUG: kernel NULL pointer dereference"
    counter = _counter(messages) if kind in p.RIP_FIRST else None
    if kind == "dump":  # one of registers as well: below its stack's first line, what an interrupt broke into
        counter = _counter(messages[: _trace(kind, messages) + 1])
    found = [name for name in _functions(kind, header, function, messages, counter) if name]
    telling = list(dict.fromkeys(name for name in found if not is_machinery(name)))
    if kind == "lockdep" and not telling:  # its stack is cut off, or nothing but guesses
        takers = (_plain(match["name"]) for text in messages if (match := p.TAKES.match(text)))
        telling = [name for name in takers if not is_machinery(name)][:1]
    chosen = telling or [name for name in found if not only_prints(name)][:1]
    basis = chosen[:FINGERPRINT_FRAMES] or [title]
    if counter and (address := counter[1]["address"]):
        basis = ["0x0" if int(address, 16) < p.PAGE else "0x", *basis]
    return Named(_with_place(kind, title, chosen, messages, counter), basis)


Counter = tuple[int, re.Match[str]] | None
"""Where the program counter is, and what it is."""


def _with_place(kind: str, title: str, chosen: Sequence[str], messages: Sequence[str], counter: Counter) -> str:
    if kind == "workqueue":
        busy = next((match for text in messages if (match := p.IN_FLIGHT.match(text))), None)
        return f"{title}: {busy[1]}" if busy else title
    if kind == "kcsan":
        return title
    if kind == "hard-lockup" and not counter and any(p.USER_COUNTER.match(text) for text in messages):
        return f"{title} in user space"
    return f"{title} in {chosen[0]}" if chosen else title


def _functions(
    kind: str, header: p.Header | None, function: str, messages: Sequence[str], counter: Counter
) -> Iterable[str]:
    """Yield the functions that a report names, the most telling first."""
    trait = header.trait if header else p.Trait.NONE
    yield from _own(messages[:OWN_LINES], held=p.Trait.HOLDER in trait)
    if counter:
        at, where = counter
        if where["name"]:
            yield _plain(where["name"])
        else:  # a call of a pointer that is none: who called
            callers = (match for text in messages[at : at + 3] if (match := p.CALLER.match(text)))
            yield from (_plain(match["name"]) for match in callers)
    else:
        at = -1 if p.Trait.DIRECT in trait else _trace(kind, messages)
    yield function
    yield from _frames(messages[at + 1 :])


def _own(messages: Iterable[str], *, held: bool) -> Iterable[str]:
    """Yield what a report's own lines say it is about."""
    for message in messages:
        if match := p.OWN.match(message) or (p.HELD.match(message) if held else None):
            yield _plain(match[match.lastindex or 0])


def _trace(kind: str, messages: Sequence[str]) -> int:
    """Return the index of the line above the report's own stack; lockdep's comes last, behind those of the locks."""
    starts = (n for n, text in enumerate(messages) if p.TRACE.match(text))
    if kind == "lockdep":
        backtrace = next((n for n, text in enumerate(messages) if text.startswith("stack backtrace:")), -1)
        starts = (n for n, text in enumerate(messages) if n > backtrace and p.TRACE.match(text))
    return next(starts, -1)


def _frames(messages: Iterable[str]) -> Iterable[str]:
    """Yield the functions of the first stack in these lines, innermost first.

    A frame at +0x0 is the return address behind a call that does not return: it belongs to the function before. Where
    an interrupt or a trap stands on a stack, the program counter below it is that of what it broke into.
    """
    any_yet = False
    for message in messages:
        if "+0x" in message:
            if frame := p.FRAME.match(message):
                if not frame["unsure"] and int(frame["offset"], 16):
                    any_yet = True
                    yield _plain(frame["name"])
            elif any_yet and (within := p.PROGRAM_COUNTER.match(message)):
                yield _plain(within["name"] or "")
        elif any_yet and p.OTHER_TRACE.match(message):
            return


def _counter(messages: Iterable[str]) -> Counter:
    for at, text in enumerate(messages):
        if match := p.PROGRAM_COUNTER.match(text):
            return at, match
    return None


def _plain(function: str) -> str:
    """Drop what the compiler appends: .constprop.0, .isra.0, .part.0, .cold."""
    return function.split(".", 1)[0]


def _ended(title: str) -> str:
    return one_line(title, TITLE_CHARS).rstrip(" .!:")
