#!/usr/bin/python3
"""TCP sockets in a sockmap: SK_MSG and SK_SKB programs pass, cut, hold back and redirect what is spliced into them."""

import contextlib
import errno
import os
import socket
import sys
import time

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import bpf
import datafile
import ktap
from atonce import at_once

FILE = os.path.join(os.environ.get("LAB_TMP", "/tmp"), "data")
DEADLINE_S = 12 * float(os.environ.get("LAB_SCALE", "1"))
LONG = 4 << 20
WAYS = ("sendfile", "splice", "write")
OFFSETS = (0, 4093)
PASS, DROP = 1, 0
TARGET = 1
"""The key of the socket that is redirected to; the one with the program has 0."""


class Loop:
    """TCP connections on lo and descriptors of BPF, all closed at the end."""

    def __init__(self, stack):
        self._stack = stack

    def pair(self):
        """Both ends of a connection."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            near = socket.create_connection(listener.getsockname())
            far, _ = listener.accept()
        return [self._stack.enter_context(datafile.patient(end, DEADLINE_S)) for end in (near, far)]

    def keep(self, descriptor):
        """Close a descriptor at the end."""
        self._stack.callback(os.close, descriptor)
        return descriptor

    def sockmap(self):
        """An empty map."""
        return self.keep(bpf.sockmap())

    def message_program(self, map_, *instructions):
        """Give the map an SK_MSG program, which sees what its sockets send."""
        program = self.keep(bpf.load(bpf.SK_MSG, *instructions, bpf.EXIT))
        bpf.attach(map_, program, bpf.MSG_VERDICT)


def verdict(loop, *instructions):
    """A connection whose one end has an SK_MSG program: it, and where its data comes out."""
    near, far = loop.pair()
    map_ = loop.sockmap()
    loop.message_program(map_, *instructions, bpf.set_register(0, PASS))
    bpf.put(map_, 0, near.fileno())
    return near, far


def passes(loop):
    """The program of two instructions."""
    return verdict(loop)


def applies(count):
    """The program is asked anew for each `count` bytes."""
    return lambda loop: verdict(loop, bpf.set_register(2, count), bpf.call(bpf.MSG_APPLY_BYTES))


def message_redirect(flags):
    """What one socket sends leaves through another (egress), or has come in at it (ingress)."""

    def make(loop):
        near, _ = loop.pair()
        other, far = loop.pair()
        map_ = loop.sockmap()
        loop.message_program(
            map_,
            bpf.set_map(2, map_),
            bpf.set_register(3, TARGET),
            bpf.set_register(4, flags),
            bpf.call(bpf.MSG_REDIRECT_MAP),
        )
        bpf.put(map_, 0, near.fileno())
        bpf.put(map_, TARGET, other.fileno())
        return near, other if flags == bpf.INGRESS else far

    return make


def packet_redirect(flags, parser):
    """What comes in at one socket leaves through another, or has come in at that one."""

    def make(loop):
        near, through = loop.pair()
        other, far = loop.pair()
        map_, targets = loop.sockmap(), loop.sockmap()
        program = bpf.load(
            bpf.SK_SKB,
            bpf.set_map(2, targets),
            bpf.set_register(3, TARGET),
            bpf.set_register(4, flags),
            bpf.call(bpf.SK_REDIRECT_MAP),
            bpf.EXIT,
        )
        bpf.attach(map_, loop.keep(program), bpf.SKB_STREAM_VERDICT)
        if parser:
            # A message is what has come, as long as it is.
            whole = bpf.load(bpf.SK_SKB, bpf.load_word(0, 1, 0), bpf.EXIT)
            bpf.attach(map_, loop.keep(whole), bpf.SKB_STREAM_PARSER)
        bpf.put(targets, TARGET, other.fileno())
        bpf.put(map_, 0, through.fileno())
        return near, other if flags == bpf.INGRESS else far

    return make


ROUTES = {
    "SK_MSG pass": passes,
    "SK_MSG apply_bytes 97": applies(97),
    "SK_MSG apply_bytes 4096": applies(4096),
    "SK_MSG apply_bytes 100000": applies(100_000),
    "SK_MSG redirect to egress": message_redirect(0),
    "SK_MSG redirect to ingress": message_redirect(bpf.INGRESS),
    "SK_SKB redirect to egress": packet_redirect(0, False),
    "SK_SKB redirect to egress, with a parser": packet_redirect(0, True),
    "SK_SKB redirect to ingress": packet_redirect(bpf.INGRESS, False),
}


def transfer(near, far, size, offset, seed, how):
    """Send a part of a file at one end and compare it at the other; returns the seconds it took."""
    datafile.make(FILE, offset + size, seed)
    expected = memoryview(datafile.content(offset + size, seed))[offset:]
    try:
        got, seconds = datafile.while_reading(far, size, "recv", lambda: datafile.send(near, FILE, offset, size, how))
        datafile.same(got, expected)
    except AssertionError as error:
        raise AssertionError(f"{size} bytes: {error}") from None
    return seconds


def sizes_by(route, how):
    """All sizes, one after the other through the same sockets."""
    with contextlib.ExitStack() as stack:
        near, far = route(Loop(stack))
        for number, size in enumerate(datafile.SIZES):
            if size < 100_000 or (how == "sendfile"):
                transfer(near, far, size, OFFSETS[number % 2], 100 + number, how)


def long_by(route):
    """A long stream; returns the seconds."""
    with contextlib.ExitStack() as stack:
        near, far = route(Loop(stack))
        return transfer(near, far, LONG, 1, 99, "sendfile")


def corked(how):
    """The program wants 10000 bytes before it decides: two parts of 4096 wait, the third sets all free."""
    part, rounds = 4096, 4
    total = 3 * part * rounds
    with contextlib.ExitStack() as stack:
        near, far = verdict(Loop(stack), bpf.set_register(2, 10_000), bpf.call(bpf.MSG_CORK_BYTES))
        datafile.make(FILE, total, 120)
        expected, at = datafile.content(total, 120), 0
        for _ in range(rounds):
            for number in range(3):
                if number:
                    time.sleep(0.02)
                    early = peek(far)
                    if early:
                        raise AssertionError(f"{early} bytes came before the program had its 10000")
                datafile.send(near, FILE, at, part, how)
                at += part
            datafile.same(datafile.receive(far, 3 * part), expected[at - 3 * part : at])


def peek(sock):
    """How many bytes wait in a socket."""
    try:
        how = 65536, socket.MSG_DONTWAIT | socket.MSG_PEEK
        return len(at_once("recv with MSG_DONTWAIT", sock.recv, *how))
    except BlockingIOError:
        return 0


def mixed(route):
    """write, sendfile and splice take turns on one stream."""
    parts = ((13, "write"), (4097, "sendfile"), (1, "write"), (65537, "splice"), (4095, "sendfile"), (7, "sendfile"))
    total = sum(size for size, _ in parts)
    datafile.make(FILE, total, 130)
    with contextlib.ExitStack() as stack:
        near, far = route(Loop(stack))

        def send_all():
            at = 0
            for size, how in parts:
                datafile.send(near, FILE, at, size, how)
                at += size

        got, _ = datafile.while_reading(far, total, "recv", send_all)
    datafile.same(got, datafile.content(total, 130))


def dropped(how):
    """A program that says no: EACCES, and nothing comes."""
    datafile.make(FILE, 8192, 140)
    with contextlib.ExitStack() as stack:
        loop = Loop(stack)
        near, far = loop.pair()
        map_ = loop.sockmap()
        loop.message_program(map_, bpf.set_register(0, DROP))
        bpf.put(map_, 0, near.fileno())
        try:
            datafile.send(near, FILE, 0, 8192, how)
        except PermissionError:
            pass
        else:
            raise AssertionError(f"{how} succeeded")
        if came := peek(far):
            raise AssertionError(f"{came} bytes came through")


def main():
    try:
        os.close(bpf.sockmap())
    except OSError as error:
        if error.errno not in {errno.ENOSYS, errno.EINVAL}:
            raise
        ktap.plan(1)
        ktap.skip("sockmap", f"this kernel has no maps of sockets: {error}")
        return
    ktap.plan(len(ROUTES) * (len(WAYS) + 1) + 2 * len(WAYS) + 2)
    for name, route in ROUTES.items():
        for how in WAYS:
            ktap.check(f"{name}: {how}, all sizes", sizes_by, route, how)
        ktap.check(f"{name}: write, sendfile and splice take turns", mixed, route)
    for how in WAYS:
        ktap.check(f"SK_MSG cork_bytes: {how}", corked, how)
        ktap.check(f"SK_MSG drop: {how}", dropped, how)
    for name, label in (("SK_MSG pass", "msg_pass"), ("SK_SKB redirect to egress", "skb_egress")):
        seconds = ktap.check(f"{name}: sendfile, {LONG >> 20} MiB", long_by, ROUTES[name])
        if seconds:
            ktap.metric(f"sockmap_{label}", LONG / (1 << 20) / seconds, "MiB/s", "higher")


main()
