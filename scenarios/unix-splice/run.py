#!/usr/bin/python3
"""AF_UNIX streams: sendfile, splice into the socket and splice out of it, with a concurrent reader.

Both ends at once, readers that are slow or look first, and descriptors that travel between spliced pages.
"""

import array
import os
import signal
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import datafile
import ktap
from atonce import at_once

FILE = os.path.join(os.environ.get("LAB_TMP", "/tmp"), "data")
LONG = 16 << 20
OFFSETS = (0, 1, 4093)
DEADLINE_S = 60 * float(os.environ.get("LAB_SCALE", "1"))
_UCRED = struct.Struct("@iII")  # of struct ucred: pid, uid, gid
# how it is sent, how it is received
WAYS = (("sendfile", "recv"), ("splice", "recv"), ("write", "splice"), ("splice", "splice"))


def pair():
    """Two connected stream sockets that give up after a while instead of hanging for ever."""
    return [datafile.patient(end, DEADLINE_S) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)]


def transfer(size, offset, sender, receiver, seed):
    """Send a part of a file through a fresh pair and compare what comes out; returns the seconds it took."""
    datafile.make(FILE, offset + size, seed)
    expected = memoryview(datafile.content(offset + size, seed))[offset:]
    near, far = pair()
    with near, far:
        got, seconds = datafile.while_reading(
            far, size, receiver, lambda: datafile.send(near, FILE, offset, size, sender)
        )
    datafile.same(got, expected)
    return seconds


def sizes_at(offset, sender, receiver):
    """All sizes, each with a seed of its own."""
    for number, size in enumerate(datafile.SIZES):
        try:
            transfer(size, offset, sender, receiver, seed=1000 * offset + number + 1)
        except AssertionError as error:
            raise AssertionError(f"{size} bytes: {error}") from None


def mixed():
    """write, sendfile and splice take turns on one stream: spliced pages land in one buffer with copied bytes."""
    parts = [(13, "write"), (4097, "sendfile"), (1, "write"), (65537, "splice"), (4095, "sendfile"), (7, "sendfile")]
    total = sum(size for size, _ in parts)
    datafile.make(FILE, total, seed=77)
    near, far = pair()

    def send_all():
        offset = 0
        for size, how in parts:
            datafile.send(near, FILE, offset, size, how)
            offset += size

    with near, far:
        got, _ = datafile.while_reading(far, total, "recv", send_all)
    datafile.same(got, datafile.content(total, 77))


def not_blocking():
    """A socket that may not block takes part of a sendfile, never anything else than what it says it took."""
    size = 4 << 20
    datafile.make(FILE, size, seed=78)
    near, far = pair()
    with near, far, open(FILE, "rb", buffering=0) as file:
        near.setblocking(False)
        sent = 0
        try:
            while sent < size:
                how = near.fileno(), file.fileno(), sent, size - sent
                sent += at_once("sendfile into a socket that may not block", os.sendfile, *how)
        except BlockingIOError:
            pass
        near.close()
        got = datafile.receive(far, size)
    if not 0 < sent <= size:
        raise AssertionError(f"sendfile took {sent} bytes of {size}")
    datafile.same(got, datafile.content(size, 78)[:sent])


def closed():
    """Writing to a stream whose other end is gone is EPIPE, for a page as for a copied byte."""
    datafile.make(FILE, 8192, seed=79)
    near, far = pair()
    with near:
        far.close()
        try:
            at_once("sendfile to a closed stream", datafile.send, near, FILE, 0, 8192, "sendfile")
        except BrokenPipeError:
            return
    raise AssertionError("sendfile to a closed stream succeeded")


def signalled(how):
    """Who sends to a stream whose other end is gone gets SIGPIPE, for a page as for a copied byte."""
    datafile.make(FILE, 8192, seed=90)
    near, far = pair()
    far.close()
    with near:
        child = os.fork()
        if not child:
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it
            try:
                datafile.send(near, FILE, 0, 8192, how)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGPIPE:
        raise AssertionError(f"{how} to a closed stream gives no SIGPIPE: wait status {status}")


def credentials(how):
    """A reader that asks for credentials gets those of who sent, with the first byte as with the last."""
    size = 70_001
    datafile.make(FILE, size, seed=91)
    near, far = pair()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    with near, far:
        child = os.fork()
        if not child:
            try:
                datafile.send(near, FILE, 0, size, how)
            finally:
                os._exit(0)
        got, right = bytearray(), (child, os.getuid(), os.getgid())
        while len(got) < size:
            data, extra, _, _ = far.recvmsg(4096, socket.CMSG_SPACE(_UCRED.size))
            if not data:
                break
            told = [_UCRED.unpack(body[: _UCRED.size]) for _, kind, body in extra if kind == socket.SCM_CREDENTIALS]
            if told != [right]:
                raise AssertionError(f"byte {len(got)}: (pid, uid, gid) {told}, sent by {right}")
            got += data
        os.waitpid(child, 0)
    datafile.same(got, datafile.content(size, 91))


def both_busy(sender, receiver):
    """Each end sends and receives at once."""
    size = 3 << 20
    ends, failures = pair(), []

    def one_way(number):
        path, seed = f"{FILE}-{number}", 80 + number
        near, far = ends[number], ends[1 - number]
        try:
            datafile.make(path, size + 1, seed)
            got, _ = datafile.while_reading(far, size, receiver, lambda: datafile.send(near, path, 1, size, sender))
            datafile.same(got, memoryview(datafile.content(size + 1, seed))[1:])
        except (OSError, AssertionError) as error:
            failures.append(f"from end {number}: {error}")
        finally:
            os.unlink(path)

    threads = [threading.Thread(target=one_way, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for end in ends:
        end.close()
    if failures:
        raise AssertionError("; ".join(failures))


# data that is spliced or written, and, where a text stands, that text in a message with a descriptor
PARTS = ((5000, "sendfile"), "F", (70_001, "splice"), "GH", (1, "sendfile"), "I", (4096, "write"), "J", (9, "splice"))


def descriptors_between(exact):
    """Descriptors sent between spliced data come with the bytes that they were sent with, and work.

    A reader that asks for each part by itself gets a descriptor with its text and with nothing else; one that takes
    what there is gets it in the call that brings the text's first byte.
    """
    texts = [part for part in PARTS if isinstance(part, str)]
    lengths = [len(part) if isinstance(part, str) else part[0] for part in PARTS]
    total, expected = sum(lengths), datafile.content(sum(lengths), 87)
    datafile.make(FILE, total, 87)
    places, ends, place = {}, [], 0
    for part, length in zip(PARTS, lengths, strict=True):
        if isinstance(part, str):
            expected[place : place + length] = part.encode()
            places[place] = part
        place += length
        ends.append(place)
    near, far = pair()
    failures = []

    def send_all():
        place = 0
        try:
            for part, length in zip(PARTS, lengths, strict=True):
                if isinstance(part, str):
                    send_descriptor(near, part)
                else:
                    datafile.send(near, FILE, place, length, part[1])
                place += length
        except (OSError, AssertionError) as error:
            failures.append(error)
            near.shutdown(socket.SHUT_RDWR)

    with near, far:
        thread = threading.Thread(target=send_all)
        thread.start()
        try:
            got, came = receive_descriptors(far, total, ends if exact else [])
        finally:
            thread.join()
    if failures:
        raise failures[0]
    datafile.same(got, expected)
    for first, last, text in came:
        if not any(first <= place < last and text == places[place] for place in places):
            raise AssertionError(f"the descriptor of {text!r} came with bytes {first} to {last - 1}, sent at {places}")
    if [text for _, _, text in came] != texts:
        raise AssertionError(f"the descriptors of {[text for _, _, text in came]} came, not those of {texts}")


def send_descriptor(sock, text):
    """Send a text with a pipe in which that text waits."""
    reader, writer = os.pipe()
    os.write(writer, text.encode())
    os.close(writer)
    try:
        sock.sendmsg([text.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [reader]))])
    finally:
        os.close(reader)


def receive_descriptors(sock, total, ends):
    """(all bytes, [(first byte, byte after the last, what the descriptor's pipe holds)]); no read crosses `ends`."""
    got, came = bytearray(), []
    while len(got) < total:
        limit = next((end for end in ends if end > len(got)), len(got) + 65536)
        try:
            data, extra, _, _ = sock.recvmsg(limit - len(got), socket.CMSG_SPACE(64))
        except OSError as error:
            raise datafile.explain(error) from None
        if not data:
            break
        for _, _, numbers in extra:
            for descriptor in array.array("i", numbers):
                with os.fdopen(descriptor, "rb") as pipe:
                    came.append((len(got), len(got) + len(data), pipe.read().decode()))
        got += data
    return got, came


def slow_reader(sender):
    """The writer fills the socket, the reader takes little and late."""
    size = 700_001
    datafile.make(FILE, size, 88)
    near, far = pair()
    got, failures = bytearray(), []

    def read():
        try:
            for turn in range(1_000_000):
                if turn < 10:
                    time.sleep(0.02)
                part = datafile.receive(far, min(size - len(got), (1, 4095, 13, 9000, 30_001)[turn % 5]))
                got.extend(part)
                if not part or len(got) == size:
                    return
        except OSError as error:
            failures.append(error)

    with near, far:
        thread = threading.Thread(target=read)
        thread.start()
        try:
            datafile.send(near, FILE, 0, size, sender)
        except BaseException:
            near.shutdown(socket.SHUT_RDWR)
            raise
        finally:
            thread.join()
    if failures:
        raise datafile.explain(failures[0])
    datafile.same(got, datafile.content(size, 88))


def looking_first():
    """A reader that looks with MSG_PEEK sees what it then takes, while pages are added behind it."""
    size = 500_003
    datafile.make(FILE, size, 89)
    near, far = pair()
    got = bytearray()
    thread = threading.Thread(target=lambda: datafile.send(near, FILE, 0, size, "sendfile"))
    with near, far:
        thread.start()
        try:
            while len(got) < size:
                seen = far.recv(20_011, socket.MSG_PEEK)
                taken = datafile.receive(far, len(seen))
                if not seen or bytes(taken) != seen:
                    raise AssertionError(f"byte {len(got)}: {datafile.difference(taken, seen) or 'the stream ended'}")
                got += taken
        except OSError as error:
            raise datafile.explain(error) from None
        finally:
            far.shutdown(socket.SHUT_RDWR)
            thread.join()
    datafile.same(got, datafile.content(size, 89))


def main():
    ktap.plan(len(WAYS) * (len(OFFSETS) + 1) + 14)
    for sender, receiver in WAYS:
        for offset in OFFSETS:
            ktap.check(f"{sender} to {receiver}, all sizes, file offset {offset}", sizes_at, offset, sender, receiver)
        seconds = ktap.check(
            f"{sender} to {receiver}, stream of {LONG >> 20} MiB", transfer, LONG, 1, sender, receiver, seed=99
        )
        if seconds:
            ktap.metric(f"unix_{sender}_{receiver}", LONG / (1 << 20) / seconds, "MiB/s", "higher")
    ktap.check("write, sendfile and splice take turns", mixed)
    ktap.check("a socket that may not block", not_blocking)
    ktap.check("the other end is closed", closed)
    for how in ("sendfile", "splice"):
        ktap.check(f"{how}: SIGPIPE where the other end is closed", signalled, how)
        ktap.check(f"{how}: the sender's credentials", credentials, how)
    for sender, receiver in (("sendfile", "recv"), ("splice", "splice")):
        ktap.check(f"both ends send by {sender} and receive by {receiver} at once", both_busy, sender, receiver)
    ktap.check("descriptors between spliced data, each part read by itself", descriptors_between, exact=True)
    ktap.check("descriptors between spliced data, read as it comes", descriptors_between, exact=False)
    for sender in ("sendfile", "splice"):
        ktap.check(f"{sender}: a reader slower than the writer", slow_reader, sender)
    ktap.check("sendfile: a reader that looks with MSG_PEEK first", looking_first)


main()
