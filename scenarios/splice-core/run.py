#!/usr/bin/python3
"""splice, sendfile, vmsplice and tee into AF_UNIX and TCP streams: whole, in part, interrupted, and not blocking."""

import errno
import mmap
import os
import signal
import socket
import sys
import threading
import time

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import bigfile
import datafile
import ktap
import splicecalls
from atonce import at_once, refused
from splicecalls import GIFT, MORE, NONBLOCK, Pipe

SCALE = float(os.environ.get("LAB_SCALE", "1"))
DEADLINE_S = 20 * SCALE
FILE = os.path.join(os.environ.get("LAB_TMP", "/tmp"), "core")
KINDS = ("unix", "tcp")
PIPE = 16 * datafile.PAGE  # what a pipe holds unless told otherwise
ODD = 1235
LONG = 8 << 20
SMALL_BUFFER = 65536
TICK_S = 0.025

near_end = splicecalls.pair


# Each prepares its data and returns what sends it through a socket.


def file_to_pipe_to_socket(size, offset, seed):
    """Pages of the page cache, by splice twice."""
    datafile.make(FILE, offset + size, seed)
    return lambda sock: datafile.send(sock, FILE, offset, size, "splice")


def sendfile(size, offset, seed):
    """The same through the pipe that the kernel keeps for sendfile."""
    datafile.make(FILE, offset + size, seed)
    return lambda sock: datafile.send(sock, FILE, offset, size, "sendfile")


def vmsplice(size, offset, seed, flags=0):
    """Pages of a process, which neither changes nor frees them before its end."""
    area = memoryview(mmap.mmap(-1, offset + size))
    area[:] = datafile.sent(offset + size, seed)

    def send(sock):
        done = offset
        with Pipe() as pipe:
            while done < offset + size:
                filled = splicecalls.vmsplice(pipe.writer, area[done : done + PIPE], flags)
                done += filled
                pipe.drain(sock, filled, MORE if done < offset + size else 0)

    return send


def vmsplice_gift(size, offset, seed):
    """Pages of a process that gives them away."""
    return vmsplice(size, offset, seed, GIFT)


# sender, and the offsets into file or memory; only whole pages can be given away
WAYS = {
    "file to pipe to socket": (file_to_pipe_to_socket, (0, 4093)),
    "sendfile": (sendfile, (4093,)),
    "vmsplice": (vmsplice, (ODD,)),
    "vmsplice with SPLICE_F_GIFT": (vmsplice_gift, (0, datafile.PAGE)),
}


def transfer(kind, size, offset, seed, sender):
    """One transfer over sockets of its own; returns the seconds it took."""
    send = sender(size, offset, seed)
    near, far = near_end(kind, DEADLINE_S)
    with near, far:
        got, seconds = datafile.while_reading(far, size, "recv", lambda: send(near))
    try:
        datafile.same(got, memoryview(datafile.content(offset + size, seed))[offset:])
    except AssertionError as error:
        raise AssertionError(f"{size} bytes from {offset}: {error}") from None
    return seconds


def all_sizes(kind, sender, offsets):
    """Each size from each offset, with a seed of its own."""
    for offset in offsets:
        for number, size in enumerate(datafile.SIZES):
            transfer(kind, size, offset, 1000 * offset + number + 1, sender)


def to_memory(kind):
    """What comes out of the socket goes through a pipe into memory: splice, then vmsplice of the reading end."""
    size = 65537
    near, far = near_end(kind, DEADLINE_S)
    memory = memoryview(bytearray(size + ODD))

    def receive():
        done = ODD
        with Pipe() as pipe:
            while done < len(memory):
                filled = splicecalls.splice(far.fileno(), pipe.writer, len(memory) - done)
                if not filled:
                    raise AssertionError(f"the stream ended after {done - ODD} bytes of {size}")
                while filled:
                    moved = splicecalls.vmsplice(pipe.reader, memory[done : done + filled])
                    filled, done = filled - moved, done + moved

    with near, far:
        sendfile(size, 1, 31)(near)
        near.shutdown(1)
        receive()
    datafile.same(memory[ODD:], memoryview(datafile.content(size + 1, 31))[1:])


def tee(kind, piece):
    """Tee pieces of a file into a second pipe; each pipe feeds a socket, and both get all of the file."""
    size, seed = 300_007, 41
    datafile.make(FILE, size, seed)
    ends = near_end(kind, DEADLINE_S), near_end(kind, DEADLINE_S)

    def send():
        done = 0
        with open(FILE, "rb", buffering=0) as file, Pipe() as first, Pipe() as second:
            while done < size:
                filled = splicecalls.splice(file.fileno(), first.writer, PIPE, offset=done)
                done += filled
                more = MORE if done < size else 0
                while filled:
                    copied = splicecalls.tee(first.reader, second.writer, min(piece, filled))
                    # the copy goes first, then the original: neither may take the other's bytes along
                    second.drain(ends[1][0], copied, more)
                    first.drain(ends[0][0], copied, more)
                    filled -= copied

    expected = datafile.content(size, seed)
    try:
        got = {}

        def both():
            got[0] = datafile.while_reading(ends[0][1], size, "recv", send)[0]

        got[1] = datafile.while_reading(ends[1][1], size, "recv", both)[0]
    finally:
        for near, far in ends:
            near.close()
            far.close()
    for number, name in enumerate(("the original", "the copy")):
        try:
            datafile.same(got[number], expected)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


def full(kind, how):
    """A full socket that may not block says EAGAIN; once read, it takes the rest, and the stream is right."""
    size, seed = 400_003, 51
    datafile.make(FILE, size, seed)
    near, far = near_end(kind, DEADLINE_S, SMALL_BUFFER)
    near.setblocking(False)
    got, refused, sent, in_pipe = bytearray(), 0, 0, 0
    with near, far, open(FILE, "rb", buffering=0) as file, Pipe() as pipe:
        while sent < size:
            try:
                if how == "sendfile":
                    rest = near.fileno(), file.fileno(), sent, size - sent
                    sent += at_once("sendfile into a socket that may not block", splicecalls.sendfile, *rest)
                    continue
                if not in_pipe:
                    in_pipe = splicecalls.splice(file.fileno(), pipe.writer, PIPE, offset=sent)
                rest = pipe.reader, near.fileno(), in_pipe
                moved = at_once("splice into a socket that may not block", splicecalls.splice, *rest)
                in_pipe, sent = in_pipe - moved, sent + moved
            except BlockingIOError:
                refused += 1
                if len(got) == sent:
                    raise AssertionError(f"EAGAIN with nothing in the socket, {sent} bytes sent and read") from None
                got += datafile.receive(far, sent - len(got))
        got += datafile.receive(far, sent - len(got))
    if not refused:
        raise AssertionError(f"never EAGAIN: the socket took {size} bytes at once")
    datafile.same(got, datafile.content(size, seed))


def empty_pipe(kind):
    """An empty pipe: EAGAIN where splice may not block on it, 0 when its writing end is closed."""
    near, far = near_end(kind, DEADLINE_S)
    reader, writer = os.pipe()
    with near, far:
        refused("splice from an empty pipe", splicecalls.splice, reader, near.fileno(), 1, NONBLOCK)
        os.close(writer)
        if moved := at_once("splice from a closed pipe", splicecalls.splice, reader, near.fileno(), 1):
            raise AssertionError(f"splice from a closed pipe moved {moved} bytes")


def waiting_writer(kind):
    """A writer that waits for room in a pipe goes on when a socket has taken what was in it."""
    size, seed = 5 * PIPE + 7, 63
    expected = datafile.content(size, seed)
    near, far = near_end(kind, DEADLINE_S)
    with near, far, Pipe() as pipe:

        def write():
            rest = memoryview(expected)
            while rest:
                rest = rest[os.write(pipe.writer, rest) :]

        def send():
            writer = threading.Thread(target=write)
            writer.start()
            time.sleep(2 * TICK_S)  # the pipe is full by now
            left = size
            while left:
                left -= splicecalls.splice(pipe.reader, near.fileno(), left)
            writer.join()

        got = bytearray()
        in_thread(lambda: got.extend(datafile.receive(far, size)), send, near)
    datafile.same(got, expected)


def more(kind, pieces, shut):
    """Pieces with SPLICE_F_MORE; then a last one without it, or a pause and the end of the stream.

    The first must bring all data while the socket stays open, the second whatever was held back.
    """
    size = sum(pieces)
    datafile.make(FILE, size, 61)
    near, far = near_end(kind, DEADLINE_S)
    with near, far, open(FILE, "rb", buffering=0) as file, Pipe() as pipe:
        if kind == "tcp":
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # MORE alone may hold data back
        done = 0
        for piece in pieces:
            filled = splicecalls.splice(file.fileno(), pipe.writer, piece, offset=done)
            done += filled
            pipe.drain(near, filled, MORE if shut or done < size else 0)
        if shut:
            time.sleep(0.05)
            near.shutdown(1)
        elif kind == "tcp" and size < datafile.PAGE and (held := splicecalls.not_sent_yet(near)):
            raise AssertionError(f"{held} bytes of {size} are held back after the last piece")
        try:
            got = datafile.receive(far, size + shut)  # where the stream is shut, its end has to come as well
        except OSError as error:
            raise datafile.explain(error) from None
    datafile.same(got, datafile.content(size, 61))


def beyond_end(kind):
    """sendfile that asks for more than the file has: what it has arrives while the socket stays open."""
    size = 3 * PIPE + 5  # not a part of the pipe: the last part is still announced as "more to come"
    datafile.make(FILE, size, 62)
    near, far = near_end(kind, DEADLINE_S)

    def send():
        with open(FILE, "rb", buffering=0) as file:
            done = 0
            while moved := splicecalls.sendfile(near.fileno(), file.fileno(), done, 1 << 30):
                done += moved

    with near, far:
        got, _ = datafile.while_reading(far, size, "recv", send)
    datafile.same(got, datafile.content(size, 62))


def odd_pieces(kind):
    """A pipe full of pages that the socket gets in odd pieces, each less than the pipe has, or more."""
    size, seed = 6 * PIPE + 77, 71
    datafile.make(FILE, size, seed)
    near, far = near_end(kind, DEADLINE_S)

    def send():
        pieces = (1, 4095, 2, 8193, 13, 20_000, 3, 4096, PIPE)
        with open(FILE, "rb", buffering=0) as file, Pipe() as pipe:
            done = turn = in_pipe = 0
            while done < size or in_pipe:
                if in_pipe < PIPE // 2 and done < size:
                    try:
                        how = splicecalls.splice, file.fileno(), pipe.writer, PIPE, NONBLOCK, done
                        filled = at_once("splice into a pipe that may not block", *how)
                    except BlockingIOError:
                        filled = 0  # parts of pages can fill a pipe before it has half its bytes
                    in_pipe, done = in_pipe + filled, done + filled
                in_pipe -= splicecalls.splice(pipe.reader, near.fileno(), pieces[turn % len(pieces)])
                turn += 1

    with near, far:
        got, _ = datafile.while_reading(far, size, "recv", send)
    datafile.same(got, datafile.content(size, seed))


def nearly_full(kind):
    """The smallest buffer there is, and a reader that takes odd amounts: each splice ends in mid-page."""
    size, seed = 3 * PIPE + 123, 72
    near, far = near_end(kind, DEADLINE_S, 1)
    send = file_to_pipe_to_socket(size, ODD, seed)
    got = []

    def read():
        taken = 1
        while taken:
            taken = min(1 + 1234 * (len(got) % 5), size - sum(map(len, got)))
            got.append(bytes(datafile.receive(far, taken)))
            taken = size - sum(map(len, got))

    with near, far:
        in_thread(read, lambda: send(near), near)
    datafile.same(b"".join(got), memoryview(datafile.content(ODD + size, seed))[ODD:])


def partly_filled(kind):
    """One pipe that written bytes, pages of a file and pages of a process share."""
    sizes = (13, 4097, 9000, 1, 4096, 8192, 5000, 3, 12_345, 700)
    total, seed = sum(sizes), 73
    datafile.make(FILE, total, seed)
    area = memoryview(mmap.mmap(-1, total))
    area[:] = datafile.sent(total, seed)
    near, far = near_end(kind, DEADLINE_S)

    def send():
        with open(FILE, "rb", buffering=0) as file, Pipe(1 << 20) as pipe:
            done = gone = 0
            for number, size in enumerate(sizes):
                end = done + size
                if number % 3 == 0:
                    os.write(pipe.writer, area[done:end])
                elif number % 3 == 1:
                    put_all(lambda at, left: splicecalls.splice(file.fileno(), pipe.writer, left, offset=at), done, end)
                else:
                    put_all(lambda at, left: splicecalls.vmsplice(pipe.writer, area[at : at + left]), done, end)
                done = end
                if number % 4 == 3:  # some stay behind for the next time
                    pipe.drain(near, size, MORE)
                    gone += size
            os.set_blocking(pipe.reader, False)
            while gone < total:
                gone += splicecalls.splice(pipe.reader, near.fileno(), PIPE)
            refused(
                "splice from an empty pipe that may not block", splicecalls.splice, pipe.reader, near.fileno(), PIPE
            )

    with near, far:
        got, _ = datafile.while_reading(far, total, "recv", send)
    datafile.same(got, datafile.content(total, seed))


def put_all(put, done, end):
    """Repeat put(offset, count) until all of it is taken."""
    while done < end:
        done += put(done, end - done)


def interrupted(kind, how):
    """A timer interrupts every call that waits for the reader: EINTR, or part of the data, and then the rest."""
    size, seed = 1_500_007, 81
    datafile.make(FILE, size, seed)
    near, far = near_end(kind, DEADLINE_S, SMALL_BUFFER)
    signal.signal(signal.SIGALRM, lambda *_: None)  # without SA_RESTART
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])  # for the reader's thread, which inherits it
    cut = dict.fromkeys(("EINTR", "part"), 0)
    got = []

    def read():
        left = size
        while left:
            time.sleep(TICK_S * 1.5 if len(got) < 12 else 0)  # now and then, so that the sender has to wait
            got.append(bytes(datafile.receive(far, min(left, 50_001))))
            left -= len(got[-1]) or left

    def step(call, asked):
        try:
            moved = call(asked)
        except InterruptedError:
            cut["EINTR"] += 1
            return 0
        cut["part"] += moved < asked
        return moved

    def send():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
        signal.setitimer(signal.ITIMER_REAL, TICK_S, TICK_S)
        try:
            with open(FILE, "rb", buffering=0) as file, Pipe() as pipe:
                done = in_pipe = 0
                while done < size:
                    if how == "sendfile":
                        at = done
                        done += step(lambda n: splicecalls.sendfile(near.fileno(), file.fileno(), at, n), size - done)
                        continue
                    if not in_pipe:
                        in_pipe = splicecalls.splice(file.fileno(), pipe.writer, PIPE, offset=done)
                    moved = step(lambda n: splicecalls.splice(pipe.reader, near.fileno(), n), in_pipe)
                    in_pipe, done = in_pipe - moved, done + moved
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    with near, far:
        in_thread(read, send, near)
    if not any(cut.values()):
        raise AssertionError("no call was interrupted: this has tested nothing")
    datafile.same(b"".join(got), datafile.content(size, seed))


def in_thread(read, send, near):
    """Call `read` in a thread and `send` here."""
    failures = []

    def guarded():
        try:
            read()
        except (OSError, AssertionError) as error:
            failures.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        send()
    except BaseException:
        near.shutdown(2)
        raise
    finally:
        thread.join()
    if failures:
        raise datafile.explain(failures[0])


def closed(kind):
    """Splice into a socket whose other end is gone is an error, not success and not a hang."""
    near, far = near_end(kind, DEADLINE_S)
    far.close()
    with near, Pipe() as pipe:
        try:
            for _ in range(50):  # TCP learns it from the answer to what it sends first
                os.write(pipe.writer, b"x" * 100)
                at_once("splice to a closed stream", pipe.drain, near, 100)
                time.sleep(0.01)
        except OSError as error:
            if error.errno not in {errno.EPIPE, errno.ECONNRESET}:
                raise
            return
    raise AssertionError("splice to a closed stream succeeded")


def in_child(check, *arguments):
    """A call that never comes back costs its own check, and not those after it."""
    return splicecalls.in_child(check, *arguments, deadline_s=3 * DEADLINE_S)


def main():
    datafile.content(1, 1)  # makes the noise once, and not in each child
    checks = [(f"{name}, all sizes", all_sizes, way) for name, way in WAYS.items()]
    checks += [
        ("splice out of the socket, vmsplice into memory", to_memory, ()),
        ("tee: original and copy, a pipe at a time", tee, (PIPE,)),
        ("tee: original and copy, odd parts of a pipe at a time", tee, (10_001,)),
        ("splice into a full socket that may not block", full, ("splice",)),
        ("sendfile into a full socket that may not block", full, ("sendfile",)),
        ("splice from an empty pipe and from a closed one", empty_pipe, ()),
        ("a pipe whose writer waits for room", waiting_writer, ()),
        ("SPLICE_F_MORE, small pieces, the last one without", more, ((100, 200, 1, 50), 0)),
        ("SPLICE_F_MORE, pages, the last one without", more, ((4096, 65536, 5000, 3), 0)),
        ("SPLICE_F_MORE, small pieces, a pause, then the end of the stream", more, ((100, 200, 1), 1)),
        ("SPLICE_F_MORE, pages, a pause, then the end of the stream", more, ((8192, 4095, 300), 1)),
        ("sendfile of more than the file has", beyond_end, ()),
        ("parts of a pipe in odd pieces", odd_pieces, ()),
        ("a socket that is nearly full all the time", nearly_full, ()),
        ("a pipe with written bytes, pages of a file and pages of a process", partly_filled, ()),
        ("splice that signals interrupt", interrupted, ("splice",)),
        ("sendfile that signals interrupt", interrupted, ("sendfile",)),
        ("splice to a closed stream", closed, ()),
    ]
    checks += bigfile.CHECKS
    long = ("file to pipe to socket", "vmsplice with SPLICE_F_GIFT")
    ktap.plan(len(KINDS) * (len(checks) + len(long)))
    for kind in KINDS:
        for name, check, arguments in checks:
            ktap.check(f"{kind}: {name}", in_child, check, kind, *arguments)
        for name in long:
            seconds = ktap.check(
                f"{kind}: {name}, stream of {LONG >> 20} MiB", in_child, transfer, kind, LONG, 0, 99, WAYS[name][0]
            )
            if seconds:
                rate = LONG / (1 << 20) / float(seconds)
                ktap.metric(f"core_{kind}_{WAYS[name][0].__name__}", rate, "MiB/s", "higher")


main()
