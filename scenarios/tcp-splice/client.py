#!/usr/bin/python3
"""TCP streams by sendfile and splice over IPv4 and IPv6: between guests, into a network namespace, and on lo.

Between the guests the data goes through a device that takes pages as they are, and once more with scatter-gather
switched off: TCP may still gather pages, which are then copied before they reach the device.
"""

import os
import subprocess
import sys
import threading

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import datafile
import ktap
import netns
import tcppeer as peer

LONG = 8 << 20
SHORTER = 2 << 20
SMALL = 65536 + 13
OFFSETS = (0, 4093)
# how it is sent, how it is received
WAYS = (("sendfile", "recv"), ("splice", "splice"))
DIRECTIONS = {", to the server": peer.put, ", from the server": peer.get}
SERVER_V6, FAR, FAR_V6 = "fd77::1", "10.78.0.1", "fd78::1"


def sizes_at(transfer, address, offset, sender, receiver):
    """All sizes, each with a seed and a connection of its own."""
    for number, size in enumerate(datafile.SIZES):
        transfer(address, size, offset, 1000 * offset + number + 1, sender, receiver)


def both_at_once(address):
    """A stream each way at the same time."""
    failures = []

    def back():
        try:
            peer.get(address, LONG // 2, 5, 101, "sendfile", "recv")
        except (OSError, AssertionError) as error:
            failures.append(error)

    thread = threading.Thread(target=back)
    thread.start()
    try:
        peer.put(address, LONG // 2, 5, 100, "sendfile", "recv")
    finally:
        thread.join()
    if failures:
        raise failures[0]


def thorough(where, address, label, directions):
    """All sizes at both offsets, and a long stream with its speed, both ways of sending."""
    for direction, transfer in directions.items():
        for sender, receiver in WAYS:
            title = f"{where}: {sender} to {receiver}{direction}"
            for offset in OFFSETS:
                ktap.check(
                    f"{title}, all sizes, file offset {offset}", sizes_at, transfer, address, offset, sender, receiver
                )
            seconds = ktap.check(f"{title}, {LONG >> 20} MiB", transfer, address, LONG, 1, 99, sender, receiver)
            if seconds:
                name = f"tcp_{label}_{transfer.__name__}_{sender}_{receiver}"
                ktap.metric(name, LONG / (1 << 20) / seconds, "MiB/s", "higher")


def brief(where, address, transfer=peer.put):
    """All sizes one way, and a shorter stream the other way."""
    title = f"{where}: splice to splice, all sizes, file offset 4093"
    ktap.check(title, sizes_at, transfer, address, 4093, "splice", "splice")
    title = f"{where}: sendfile to recv, {SHORTER >> 20} MiB"
    ktap.check(title, transfer, address, SHORTER, 1, 98, "sendfile", "recv")


def odd(where, address, transfer=peer.put):
    """Pieces of a few bytes, and pages of the file beside pages of the sender's memory."""
    ktap.check(f"{where}: splices of 1 to 100 bytes", transfer, address, SMALL, 3, 97, "small splices", "recv")
    ktap.check(
        f"{where}: MSG_ZEROCOPY, splice, sendfile and write take turns",
        transfer,
        address,
        SHORTER // 4,
        7,
        96,
        "MSG_ZEROCOPY and splice",
        "recv",
    )


def scatter_gather(switch):
    """Switch whether the device takes packets made of pages."""
    done = subprocess.run(["ethtool", "-K", "br0", "sg", switch], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"ethtool cannot switch scatter-gather {switch}: {done.stderr.strip()}")


def main():
    ktap.plan(3 * 6 + 1 + 8 * 2 + 8 * 2 + 2)
    server = os.environ["LAB_SERVER"]
    thorough("between guests, IPv4", server, "net", DIRECTIONS)
    ktap.check("between guests, IPv4: both directions at once", both_at_once, server)
    brief("between guests, IPv6, to the server", SERVER_V6)
    brief("between guests, IPv6, from the server", SERVER_V6, peer.get)
    odd("between guests, IPv4, to the server", server)
    odd("between guests, IPv4, from the server", server, peer.get)
    odd("between guests, IPv6, to the server", SERVER_V6)
    ktap.check("scatter-gather off", scatter_gather, "off")
    for name, address in (("IPv4", server), ("IPv6", SERVER_V6)):
        brief(f"no scatter-gather, {name}", address)
        odd(f"no scatter-gather, {name}", address)
    ktap.check("scatter-gather on", scatter_gather, "on")
    brief("scatter-gather again, IPv4", server)
    netns.run_in("far", lambda: peer.serve(peer.listen()), peer.DEADLINE_S)
    for name, address in (("IPv4", FAR), ("IPv6", FAR_V6)):
        brief(f"veth, {name}", address)
        odd(f"veth, {name}", address)
    peer.serve(peer.listen())
    thorough("lo, IPv4", "127.0.0.1", "lo", {"": peer.put})
    brief("lo, IPv6", "::1")
    odd("lo, IPv4", "127.0.0.1")


main()
