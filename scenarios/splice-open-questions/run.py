#!/usr/bin/python3
"""What the kernel does where nobody has promised anything: recorded, so that kernels can be compared, not judged.

The answer, which says what the reader sees, is a part of the case's name ("Q: ...: answer=new"): a kernel that
answers differently shows as a case that is gone and a case that is new, which is no failure.  A case is "not ok" only
where a byte that nobody changed arrives wrong, a file holds what was not written, or a call never ends.
"""

import errno
import mmap
import os
import signal
import socket
import subprocess
import sys

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import datafile
import ktap
import sources
import splicecalls
from splicecalls import GIFT, MORE, NONBLOCK, Pipe

SCALE = float(os.environ.get("LAB_SCALE", "1"))
DEADLINE_S = 20 * SCALE
PATIENCE_S = 2 * SCALE  # for a datagram that may never come
TMP = os.environ.get("LAB_TMP", "/tmp")
DISK = os.path.join(TMP, "disk")
PAGE = datafile.PAGE
SIZE = 4 * PAGE
REGION = (PAGE, 10_000)  # a page and a part of a page; what `run --break` spoils lies outside
ALIGNED = (PAGE, 2 * PAGE)  # for O_DIRECT
OLD, NEW = 1, 2  # seeds
PLACES = ("a pipe", "AF_UNIX", "TCP", "UDP")


# --- data in flight ---------------------------------------------------------------------------------------------


class Flight:
    """A pipe, and behind it the socket that data waits in until it is read; "a pipe" alone has none."""

    def __init__(self, place):
        self.place, self.pipe, self.near, self.far = place, Pipe(), None, None
        if place == "UDP":
            self.far = datafile.patient(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), max(1, PATIENCE_S))
            self.far.bind(("127.0.0.1", 0))
            self.near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.near.connect(self.far.getsockname())
        elif place != "a pipe":
            self.near, self.far = splicecalls.pair("unix" if place == "AF_UNIX" else "tcp", DEADLINE_S)

    def leave(self):
        """Move what is in the pipe into the socket."""
        if self.near:
            self.pipe.drain(self.near, SIZE)

    def land(self):
        """Return what arrives; datagrams can be lost."""
        if not self.far:
            return self._from_pipe()
        if self.place != "UDP":
            return datafile.receive(self.far, SIZE)
        got = b""
        try:
            while len(got) < SIZE:
                got += self.far.recv(SIZE)
        except BlockingIOError:
            pass
        return got

    def _from_pipe(self):
        got = b""
        while len(got) < SIZE:
            got += os.read(self.pipe.reader, SIZE - len(got))
        return got


def describe(got, region):
    """What stands in the changed region, page by page: old, new, zeroes, mixed; everything else must be right."""
    if not got:
        return "lost"
    old, new = datafile.content(SIZE, OLD), datafile.content(SIZE, NEW)
    first, end = region
    expected = bytearray(old)
    expected[first:end] = got[first:end]
    datafile.same(got, expected)
    words = []
    while first < end:
        until = min(end, (first // PAGE + 1) * PAGE)
        piece = bytes(got[first:until])
        known = {"old": bytes(old[first:until]), "new": bytes(new[first:until]), "zeroes": bytes(until - first)}
        word = next((name for name, data in known.items() if data == piece), "mixed")
        if words[-1:] != [word]:
            words.append(word)
        first = until
    return "+".join(words)


# --- pages of a file --------------------------------------------------------------------------------------------


def by_pwrite(path):
    """Overwrite through the page cache."""
    file = os.open(path, os.O_WRONLY)
    os.pwrite(file, memoryview(datafile.content(SIZE, NEW))[slice(*REGION)], REGION[0])
    return REGION


def by_store(path):
    """Overwrite through a mapping."""
    area = mmap.mmap(os.open(path, os.O_RDWR), SIZE)
    area[slice(*REGION)] = bytes(datafile.content(SIZE, NEW)[slice(*REGION)])
    return REGION


def by_truncate(path):
    """Truncate to nothing."""
    os.truncate(path, 0)
    return 0, SIZE


def by_truncate_inside(path):
    """Truncate inside a page."""
    os.truncate(path, 5000)
    return 5000, SIZE


def by_hole(path):
    """Punch a hole over a page and a part of a page."""
    splicecalls.punch_hole(os.open(path, os.O_RDWR), REGION[0], REGION[1] - REGION[0])
    return REGION


def by_direct_write(path):
    """Overwrite past the page cache; the file must then have the new data for every reader."""
    area = mmap.mmap(-1, ALIGNED[1] - ALIGNED[0])
    area[:] = bytes(datafile.content(SIZE, NEW)[slice(*ALIGNED)])
    file = os.open(path, os.O_RDWR | os.O_DIRECT)
    os.pwrite(file, area, ALIGNED[0])
    with open(path, "rb", buffering=0) as plain:
        answer = describe(plain.read(), ALIGNED)
    if answer != "new":
        raise AssertionError(f"the file itself has {answer} data after a write with O_DIRECT")
    return ALIGNED


# what is done, by whom, on which file system
FILE_CHANGES = (
    ("pwrite to the file", by_pwrite, TMP),
    ("a store through a mapping of the file", by_store, TMP),
    ("truncation to nothing", by_truncate, TMP),
    ("truncation inside a page", by_truncate_inside, TMP),
    ("a hole punched into the file", by_hole, TMP),
    ("pwrite to the file on ext4", by_pwrite, DISK),
    ("a write with O_DIRECT to the file on ext4", by_direct_write, DISK),
)


def file_changed(place, change, folder):
    """Change a file whose pages are in flight."""
    path = os.path.join(folder, "flying")
    datafile.make(path, SIZE, OLD)
    flight = Flight(place)
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)  # a dirty page is no candidate for O_DIRECT
    sources.written(path)
    done = 0
    while done < SIZE:
        done += splicecalls.splice(file, flight.pipe.writer, SIZE - done, offset=done)
    flight.leave()
    region = change(path)
    return describe(flight.land(), region)


# --- pages of a process -----------------------------------------------------------------------------------------


def store(area):
    """Overwrite the memory."""
    area[slice(*REGION)] = datafile.content(SIZE, NEW)[slice(*REGION)]
    return REGION


def store_after_fork(area):
    """Overwrite memory that a child has as well."""
    if not (child := os.fork()):
        signal.pause()
    store(area)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return REGION


def direct_read(area):
    """Let a device write into the memory."""
    path = os.path.join(DISK, "source")
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.write(file, datafile.content(SIZE, NEW))
    os.fsync(file)
    os.preadv(os.open(path, os.O_RDONLY | os.O_DIRECT), [area[slice(*ALIGNED)]], ALIGNED[0])
    if area[slice(*ALIGNED)] != datafile.content(SIZE, NEW)[slice(*ALIGNED)]:
        raise AssertionError("the memory itself does not have what was read into it")
    return ALIGNED


def give_back(area):
    """Drop the pages (MADV_DONTNEED) and fill new ones."""
    area.obj.madvise(mmap.MADV_DONTNEED)
    area[:] = datafile.content(SIZE, NEW)
    return 0, SIZE


MEMORY_CHANGES = (
    ("a store after vmsplice", store, 0),
    ("a store after vmsplice with SPLICE_F_GIFT", store, GIFT),
    ("a store after vmsplice and a fork", store_after_fork, 0),
    ("a read with O_DIRECT into them after vmsplice", direct_read, 0),
    ("MADV_DONTNEED and other data after vmsplice", give_back, 0),
)


def memory_changed(place, change, flags):
    """Change memory that is in flight."""
    area = memoryview(mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    area[:] = datafile.sent(SIZE, OLD)
    flight = Flight(place)
    done = 0
    while done < SIZE:
        done += splicecalls.vmsplice(flight.pipe.writer, area[done:], flags, stays=False)
    flight.leave()
    region = change(area)
    return describe(flight.land(), region)


# --- memory of the kernel ---------------------------------------------------------------------------------------

# Their data is in slab memory or made on the spot.  Sockets refuse slab pages; what splices such a file, or the bytes
# that a socket keeps in slab memory, has to copy them to pages of its own, or to say that it cannot.
KERNEL_FILES = (
    "/proc/version",
    "/proc/sys/kernel/ostype",
    "/proc/self/environ",
    "/proc/kallsyms",
    "/sys/kernel/notes",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/kernel/tracing/available_events",
    "/dev/zero",
)


def kernel_file(path, kind):
    """Send a file that the kernel makes up, and hold it against what read() says."""
    limit = 20_000
    file = os.open(path, os.O_RDONLY)
    expected = b""
    while len(expected) < limit and (part := os.read(file, limit - len(expected))):
        expected += part
    file = os.open(path, os.O_RDONLY)
    near, far = splicecalls.pair(kind, DEADLINE_S)
    sent = 0
    try:
        while sent < len(expected) and (done := splicecalls.sendfile(near.fileno(), file, sent, len(expected) - sent)):
            sent += done
    except OSError as error:
        if not sent:
            return errno.errorcode[error.errno]
    near.shutdown(socket.SHUT_WR)
    got = datafile.receive(far, limit + 1)
    datafile.same(got, expected[:sent])
    return "whole" if sent == len(expected) else f"{sent} bytes of {len(expected)}"


def forwarded(kind, size):
    """Splice written bytes, which an AF_UNIX socket keeps in slab memory, out of it and into another socket."""
    entry, middle = splicecalls.pair("unix", DEADLINE_S)
    near, far = splicecalls.pair(kind, DEADLINE_S)
    entry.sendall(datafile.sent(size, 5))
    done = 0
    with Pipe() as pipe:
        while done < size:
            moved = splicecalls.splice(middle.fileno(), pipe.writer, size - done)
            try:
                pipe.drain(near, moved)
            except OSError as error:
                return errno.errorcode[error.errno]
            done += moved
    datafile.same(datafile.receive(far, size), datafile.content(size, 5))
    return "whole"


# --- messages, waiting, holding back ----------------------------------------------------------------------------


def messages(family, kind):
    """How one splice of three pages is cut into messages."""
    if family == socket.AF_UNIX:
        near, far = socket.socketpair(family, kind)
    else:
        far = socket.socket(family, kind)
        far.bind(("127.0.0.1", 0))
        near = socket.socket(family, kind)
        near.connect(far.getsockname())
    datafile.patient(far, max(1, PATIENCE_S))
    path, size = os.path.join(TMP, "messages"), 3 * PAGE
    datafile.make(path, size, 6)
    file = os.open(path, os.O_RDONLY)
    with Pipe() as pipe:
        if splicecalls.splice(file, pipe.writer, size, offset=0) != size:
            raise AssertionError("three pages do not fit into a pipe")
        try:
            moved = splicecalls.splice(pipe.reader, near.fileno(), size)
        except OSError as error:
            return errno.errorcode[error.errno]
        parts = []
        while sum(map(len, parts)) < moved:
            parts.append(far.recv(1 << 20))
    datafile.same(b"".join(parts), datafile.content(size, 6)[:moved])
    return "+".join(str(len(part)) for part in parts)


def nonblock_flag(kind):
    """SPLICE_F_NONBLOCK is about the pipe; what does a full socket make of it that may block?"""
    near, _far = splicecalls.pair(kind, DEADLINE_S, 1)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 1 + SCALE / 2, 0.2)
    page = bytes(PAGE)
    with Pipe() as pipe:
        try:
            for _ in range(10_000):
                os.write(pipe.writer, page)
                pipe.drain(near, PAGE, NONBLOCK)
        except BlockingIOError:
            return "EAGAIN"
        except InterruptedError:
            return "it waits"
    raise AssertionError("the socket is never full")


def held_back(how):
    """Whether TCP sends 100 bytes at once: after a splice with MORE, one that asks for more, a sendfile."""
    # What is held back goes out by itself after 0.2 s, which a slow guest can spend between two calls: ask again.
    return "held back" if any(_held_back(how) for _ in range(3)) else "sent at once"


def _held_back(how):
    near, _far = splicecalls.pair("tcp", DEADLINE_S)
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    path = os.path.join(TMP, "held")
    datafile.make(path, 100, 7)
    file = os.open(path, os.O_RDONLY)
    if how == "sendfile":
        splicecalls.sendfile(near.fileno(), file, 0, 1 << 20)
    else:
        with Pipe() as pipe:
            splicecalls.splice(file, pipe.writer, 100, offset=0)
            splicecalls.splice(pipe.reader, near.fileno(), *HELD[how])
    return splicecalls.not_sent_yet(near)


HELD = {"SPLICE_F_MORE": (100, MORE), "more asked": (1 << 20, 0)}


# --- the whole --------------------------------------------------------------------------------------------------


def questions():
    """(question, function, arguments) of all."""
    for name, change, folder in FILE_CHANGES:
        for place in PLACES:
            yield f"Q: pages of a file in {place}, {name}", file_changed, (place, change, folder)
    for name, change, flags in MEMORY_CHANGES:
        for place in PLACES:
            yield f"Q: pages of a process in {place}, {name}", memory_changed, (place, change, flags)
    for path in KERNEL_FILES:
        for kind in ("unix", "tcp"):
            yield f"Q: sendfile of {path} to {kind}", kernel_file, (path, kind)
    for kind in ("unix", "tcp"):
        for size in (1000, 40_000):
            yield f"Q: {size} written bytes spliced from an AF_UNIX socket to {kind}", forwarded, (kind, size)
    for name, family, kind in (
        ("AF_UNIX datagrams", socket.AF_UNIX, socket.SOCK_DGRAM),
        ("AF_UNIX packets in sequence", socket.AF_UNIX, socket.SOCK_SEQPACKET),
        ("UDP", socket.AF_INET, socket.SOCK_DGRAM),
    ):
        yield f"Q: messages that one splice of three pages makes: {name}", messages, (family, kind)
    for kind in ("unix", "tcp"):
        yield f"Q: splice with SPLICE_F_NONBLOCK into a full socket that may block: {kind}", nonblock_flag, (kind,)
    yield "Q: 100 bytes spliced to TCP with SPLICE_F_MORE", held_back, ("SPLICE_F_MORE",)
    yield "Q: 100 bytes spliced to TCP by a call that asks for more than the pipe has", held_back, ("more asked",)
    yield "Q: a file of 100 bytes sent to TCP by sendfile that asks for more", held_back, ("sendfile",)


def ask(question, function, arguments):
    """Ask in a child, which a call that never ends cannot take along, and report the answer."""
    if function is kernel_file and not os.path.exists(arguments[0]):
        ktap.skip(f"{question}: answer=none", f"there is no {arguments[0]}")
        return
    try:
        answer = splicecalls.in_child(function, *arguments, deadline_s=DEADLINE_S)
    except AssertionError as error:
        ktap.not_ok(f"{question}: answer=none", str(error))
    else:
        ktap.ok(f"{question}: answer={answer}")


def mount_disk():
    """An ext4 on a loop device: what tmpfs takes with O_DIRECT goes through the page cache."""
    image = os.path.join(TMP, "disk.image")
    with open(image, "wb") as file:
        file.truncate(32 << 20)
    os.mkdir(DISK)
    subprocess.run(["modprobe", "loop"], check=False, capture_output=True)  # nothing to load where it is built in
    for command in (["mkfs.ext4", "-q", image], ["mount", "-t", "ext4", "-o", "loop", image, DISK]):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.decode().strip()}")


def main():
    asked = list(questions())
    ktap.plan(1 + len(asked))
    datafile.content(1, 1)  # makes the noise once, and not in each child
    ktap.check("an ext4 is there", mount_disk)
    for question in asked:
        ask(*question)


main()
