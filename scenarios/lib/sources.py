"""What is sent stays as it is: files and memory are held against what they were, once they have been sent.

Sending takes pages of the page cache, or of a process, into the kernel.  Whoever writes to one of these there (a
cipher in place, a header before the data) changes the sender's file, and what the receiver gets can be right all the
same.  `datafile.make`, `datafile.send` and `splicecalls.vmsplice` hold what they are given; `ktap.check`, and each
child of `splicecalls.in_child`, asks at its end.
"""

import contextlib
import mmap
import os
import threading

import ktap

MARK_NS = 1_000_000_007
"""The time of the last change that a file gets here, long past: whoever writes to it by a system call sets the present
one, and so says that the change is meant.  What the kernel does to a page by mistake sets none."""
KEEP_BYTES = 64 << 20
"""How much is held at once; what is more is not looked at again."""

_PIECE = 1 << 20
_PAGE = 4096
_FOLDER = os.environ.get("LAB_TMP", "/tmp")
_held = {}
_lock = threading.Lock()


class _File:
    """A file as it was; its own descriptor, for one that is deleted before it is asked for."""

    def __init__(self, descriptor, data):
        self.descriptor, self.data = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY), data
        os.utime(descriptor, ns=(MARK_NS, MARK_NS))

    def wrong(self):
        """What is wrong with it, in words, or ""."""
        if not self.untouched():
            return ""
        found = [("in the page cache", _first_change(_read(self.descriptor, len(self.data)), self.data))]
        if _on_disk(os.fstat(self.descriptor)):
            found.append(("on the disk", _first_change(_read_past_cache(self.descriptor, len(self.data)), self.data)))
        wrong = [f"{where}, {change}" for where, change in found if change]
        if not wrong or not self.untouched():
            return ""
        return f"sending has changed the file that was sent: {'; '.join(wrong)}"

    def untouched(self):
        """Whether nobody has written to it by a system call."""
        now = os.fstat(self.descriptor)
        return now.st_mtime_ns == MARK_NS and now.st_size == len(self.data)

    def close(self):
        os.close(self.descriptor)


class _Memory:
    """Memory as it was."""

    def __init__(self, view):
        self.view, self.data = view, bytes(view)

    def wrong(self):
        """What is wrong with it, in words, or ""."""
        wrong = _first_change(bytes(self.view), self.data)
        return f"sending has changed the memory that was sent: {wrong}" if wrong else ""

    def close(self):
        self.view = None


def file(descriptor, data=None):
    """Hold an open file that is going to be sent; `data`: its bytes, where they are at hand.

    One that is held already, and was not written to since, stays as it was held.  Left alone are files of network
    file systems, to which another guest may write, and those of disks that would have to be read for it: who sends
    them may want them cold.
    """
    found = os.fstat(descriptor)
    temporary = found.st_dev == os.stat(_FOLDER).st_dev
    if found.st_size > KEEP_BYTES or not (temporary or (_on_disk(found) and data is not None)):
        return
    key = _key(found)
    with _lock:
        if key in _held and data is None and _held[key].untouched():
            return
    _hold(key, _File(descriptor, _read(descriptor, found.st_size) if data is None else data))


def memory(view):
    """Hold memory (a memoryview) that is going to be sent, until `whole` is asked."""
    kept = _Memory(view)
    _hold(("memory", id(kept)), kept)


def written(path):
    """Ask for a file that is about to be written to, and hold it no longer.

    Raises:
        AssertionError: it has changed by being sent.
    """
    with contextlib.suppress(FileNotFoundError):
        key = _key(os.stat(path))
        with _lock:
            held = _held.pop(key, None)
        _ask([held] if held else [])


def whole():
    """Ask for all that is held, and hold nothing any more.

    Raises:
        AssertionError: something has changed by being sent.
    """
    with _lock:
        held = list(_held.values())
        _held.clear()
    _ask(held)


def _key(found):
    return found.st_dev, found.st_ino


def _hold(key, kept):
    with _lock:
        before = _held.pop(key, None)
        _held[key] = kept
        dropped = [before] if before else []
        while sum(len(one.data) for one in _held.values()) > KEEP_BYTES:
            dropped.append(_held.pop(next(iter(_held))))
    for one in dropped:
        one.close()


def _ask(held):
    wrong = ""
    for one in held:
        wrong = wrong or one.wrong()
        one.close()
    if wrong:
        raise AssertionError(wrong)


def _read(descriptor, count):
    parts, at = [], 0
    while at < count and (part := os.pread(descriptor, count - at, at)):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def _on_disk(found):
    """Whether a file is on a block device: all other file systems have devices without a major number."""
    return os.major(found.st_dev) != 0


def _read_past_cache(descriptor, count):
    """The file as it is on the disk; what is in the page cache stays there."""
    os.fdatasync(descriptor)
    area = mmap.mmap(-1, _PIECE)
    past = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_DIRECT)
    try:
        data = bytearray()
        while len(data) < count and (got := os.preadv(past, [area], len(data))):
            data += area[:got]
        return bytes(data[:count])
    finally:
        os.close(past)
        area.close()


def first_unequal(one, other):
    """The index of the first byte that differs between two byte strings; their common length where none does."""
    one, other = memoryview(one), memoryview(other)
    common = min(len(one), len(other))
    for start in range(0, common, _PAGE):
        end = min(start + _PAGE, common)
        mine, theirs = bytes(one[start:end]), bytes(other[start:end])
        if mine != theirs:
            return start + next(at for at in range(len(mine)) if mine[at] != theirs[at])
    return common


def _first_change(now, before):
    """Where two byte strings part, in words; "" when they are equal."""
    if now == before:
        return ""
    at = first_unequal(now, before)
    return f"byte {at} of {len(before)} is {now[at : at + 8].hex() or 'gone'}, and was {before[at : at + 8].hex()}"


ktap.at_end(whole)
