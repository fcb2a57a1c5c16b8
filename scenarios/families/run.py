#!/usr/bin/python3
"""Splice, sendfile and write into sockets of every family that lost its ->sendpage().

A check records how it went: the error, or how much arrived. These families never had pages of their own to send, so
that a kernel may do it in one way or another; what arrives must be what was sent. `write` is there to compare with: what a family does to any sender is not splice's doing.
Each family has a child process, so that one which hangs or dies leaves the others alone.
"""

import errno
import json
import os
import select
import signal
import sys
import time
import traceback

import links

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import datafile
import ktap
from outcome import name_of

FILE = os.path.join(os.environ.get("LAB_TMP", "/tmp"), "families")
SCALE = float(os.environ.get("LAB_SCALE", "1"))
CALL_S = 10 * SCALE
FAMILY_S = 60 * SCALE
SILENCE_S = max(3, 2 * SCALE)
LACKING = {errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.ENODEV}


def _write(sock, file, size):
    return os.write(sock, os.pread(file, size, 0))


def _sendfile(sock, file, size):
    return os.sendfile(sock, file, 0, size)


def _splice(sock, file, size):
    reader, writer = os.pipe()
    try:
        if os.splice(file, writer, size, offset_src=0) != size:
            raise AssertionError(f"a pipe does not take {size} bytes")
        return os.splice(reader, sock, size)
    finally:
        os.close(reader)
        os.close(writer)


WAYS = {"write": _write, "sendfile": _sendfile, "splice": _splice}


def late(*_):
    """What the alarm does: it ends a call that would wait for ever."""
    raise AssertionError(f"did not return within {CALL_S:g} s")


def one(link, way, size, seed):
    """Send once, and say how that went."""
    with open(FILE, "wb", buffering=0) as file:
        file.write(link.shape(datafile.sent(size, seed)))
    right = link.shape(datafile.content(size, seed))
    taken = 0
    signal.setitimer(signal.ITIMER_REAL, CALL_S)
    try:
        with open(FILE, "rb", buffering=0) as file:
            taken = WAYS[way](link.sender.fileno(), file.fileno(), len(right))
    except OSError as error:
        outcome = name_of(error)
    else:
        outcome = "all taken" if taken == len(right) else f"{taken} of {len(right)} bytes taken"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if not link.receiver:
        return outcome
    messages = link.collect(taken, SILENCE_S)
    got = b"".join(messages)
    if len(got) > taken or got != bytes(right[: len(got)]):
        raise AssertionError(f"{outcome}; {datafile.difference(got, right[:taken])}")
    if not taken:
        return outcome
    arrived = "all right" if len(got) == taken else f"{len(got)} bytes arrived, these right"
    # What stands behind a "#" is told, but not compared: how many messages it makes is nobody's promise.
    return f"{outcome}, {arrived}" + ("" if link.stream else f" # messages: {len(messages)}")


def work(family, output):
    """All checks of one family, each told in a line of JSON."""
    signal.signal(signal.SIGALRM, late)

    def tell(**what):
        output.write(json.dumps(what) + "\n")
        output.flush()

    link = None
    for number, (size, way) in enumerate(family.checks()):
        try:
            if link is None or link.fresh:
                signal.setitimer(signal.ITIMER_REAL, CALL_S)
                try:
                    link = family.open()
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
        except OSError as error:
            if error.errno in LACKING:
                tell(skip=f"the kernel lacks it: {name_of(error)}")
            else:
                tell(wrong=f"cannot be set up: {error}")
            continue
        except ktap.Skip as reason:
            tell(skip=str(reason))
            continue
        except AssertionError as error:
            tell(wrong=f"cannot be set up: {error}")
            continue
        try:
            tell(outcome=one(link, way, size, link.seed or number + 1))
        except AssertionError as error:
            tell(wrong=str(error))
            link = None  # what is left in it must not come out in the next check
        except OSError as error:
            tell(wrong=f"receiving: {error}")
            link = None


def results(family):
    """Run a family's checks in a child; its lines, as they come, until it ends or its time is up."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        try:
            with open(writer, "w") as output:
                work(family, output)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    ends, pending = time.monotonic() + FAMILY_S, b""
    while (left := ends - time.monotonic()) > 0 and select.select([reader], [], [], left)[0]:
        data = os.read(reader, 65536)
        if not data:
            break
        *lines, pending = (pending + data).split(b"\n")
        yield from map(json.loads, lines)
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reader)
    for _ in range(int(50 * SCALE)):  # not for ever: it may hang beyond killing
        if os.waitpid(child, os.WNOHANG)[0]:
            break
        time.sleep(0.1)


def main():
    families = links.every()
    ktap.plan(sum(len(family.checks()) for family in families))
    for family in families:
        told = results(family)
        for size, way in family.checks():
            title = f"{family.name}: {way}, {size} bytes"
            result = next(told, {"wrong": "the process that makes these checks died, or did not get to this one"})
            if "skip" in result:
                ktap.skip(title, result["skip"])
            elif "wrong" in result:
                ktap.not_ok(title, result["wrong"])
            else:
                ktap.ok(f"{title}: answer={result['outcome']}")
        for _ in told:
            pass


main()
