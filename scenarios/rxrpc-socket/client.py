#!/usr/bin/python3
"""Calls of all sizes to the service of the other guest: in one piece and in parts, one by one and several at once."""

import errno
import os
import time

import service
from service import datafile, rxrpc

import ktap

LONG = 4 << 20
PART = 1235  # odd, and less than a packet
SCALE = float(os.environ.get("LAB_SCALE", "1"))
DEADLINE_S = 20 * SCALE
LEVELS = {"checksums": rxrpc.PLAIN, "checksums and sealed lengths": rxrpc.AUTH, "encryption": rxrpc.ENCRYPT}
KEY = "lab@server"
FILE = os.path.join(os.environ.get("LAB_TMP", "/tmp"), "rxrpc")


def connect(**security):
    """A socket for calls to the service."""
    return rxrpc.connect(os.environ["LAB_SERVER"], service.PORT, service.SERVICE, **security)


def in_time(function, *arguments):
    """What a check calls: the function, with a socket of its own, before a deadline."""
    with rxrpc.deadline(DEADLINE_S), connect() as sock:
        return function(sock, *arguments)


def request(sock, call, verb, size, seed, part=0):
    """Send one request, whole or in parts; says its length beforehand in the latter case."""
    data = service.HEADER.pack(verb, seed, size)
    if verb == b"put ":
        data += datafile.sent(size, seed)
    if not part:
        rxrpc.send(sock, call, data)
        return
    view, length = memoryview(data), len(data)
    while len(view) > part:
        rxrpc.send(sock, call, view[:part], more=True, length=length)
        view, length = view[part:], None
    rxrpc.send(sock, call, view, length=length)


def held(reply, verb, size, seed):
    """Compare a reply with the right one."""
    right = datafile.content(size, seed)
    try:
        if verb == b"get ":
            datafile.same(reply, right)
        elif (sums := reply.decode()) != f"{size} {datafile.digest(right)}":
            raise AssertionError(f"the service got data with length and sum {sums}, not {datafile.digest(right)}")
    except AssertionError as error:
        raise AssertionError(f"{size} bytes: {error}") from None


def one(sock, verb, size, seed, part=0):
    """One call; returns the seconds that it took."""
    began = time.monotonic()
    request(sock, 1, verb, size, seed, part)
    reply = rxrpc.replies(sock, [1])[1]
    seconds = time.monotonic() - began
    held(reply, verb, size, seed)
    return seconds


def sizes(sock, verb, seed, part=0):
    """Calls of all sizes, one after the other on one connection."""
    for number, size in enumerate(datafile.SIZES):
        one(sock, verb, size, seed + number, part)


def at_once(sock, count):
    """More calls than a connection has channels; their replies come mixed."""
    plan = {call: (40000 + 1237 * call, 300 + call) for call in range(1, count + 1)}
    for call, (size, seed) in plan.items():
        request(sock, call, b"get ", size, seed)
    for call, reply in rxrpc.replies(sock, plan).items():
        held(reply, b"get ", *plan[call])


def in_turns(sock, count):
    """Requests whose parts take turns."""
    plan = {call: (9000 + 1237 * call, 320 + call) for call in range(1, count + 1)}
    left = {
        call: memoryview(service.HEADER.pack(b"put ", seed, size) + datafile.sent(size, seed))
        for call, (size, seed) in plan.items()
    }
    while left:
        for call in list(left):
            view = left.pop(call)
            rxrpc.send(sock, call, view[:PART], more=len(view) > PART)
            if len(view) > PART:
                left[call] = view[PART:]
    for call, reply in rxrpc.replies(sock, plan).items():
        held(reply, b"put ", *plan[call])


def secured(level):
    """Both ways with a key."""
    with rxrpc.deadline(DEADLINE_S), connect(key=KEY, level=level) as sock:
        for number, size in enumerate((1, 4097, 65537)):
            one(sock, b"put ", size, 400 + 10 * level + number)
            one(sock, b"get ", size, 430 + 10 * level + number)


def refused(sock, how):
    """No file can be sent into the socket, as no call can be named with it; calls go on."""
    datafile.make(FILE, 65537, 500)
    request(sock, 2, b"put ", 65537, 500, part=40000)
    rxrpc.replies(sock, [2])
    try:
        datafile.send(sock, FILE, 0, 65537, how)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    else:
        raise AssertionError(f"{how} into the socket succeeded")
    sizes(sock, b"get ", 510)


def spliced(sock):
    """The reply taken out of the socket by splice."""
    size = 50001
    request(sock, 1, b"get ", size, 520)
    got = bytearray()
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as pipe, open(writer, "wb", buffering=0):
        while len(got) < size:
            # 0 is no end here: a message without data says that more will come.
            try:
                filled = os.splice(sock.fileno(), writer, size - len(got))
            except OSError as error:
                if error.errno != errno.ENODATA:  # the call is over
                    raise
                break
            if filled:
                got += pipe.read(filled)
    held(got, b"get ", size, 520)


def aborted(sock):
    """A call that the client gives up in the middle of its request; the next one works."""
    rxrpc.send(sock, 1, service.HEADER.pack(b"put ", 1, 65537) + bytes(5000), more=True)
    rxrpc.abort(sock, 1, 77)
    try:
        rxrpc.replies(sock, [1])
    except rxrpc.CallFailed as failure:
        if (failure.kind, failure.value) != (rxrpc.ABORT, 77):
            raise
    else:
        raise AssertionError("the aborted call ended well")
    one(sock, b"put ", 65537, 530)


def main():
    ktap.plan(4 + 2 + 2 + len(LEVELS) + 2 + 2)
    for verb, what in ((b"put ", "requests"), (b"get ", "replies")):
        ktap.check(f"{what} of all sizes", in_time, sizes, verb, 100)
        seconds = ktap.check(f"{what} of {LONG >> 20} MiB", in_time, one, verb, LONG, 99)
        if seconds:
            ktap.metric(f"rxrpc_{what}", LONG / (1 << 20) / seconds, "MiB/s", "higher")
    ktap.check(f"requests of all sizes in parts of {PART} bytes", in_time, sizes, b"put ", 200, PART)
    ktap.check("requests of all sizes in parts of 65537 bytes", in_time, sizes, b"put ", 220, 65537)
    ktap.check("seven calls at once", in_time, at_once, 7)
    ktap.check("requests that take turns", in_time, in_turns, 4)
    rxrpc.add_client_key(KEY, service.SECRET)
    for name, level in LEVELS.items():
        ktap.check(f"secured by rxkad: {name}", secured, level)
    for how in ("sendfile", "splice"):
        ktap.check(f"{how} into the socket is EINVAL, and calls go on", in_time, refused, how)
    ktap.check("a reply taken out by splice", in_time, spliced)
    ktap.check("an aborted call, and the next one", in_time, aborted)


main()
