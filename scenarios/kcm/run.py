#!/usr/bin/python3
"""KCM: messages over TCP connections on lo, told apart by a BPF program of four instructions.

A message is its length in four bytes and as many bytes of data.  The program sees a buffer of TCP from its start, and
is not told where in it a message begins.  So it finds no length where two messages share a buffer: each is awaited
before the next is sent, and where many are on their way, they are of one length, which the program knows by heart.
"""

import contextlib
import errno
import fcntl
import os
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import bpf
import datafile
import ktap
import outcome
from atonce import LIMIT_S, at_once

AF_KCM, ATTACH, CLONE = 41, 0x89E0, 0x89E2
SO_RCVBUFFORCE = 33
FILE = os.path.join(os.environ.get("LAB_TMP", "/tmp"), "data")
SCALE = float(os.environ.get("LAB_SCALE", "1"))
DEADLINE_S = 5 * SCALE
WAYS = ("sendfile", "splice", "write")
# The parser takes no message that is longer than a TCP socket's receive buffer.
SIZES = (1, 4091, 4092, 4093, 8192, 65531, 65536, 65537, 100_003)
BURST = 64
HEAD = struct.Struct(">I")
ROOM = 200_000
DATAGRAM, PACKET = socket.SOCK_DGRAM, socket.SOCK_SEQPACKET


def connections(stack, count=1):
    """Both ends of TCP connections on lo, which send what they have at once.

    The parser waits until the rest of a message lies in the receive buffer, however that was cut into packets: it is
    made large, or a message that nearly fills it may wait for ever.
    """
    ends = []
    for _ in range(count):
        with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as dialling:
            near = dialling.enter_context(socket.socket())
            for end in (listener, near):
                end.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 20)
            near.connect(listener.getsockname())
            far, _ = listener.accept()
            dialling.pop_all()
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stack.enter_context(end)
        ends.append((near, far))
    return ends


READ_LENGTH = (
    bpf.instruction(0xBF, 6, 1),  # register 6 = the packet, as the next one wants it
    bpf.instruction(0x20),  # register 0 = the packet's first word
    bpf.instruction(0x07, 0, value=HEAD.size),  # register 0 += the length of this word itself
)


def multiplexor(stack, kind, carriers, length):
    """A KCM socket over some TCP connections."""
    sock = stack.enter_context(datafile.patient(socket.socket(AF_KCM, kind, 0), DEADLINE_S))
    parser = bpf.load(bpf.SOCKET_FILTER, *length, bpf.EXIT)
    try:
        for carrier in carriers:
            fcntl.ioctl(sock, ATTACH, struct.pack("=ii", carrier.fileno(), parser))
    finally:
        os.close(parser)
    return sock


def pair(stack, near_kind=DATAGRAM, far_kind=DATAGRAM, count=1, length=READ_LENGTH):
    """Two KCM sockets over some TCP connections."""
    ends = connections(stack, count)
    near = multiplexor(stack, near_kind, [end for end, _ in ends], length)
    return near, multiplexor(stack, far_kind, [end for _, end in ends], length)


def message(size, seed, content=datafile.content):
    """A whole message with its length."""
    return HEAD.pack(size) + bytes(content(size, seed))


def make(size, seed, before=0):
    """Write a message into the file, after some bytes that are not sent; returns what has to arrive."""
    with open(FILE, "wb") as file:
        file.write(bytes(before) + message(size, seed, datafile.sent))
    return message(size, seed)


def take(sock):
    """The next message."""
    try:
        return sock.recv(ROOM)
    except OSError as error:
        raise datafile.explain(error) from None


def same(got, right, size):
    """Compare, and say of which size."""
    try:
        datafile.same(got, right)
    except AssertionError as error:
        raise AssertionError(f"message of {size} bytes: {error}") from None


def sizes_by(how, before):
    """All sizes, each message awaited before the next."""
    with contextlib.ExitStack() as stack:
        near, far = pair(stack)
        for number, size in enumerate(SIZES):
            right = make(size, 100 + number, before)
            datafile.send(near, FILE, before, len(right), how)
            try:
                same(take(far), right, size)
            except AssertionError as error:
                raise AssertionError(f"{size} bytes: {error}") from None


def splice_more(sock, at, size, more):
    """Splice a part of the file that fits into one pipe."""
    reader, writer = os.pipe()
    try:
        with open(FILE, "rb", buffering=0) as file:
            filled = os.splice(file.fileno(), writer, size, offset_src=at)
        if filled != size:
            raise AssertionError(f"only {filled} bytes of {size} went into the pipe")
        while filled:
            filled -= os.splice(reader, sock.fileno(), filled, flags=os.SPLICE_F_MORE if more else 0)
    finally:
        os.close(reader)
        os.close(writer)


def mixed(first):
    """One message in parts: send with MSG_MORE and splice with SPLICE_F_MORE take turns, either one being the first."""
    parts = (13, 4097, 1, 20_001, 20_000, 4096)
    right = make(sum(parts) - HEAD.size, 200)
    with open(FILE, "rb") as file:
        data = file.read()
    with contextlib.ExitStack() as stack:
        near, far = pair(stack)
        at = 0
        for number, size in enumerate(parts):
            more = at + size < len(data)
            if (number + first) % 2:
                splice_more(near, at, size, more)
            else:
                near.sendall(data[at : at + size], socket.MSG_MORE if more else 0)
            at += size
        same(take(far), right, len(right))


def many_parts():
    """One message of a hundred spliced parts: more than one buffer has places for."""
    size, part = 50_000 - HEAD.size, 500
    right = make(size, 210)
    with contextlib.ExitStack() as stack:
        near, far = pair(stack)
        for at in range(0, len(right), part):
            splice_more(near, at, part, at + part < len(right))
        same(take(far), right, size)


def copy_in_last_place():
    """16 spliced parts, a copied one that takes the last place for a page in its buffer, and a spliced one after it."""
    size, copied, count = 100, 50, 17
    data = datafile.content(count * datafile.PAGE, 215)
    with open(FILE, "wb") as file:
        # Parts at the start of a page each, which cannot be joined.
        parts = [bytes(data[at : at + size]) for at in range(0, len(data), datafile.PAGE)]
        head = HEAD.pack(count * size + copied - HEAD.size)
        parts[0] = head + parts[0][len(head) :]
        bad = datafile.sent(size, 216)
        for number, part in enumerate(parts):
            file.seek(number * datafile.PAGE)
            file.write(part)
    right = b"".join(parts[:-1]) + bytes(datafile.content(size, 216)[:copied]) + parts[-1]
    with contextlib.ExitStack() as stack:
        near, far = pair(stack)
        datafile.patient(near, 2 * LIMIT_S)
        for number in range(count - 1):
            splice_more(near, number * datafile.PAGE, size, True)
        near.sendall(bad[:copied], socket.MSG_MORE)
        what = f"splice into a socket that holds {len(right) - size} bytes"
        at_once(what, splice_more, near, (count - 1) * datafile.PAGE, size, False)
        same(take(far), right, len(right))


def short_file():
    """sendfile of more than the file has leaves the message open; an empty one ends it."""
    right = make(10_000, 220)
    with contextlib.ExitStack() as stack:
        near, far = pair(stack)
        with open(FILE, "rb", buffering=0) as file:
            done = os.sendfile(near.fileno(), file.fileno(), 0, 1 << 20)
        if done != len(right):
            raise AssertionError(f"sendfile took {done} bytes of {len(right)}")
        near.send(b"")
        same(take(far), right, 10_000)


def packet_end(how):
    """SOCK_SEQPACKET: splice, then an empty send with MSG_EOR: one message."""
    with contextlib.ExitStack() as stack:
        near, far = pair(stack, PACKET)
        for number, size in enumerate((1, 4093, 65536)):
            right = make(size, 230 + number)
            datafile.send(near, FILE, 0, len(right), how)
            near.send(b"", socket.MSG_EOR)
            same(take(far), right, size)


def packet_no_end(how):
    """SOCK_SEQPACKET: whether what is spliced without more to come is a message, or the start of one."""
    right = make(5000, 240)
    with contextlib.ExitStack() as stack:
        near, far = pair(stack, PACKET)
        datafile.patient(far, 2 * SCALE)
        datafile.send(near, FILE, 0, len(right), how)
        answer = "whole"
        try:
            got = far.recv(ROOM)
        except BlockingIOError:
            answer = "open"
            near.send(b"", socket.MSG_EOR)
            got = take(far)
        same(got, right, 5000)
    return answer


def spliced_out(sizes):
    """SOCK_SEQPACKET: messages by splice into a pipe."""
    with contextlib.ExitStack() as stack:
        near, far = pair(stack, DATAGRAM, PACKET)
        datafile.patient(far, 2 * SCALE)
        for number, size in enumerate(sizes):
            right = make(size, 250 + number)
            datafile.send(near, FILE, 0, len(right), "sendfile")
            done = bytearray()
            try:
                while len(done) < len(right):
                    done += datafile.receive(far, len(right) - len(done), "splice")
            except BlockingIOError:
                raise AssertionError(f"message of {size} bytes: not all of it came out") from None
            same(done, right, size)


def no_end():
    """A socket without a connection takes nothing and harms nothing."""
    make(100, 260)
    with datafile.patient(socket.socket(AF_KCM, DATAGRAM, 0), 1) as sock:
        datafile.send(sock, FILE, 0, 104, "sendfile")


def burst(size, count, carriers, clones):
    """Messages of one length from several KCM sockets over several connections: each comes once; the seconds."""
    files, messages = [], {}
    for number in range(count):
        messages[bytes(datafile.content(size, 300 + number))] = number
        files.append(f"{FILE}-{number}")
        datafile.make(files[-1], size, 300 + number)
    failures = []

    def send(sock, own):
        try:
            for number, path in enumerate(own):
                datafile.send(sock, path, 0, size, WAYS[number % 2])
        except (OSError, AssertionError) as error:
            failures.append(error)

    with contextlib.ExitStack() as stack:
        near, far = pair(stack, count=carriers, length=(bpf.set_register(0, size),))
        socks = [near]
        for _ in range(clones):
            descriptor = struct.unpack("=i", fcntl.ioctl(near, CLONE, struct.pack("=i", 0)))[0]
            socks.append(
                stack.enter_context(datafile.patient(socket.socket(AF_KCM, DATAGRAM, 0, fileno=descriptor), DEADLINE_S))
            )
        threads = [threading.Thread(target=send, args=(sock, files[at :: len(socks)])) for at, sock in enumerate(socks)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        try:
            for done in range(count):
                got = take(far)
                if messages.pop(got, None) is None:
                    right = datafile.content(size, 300 + done)
                    raise AssertionError(f"message {done}: not one that was sent: {datafile.difference(got, right)}")
        finally:
            for thread in threads:
                thread.join()
        seconds = time.monotonic() - began
    for path in files:
        os.unlink(path)
    if failures:
        raise failures[0]
    return seconds


def main():
    ktap.plan(2 * len(WAYS) + 13)
    for how in WAYS:
        for before in (0, 4093):
            ktap.check(f"{how}, messages of all sizes, file offset {before}", sizes_by, how, before)
    for first, name in enumerate(("send", "splice")):
        ktap.check(f"one message in parts, {name} first", mixed, first)
    ktap.check("one message in a hundred spliced parts", many_parts)
    ktap.check("a copied part in the last place of a buffer, then a spliced one", copy_in_last_place)
    ktap.check("sendfile of more than the file has, then an empty message", short_file)
    for how in ("sendfile", "write"):
        ktap.check(f"SOCK_SEQPACKET: {how}, then an empty send with MSG_EOR", packet_end, how)
    outcome.record("SOCK_SEQPACKET: splice without more to come, the message", packet_no_end, "splice")
    ktap.check("SOCK_SEQPACKET: splice out of messages", spliced_out, (1, 4093, 20_000))
    ktap.check("SOCK_SEQPACKET: splice out of a message of more than a pipe holds", spliced_out, (100_003,))
    ktap.check("a socket without a connection", no_end)
    ktap.check("three sockets over two connections", burst, 3000, 60, 2, 2)
    seconds = ktap.check(f"{BURST} messages of 64 KiB", burst, 65536, BURST, 1, 0)
    if seconds:
        ktap.metric("kcm_splice", BURST / 16 / seconds, "MiB/s", "higher")


main()
