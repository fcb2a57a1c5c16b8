#!/usr/bin/python3
"""TCP streams by sendfile and splice: to the server, from the server, and on lo."""

import os
import threading

import peer
from peer import datafile

import ktap

LONG = 16 << 20
OFFSETS = (0, 4093)
# how it is sent, how it is received
WAYS = (("sendfile", "recv"), ("splice", "splice"))
DIRECTIONS = {"to the server": peer.put, "from the server": peer.get}


def sizes_at(transfer, address, offset, sender, receiver):
    """All sizes, each with a seed and a connection of its own."""
    for number, size in enumerate(datafile.SIZES):
        transfer(address, size, offset, 1000 * offset + number + 1, sender, receiver)


def both_at_once(address):
    """A stream each way at the same time."""
    failures = []

    def back():
        try:
            peer.get(address, LONG // 4, 5, 101, "sendfile", "recv")
        except (OSError, AssertionError) as error:
            failures.append(error)

    thread = threading.Thread(target=back)
    thread.start()
    try:
        peer.put(address, LONG // 4, 5, 100, "sendfile", "recv")
    finally:
        thread.join()
    if failures:
        raise failures[0]


def checks(where, address, label):
    """All checks against one peer."""
    for direction, transfer in DIRECTIONS.items():
        for sender, receiver in WAYS:
            title = f"{where}: {sender} to {receiver}, {direction}"
            for offset in OFFSETS:
                ktap.check(
                    f"{title}, all sizes, file offset {offset}", sizes_at, transfer, address, offset, sender, receiver
                )
            seconds = ktap.check(f"{title}, {LONG >> 20} MiB", transfer, address, LONG, 1, 99, sender, receiver)
            if seconds:
                name = f"tcp_{label}_{transfer.__name__}_{sender}_{receiver}"
                ktap.metric(name, LONG / (1 << 20) / seconds, "MiB/s", "higher")


def main():
    ktap.plan(2 * len(DIRECTIONS) * len(WAYS) * (len(OFFSETS) + 1) + 1)
    server = os.environ["LAB_SERVER"]
    checks("between guests", server, "net")
    ktap.check("between guests: both directions at once", both_at_once, server)
    peer.serve(peer.listen("127.0.0.1"))
    checks("lo", "127.0.0.1", "lo")


main()
