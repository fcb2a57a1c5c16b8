"""What dmesg, journald, syslog and mails put in front of the lines of a kernel's log."""

from __future__ import annotations

import re

LEVEL = r"(?:<\d{1,3}>|kern *: ?[a-z]+ *: )?"
"""Raw, or by `dmesg -x`."""
HOST = r"(?:\S{3,12} [ \d]\d [\d:]{8}(?:\.\d+)? \S+ kernel: )?"
"""Syslog, and journalctl, whose months are the locale's."""
ISO = r"(?:\d{4}-\d\d-\d\dT[\d:]{8}(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)? (?:\S+ kernel: )?)?"
"""`dmesg --time-format iso`, `journalctl -o short-iso`, and who records consoles."""
CLOCK = r"[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d [\d:]{8} \d{4}"
"""The time as `dmesg -T` has it, in brackets."""

_BEFORE = re.compile(rf"^(?:> )*{HOST}{ISO}{LEVEL}(?:\[{CLOCK}\] ?)?".encode(), re.MULTILINE)
_STAMPED = re.compile(rb"^(\[ *\d+\.\d{6}\])(?: (?=\[ *[TC]\d+\] )| \S+ kernel: )", re.MULTILINE)
_DECODED = re.compile(rb"(?<=[ :])([A-Za-z_][\w.$]*) (?=\([\w./-]+\.[chS]:\d+)")
_OFFSET = rb"\1+0x1/0x1 "
"""The kernel's decode_stacktrace.sh puts file and line where a frame's offset was, by which one is known."""


def plain(log: bytes) -> bytes:
    """Return a log as a console has it: with nothing before the kernel's own time stamps, or without any."""
    return _DECODED.sub(_OFFSET, _STAMPED.sub(_stamp, _BEFORE.sub(b"", log)))


def _stamp(match: re.Match[bytes]) -> bytes:
    return match[1] + (b" " if match[0].endswith(b"kernel: ") else b"")
