#!/usr/bin/python3
"""KCM: messages over TCP connections on lo, told apart by a BPF program of four instructions.

A message is its length in four bytes and as many bytes of data.  The program sees a buffer of TCP from its start, and
not where the second message in it begins: messages that may meet in one buffer are of one length here.
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

AF_KCM, ATTACH, CLONE = 41, 0x89E0, 0x89E2
FILE = os.path.join(os.environ.get("LAB_TMP", "/tmp"), "data")
SCALE = float(os.environ.get("LAB_SCALE", "1"))
DEADLINE_S = 10 * SCALE
WAYS = ("sendfile", "splice", "write")
# The parser takes no message that is longer than a TCP socket's receive buffer.
SIZES = (1, 4091, 4092, 4093, 8192, 65531, 65536, 65537, 100_003)
BURST = 64
HEAD = struct.Struct(">I")
ROOM = 200_000
DATAGRAM, PACKET = socket.SOCK_DGRAM, socket.SOCK_SEQPACKET


def connections(stack, count=1):
    """Both ends of TCP connections on lo, which send what they have at once."""
    ends = []
    for _ in range(count):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            near = socket.create_connection(listener.getsockname())
            far, _ = listener.accept()
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stack.enter_context(end)
        ends.append((near, far))
    return ends


def multiplexor(stack, kind, carriers):
    """A KCM socket over some TCP connections."""
    sock = stack.enter_context(datafile.patient(socket.socket(AF_KCM, kind, 0), DEADLINE_S))
    parser = bpf.load(
        bpf.SOCKET_FILTER,
        bpf.instruction(0xBF, 6, 1),  # register 6 = the packet, as the next one wants it
        bpf.instruction(0x20),  # register 0 = the packet's first word
        bpf.instruction(0x07, 0, value=HEAD.size),  # register 0 += the length of this word itself
        bpf.EXIT,
    )
    try:
        for carrier in carriers:
            fcntl.ioctl(sock, ATTACH, struct.pack("=ii", carrier.fileno(), parser))
    finally:
        os.close(parser)
    return sock


def pair(stack, near_kind=DATAGRAM, far_kind=DATAGRAM, count=1):
    """Two KCM sockets over some TCP connections."""
    ends = connections(stack, count)
    near = multiplexor(stack, near_kind, [end for end, _ in ends])
    return near, multiplexor(stack, far_kind, [end for _, end in ends])


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
            same(take(far), right, size)


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
    parts = (13, 4097, 1, 30_001, 20_000, 8192, 5, 4096)
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
    """SOCK_SEQPACKET: what is spliced without more to come is a whole message, as it is without the series."""
    right = make(5000, 240)
    with contextlib.ExitStack() as stack:
        near, far = pair(stack, PACKET)
        datafile.patient(far, 2 * SCALE)
        datafile.send(near, FILE, 0, len(right), how)
        same(take(far), right, 5000)


def spliced_out():
    """SOCK_SEQPACKET: a message by splice into a pipe; the empty read that follows ends it."""
    with contextlib.ExitStack() as stack:
        near, far = pair(stack, DATAGRAM, PACKET)
        for number, size in enumerate((1, 4093, 65536)):
            right = make(size, 250 + number)
            datafile.send(near, FILE, 0, len(right), "sendfile")
            same(datafile.receive(far, len(right), "splice"), right, size)
            if rest := far.recv(ROOM):
                raise AssertionError(f"message of {size} bytes: {len(rest)} more bytes in it")


def no_end():
    """A socket without a connection takes nothing and harms nothing."""
    make(100, 260)
    with datafile.patient(socket.socket(AF_KCM, DATAGRAM, 0), 1) as sock:
        datafile.send(sock, FILE, 0, 104, "sendfile")


def burst(size, count, carriers, clones):
    """Messages of one length from several KCM sockets over several connections: each comes once; the seconds."""
    files, messages = [], {}
    for number in range(count):
        right = message(size, 300 + number)
        messages[right] = number
        path = f"{FILE}-{number}"
        with open(path, "wb") as file:
            file.write(message(size, 300 + number, datafile.sent))
        files.append(path)
    failures = []

    def send(sock, own):
        try:
            for number, path in enumerate(own):
                datafile.send(sock, path, 0, size + HEAD.size, WAYS[number % 2])
        except (OSError, AssertionError) as error:
            failures.append(error)

    with contextlib.ExitStack() as stack:
        near, far = pair(stack, count=carriers)
        socks = [near]
        for _ in range(clones):
            descriptor = struct.unpack("=i", fcntl.ioctl(near, CLONE, struct.pack("=i", 0)))[0]
            socks.append(stack.enter_context(datafile.patient(socket.socket(fileno=descriptor), DEADLINE_S)))
        threads = [threading.Thread(target=send, args=(sock, files[at :: len(socks)])) for at, sock in enumerate(socks)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        try:
            for done in range(count):
                got = take(far)
                if messages.pop(got, None) is None:
                    right = message(size, 300 + done)
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
    ktap.plan(2 * len(WAYS) + 11)
    for how in WAYS:
        for before in (0, 4093):
            ktap.check(f"{how}, messages of all sizes, file offset {before}", sizes_by, how, before)
    for first, name in enumerate(("send", "splice")):
        ktap.check(f"one message in parts, {name} first", mixed, first)
    ktap.check("one message in a hundred spliced parts", many_parts)
    ktap.check("sendfile of more than the file has, then an empty message", short_file)
    for how in ("sendfile", "write"):
        ktap.check(f"SOCK_SEQPACKET: {how}, then an empty send with MSG_EOR", packet_end, how)
    ktap.check("SOCK_SEQPACKET: splice without more to come is a message", packet_no_end, "splice")
    ktap.check("SOCK_SEQPACKET: splice out of a message", spliced_out)
    ktap.check("a socket without a connection", no_end)
    ktap.check("three sockets over two connections", burst, 3000, 60, 2, 2)
    seconds = ktap.check(f"{BURST} messages of 64 KiB", burst, 65536 - HEAD.size, BURST, 1, 0)
    if seconds:
        ktap.metric("kcm_splice", BURST / 16 / seconds, "MiB/s", "higher")


main()
