#!/usr/bin/python3
"""Calls of all kinds to the kernel's rxperf server, which takes data without looking at it and answers with zeroes.

Most calls are encrypted, packet by packet: what is wrong in a packet does not come out as zeroes, and what is missing
shows in the length that each reply has to have.
"""

import os
import struct
import sys
import time

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import datafile
import ktap
import rxrpc

PORT, SERVICE = 7009, 147
SECRET = bytes.fromhex("a7838acbc783ec94")  # it stands in the kernel's source
SEND, RECV, RPC, FILE = 0, 1, 3, 4
VERSION = 3
COOKIE = bytes.fromhex("00004711")
UNKNOWN_OPERATION = -455  # RXGEN_OPCODE
LATE = {(rxrpc.ABORT, -1), (rxrpc.ABORT, -3)}  # RX_CALL_DEAD, RX_CALL_TIMEOUT
ATTEMPTS = 4
LONG = 2 << 20
PART = 1235
KEY = "lab@rxperf"
DEADLINE_S = 30 * float(os.environ.get("LAB_SCALE", "1"))


def connect(**security):
    """A socket for calls to the server."""
    security = security or {"key": KEY, "level": rxrpc.ENCRYPT}
    return rxrpc.connect(os.environ["LAB_SERVER"], PORT, SERVICE, **security)


def in_time(function, *arguments, security=None):
    """What a check calls: the function, with a socket of its own, before a deadline.

    A service gives a call up when a part of the request is late. That should be after a second, but kernels from 6.10
    on take a number of ticks for one of milliseconds: 0.25 s at 250 Hz, which a slow guest misses now and then.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with rxrpc.deadline(DEADLINE_S), connect(**(security or {})) as sock:
                return function(sock, *arguments)
        except rxrpc.CallFailed as failure:
            if attempt == ATTEMPTS or (failure.kind, failure.value) not in LATE:
                raise
            print(f"{function.__name__}: {failure}; trying again", file=sys.stderr, flush=True)
    return None


def request(kind, there=0, back=0):
    """A request that carries `there` bytes and asks for `back` bytes."""
    lengths = {SEND: [there], RECV: [back], RPC: [there, back]}.get(kind, [0])
    if os.environ.get("LAB_BREAK"):
        lengths[-1] ^= 2  # one wrong byte: the server now expects or sends another length than the right one
    return (
        struct.pack("!4I", VERSION, kind, 0, 0)
        + struct.pack(f"!{len(lengths)}I", *lengths)
        + datafile.content(there, there + back)
        + COOKIE
    )


def send(sock, call, data, more=False):
    """Send a request, or a part of it; a call that was aborted meanwhile says with which code."""
    try:
        rxrpc.send(sock, call, data, more)
    except ConnectionAbortedError:
        rxrpc.replies(sock, [call])
        raise


def held(reply, back):
    """Compare a reply with the right one."""
    try:
        datafile.same(reply, bytes(back) + COOKIE)
    except AssertionError as error:
        raise AssertionError(f"reply of {back} bytes: {error}") from None


def all_sizes(sock, kind, there, back):
    """One call after the other, of each size, for what it sends (`there`) or gets (`back`) or both."""
    for number, size in enumerate(datafile.SIZES, 1):
        send(sock, number, request(kind, size * there, size * back))
        held(rxrpc.replies(sock, [number])[number], size * back)


def long_call(sock, kind, there, back):
    """One call; returns seconds."""
    data = request(kind, there, back)
    began = time.monotonic()
    send(sock, 1, data)
    reply = rxrpc.replies(sock, [1])[1]
    seconds = time.monotonic() - began
    held(reply, back)
    return seconds


def in_parts(sock):
    """A request in odd parts, of which the kernel makes packets."""
    view = memoryview(request(RPC, 65537, 12345))
    while len(view) > PART:
        send(sock, 1, view[:PART], more=True)
        view = view[PART:]
    send(sock, 1, view)
    held(rxrpc.replies(sock, [1])[1], 12345)


def at_once(sock):
    """Four calls on the four channels of a connection; the answers come in any order.

    The connection is secured by a call before: a server ends one whose client makes calls on more channels while it
    answers the challenge, since the answer says how many calls each channel has had.
    """
    some_calls(sock)
    for first in (11, 21):
        calls = {first + number: (20001 + 997 * number, 30001 + 1009 * number) for number in range(4)}
        for number, (there, back) in calls.items():
            send(sock, number, request(RPC, there, back))
        for number, reply in rxrpc.replies(sock, calls).items():
            held(reply, calls[number][1])


def unknown(sock):
    """An operation that rxperf does not know is refused; the next call goes on."""
    send(sock, 1, request(FILE))
    try:
        rxrpc.replies(sock, [1])
    except rxrpc.CallFailed as failure:
        if (failure.kind, failure.value) != (rxrpc.ABORT, UNKNOWN_OPERATION):
            raise
    else:
        raise AssertionError("the operation was carried out")
    send(sock, 2, request(RPC, 4097, 4097))
    held(rxrpc.replies(sock, [2])[2], 4097)


def some_calls(sock):
    """A few calls, for a socket of less security: its packets are made otherwise."""
    for number, size in enumerate((1, 4097, 65537), 1):
        send(sock, number, request(RPC, size, size))
        held(rxrpc.replies(sock, [number])[number], size)


def main():
    ktap.plan(11)
    rxrpc.add_client_key(KEY, SECRET)
    for name, kind, there, back in (("to", SEND, 1, 0), ("from", RECV, 0, 1), ("to and from", RPC, 1, 1)):
        ktap.check(f"data of all sizes {name} the server", in_time, all_sizes, kind, there, back)
    for name, kind, there, back in (("to", SEND, LONG, 0), ("from", RECV, 0, LONG)):
        title = f"{LONG >> 20} MiB in one call, {name} the server"
        seconds = ktap.check(title, in_time, long_call, kind, there, back)
        if seconds:
            ktap.metric(f"rxperf_{name}_server", LONG / (1 << 20) / seconds, "MiB/s", "higher")
    ktap.check(f"a request in parts of {PART} bytes", in_time, in_parts)
    ktap.check("four calls at once, twice", in_time, at_once)
    ktap.check("an unknown operation is refused", in_time, unknown)
    # rxperf asks for encryption, but what a service's socket asks for is not held against the calls that come in.
    ktap.check("calls with sealed lengths only", in_time, some_calls, security={"key": KEY, "level": rxrpc.AUTH})
    ktap.check("calls with checksums only", in_time, some_calls, security={"key": KEY, "level": rxrpc.PLAIN})
    ktap.check("calls without a key", in_time, some_calls, security={"level": rxrpc.PLAIN})


main()
