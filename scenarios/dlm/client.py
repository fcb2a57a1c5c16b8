#!/usr/bin/python3
"""Locks taken in turns by two nodes, with 32 bytes of data in each lock's value block."""

import errno
import os
import time

import node
from node import CANCEL, EX, IVVALBLK, NL, NOQUEUE, PR, VALBLK, VALUE_BYTES, convert, request, unlock

import datafile
import ktap
import orders
from atonce import LIMIT_S, at_once

SPACE, SECOND = "lab", "second"
TURNS = 8
LOCKS = 150
QUICK_S = 0.3 * float(os.environ.get("LAB_SCALE", "1"))


def value(seed):
    """A value block to write."""
    return bytes(datafile.sent(VALUE_BYTES, seed)).hex()


def held(results, seeds):
    """Compare value blocks with the right ones."""
    for number, ((_, status, flags, block), seed) in enumerate(zip(results, seeds, strict=True)):
        granted([[0, status, flags, block]])
        if flags & node.VALNOTVALID:
            raise AssertionError(f"value block {number} is said to be invalid")
        try:
            datafile.same(bytes.fromhex(block), datafile.content(VALUE_BYTES, seed))
        except AssertionError as error:
            raise AssertionError(f"value block {number}: {error}") from None


def statuses(results, *expected):
    """Compare the outcomes with the right ones."""
    got = [status for _, status, _, _ in results]
    if got != list(expected):
        raise AssertionError(f"outcomes {got} instead of {list(expected)}")


def granted(results):
    """All of them must have been granted; returns the locks."""
    statuses(results, *[0] * len(results))
    return [lock for lock, _, _, _ in results]


def join(here, there):
    """Both nodes join both lockspaces."""
    for space in (SPACE, SECOND):
        there.join(space)
        here.join(space)
        here.joined(space)
        there.joined(space)


def ping_pong(first, second, seed):
    """Locks go to and fro; each owner reads what the one before has written, and writes anew. Returns seconds."""
    # Names of all kinds of lengths: messages then begin and end anywhere in a page.
    names = [f"{seed}-{number:0{2 + 7 * number}}" for number in range(8)]
    locks = {}
    for owner in (first, second):  # the first to ask is in charge of a lock
        locks[owner] = granted(owner.do(SPACE, [request(name, NL, VALBLK) for name in names]))
    began = time.monotonic()
    for turn in range(TURNS):
        owner = (first, second)[turn % 2]
        got = owner.do(SPACE, [convert(lock, EX, VALBLK) for lock in locks[owner]])
        if turn:
            held(got, [seed + 8 * (turn - 1) + number for number in range(8)])
        new = [convert(lock, NL, VALBLK, value(seed + 8 * turn + i)) for i, lock in enumerate(locks[owner])]
        granted(owner.do(SPACE, new))
    seconds = time.monotonic() - began
    for owner, mine in locks.items():
        statuses(owner.do(SPACE, [unlock(lock) for lock in mine]), *[-node.EUNLOCK] * len(mine))
    return seconds


def many(space, writer, reader, seed):
    """Many locks asked for at once: their messages share pages."""
    names = [f"{seed}-{number:0{1 + number % 58}}" for number in range(LOCKS)]
    written = granted(writer.do(space, [request(name, EX, VALBLK) for name in names]))
    granted(writer.do(space, [convert(lock, NL, VALBLK, value(seed + i)) for i, lock in enumerate(written)]))
    read_many(space, reader, seed)


def read_many(space, reader, seed):
    """Read what `many` has written; the locks stay, or value blocks would end with the node in charge of them."""
    names = [f"{seed}-{number:0{1 + number % 58}}" for number in range(LOCKS)]
    held(reader.do(space, [request(name, PR, VALBLK) for name in names]), range(seed, seed + LOCKS))


def noqueue(here, there):
    """A lock that is held is denied at once to one that will not wait, and granted once it is free."""
    theirs = granted(there.do(SPACE, [request("noqueue", EX, VALBLK)]))
    denied(here, [request("noqueue", PR, NOQUEUE | VALBLK)])
    granted(there.do(SPACE, [convert(theirs[0], NL, VALBLK, value(70))]))
    got = here.do(SPACE, [request("noqueue", PR, NOQUEUE | VALBLK)])
    held(got, [70])
    denied(there, [convert(theirs[0], EX, NOQUEUE)])
    finish(here, got[0][0], there, theirs[0])


def denied(owner, steps):
    """Ask for what another node holds, by one that will not wait: EAGAIN as soon as that node has answered."""
    statuses(at_once("a request with NOQUEUE", owner.do, SPACE, steps, limit_s=3 * LIMIT_S), -errno.EAGAIN)


def finish(here, mine, there, theirs):
    """Give up two locks."""
    for owner, lock in ((here, mine), (there, theirs)):
        statuses(owner.do(SPACE, [unlock(lock)]), -node.EUNLOCK)


def waiting(here, there):
    """A request waits for the lock's owner to unlock, and gets the value block that came with it."""
    theirs = granted(there.do(SPACE, [request("waiting", EX, VALBLK)]))
    tags = here.begin(SPACE, [request("waiting", EX, VALBLK)])
    statuses(here.outcome(SPACE, tags, QUICK_S), None)
    statuses(there.do(SPACE, [unlock(theirs[0], VALBLK, value(71))]), -node.EUNLOCK)
    got = here.outcome(SPACE, tags)
    held(got, [71])
    statuses(here.do(SPACE, [unlock(got[0][0])]), -node.EUNLOCK)


def conversion(here, there):
    """Shared locks are held by both; one becomes exclusive when the other gives way, not before."""
    mine = granted(here.do(SPACE, [request("conversion", PR, VALBLK)]))[0]
    theirs = granted(there.do(SPACE, [request("conversion", PR, VALBLK)]))[0]
    denied(here, [convert(mine, EX, NOQUEUE | VALBLK)])
    tags = here.begin(SPACE, [convert(mine, EX, VALBLK)])
    statuses(here.outcome(SPACE, tags, QUICK_S), None)
    statuses(there.do(SPACE, [convert(theirs, EX, VALBLK)]), -errno.EDEADLK)
    granted(there.do(SPACE, [convert(theirs, NL)]))
    granted(here.outcome(SPACE, tags))
    granted(here.do(SPACE, [convert(mine, PR, VALBLK, value(72))]))
    held(there.do(SPACE, [convert(theirs, PR, VALBLK)]), [72])
    finish(here, mine, there, theirs)


def cancelled(here, there):
    """A request that waits can be taken back."""
    theirs = granted(there.do(SPACE, [request("cancelled", EX)]))[0]
    mine = granted(here.do(SPACE, [request("cancelled", NL)]))[0]
    tags = here.begin(SPACE, [convert(mine, EX)])
    statuses(here.outcome(SPACE, tags, QUICK_S), None)
    statuses(here.do(SPACE, [unlock(mine, CANCEL)]), -node.ECANCEL)
    finish(here, mine, there, theirs)


def invalid(here, there):
    """A value block declared invalid by one node is so for the other, until it is written anew."""
    mine = granted(here.do(SPACE, [request("invalid", EX, VALBLK)]))[0]
    theirs = granted(there.do(SPACE, [request("invalid", NL, VALBLK)]))[0]
    granted(here.do(SPACE, [convert(mine, NL, VALBLK, value(74))]))
    granted(here.do(SPACE, [convert(mine, EX)]))
    granted(here.do(SPACE, [convert(mine, NL, IVVALBLK)]))
    got = there.do(SPACE, [convert(theirs, EX, VALBLK)])
    granted(got)
    if not got[0][2] & node.VALNOTVALID:
        raise AssertionError("the other node takes the value block for valid")
    granted(there.do(SPACE, [convert(theirs, NL, VALBLK, value(73))]))
    held(here.do(SPACE, [convert(mine, PR, VALBLK)]), [73])
    finish(here, mine, there, theirs)


def rejoin(here, there):
    """A node leaves; locks and value blocks are still there, also for the same node when it has come back."""
    many(SECOND, here, there, 5000)
    many(SECOND, there, here, 6000)
    here.stop(SECOND)
    there.leave(SECOND)
    here.start(SECOND, [node.CLIENT])
    read_many(SECOND, here, 6000)
    here.stop(SECOND)
    there.join(SECOND)
    here.start(SECOND, [node.CLIENT, node.SERVER])
    there.joined(SECOND)
    read_many(SECOND, there, 5000)
    read_many(SECOND, there, 6000)


def main():
    ktap.plan(11)
    here, there = node.Node(node.CLIENT), orders.Remote()
    ktap.check("both nodes join", join, here, there)
    pairs = (("the client", here, there, 1000), ("the server", there, here, 2000))
    for name, first, second, seed in pairs:
        title = f"8 locks change hands {TURNS} times, {name} is in charge of them"
        seconds = ktap.check(title, ping_pong, first, second, seed)
        if seconds:
            ktap.metric(f"dlm_turns_{first is here and 'client' or 'server'}", TURNS / seconds, "turns/s", "higher")
    for name, writer, reader, seed in pairs:
        ktap.check(f"{LOCKS} locks at once, {name} writes", many, SPACE, writer, reader, seed + 2000)
    ktap.check("a held lock is denied without waiting", noqueue, here, there)
    ktap.check("a held lock is waited for", waiting, here, there)
    ktap.check("a shared lock becomes exclusive", conversion, here, there)
    ktap.check("waiting can be cancelled", cancelled, here, there)
    ktap.check("a value block can be invalid", invalid, here, there)
    ktap.check("a node leaves and comes back", rejoin, here, there)


main()
