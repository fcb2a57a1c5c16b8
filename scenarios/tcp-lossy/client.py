#!/usr/bin/python3
"""Spliced pages over a link that loses, repeats and reorders; and pages that are sent again once their file has changed.

TCP keeps the pages and not their bytes: what it sends again is what the page holds then.  So for a file that was changed
all that is promised is the length, and that each byte is one that the file had at this place.
"""

import os
import socket
import subprocess
import sys

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import changed
import datafile
import exchange
import ktap
import splicecalls
import tcpinfo
import tcppeer

SERVER = os.environ["LAB_SERVER"]
FILE = os.path.join(os.environ.get("LAB_TMP", "/tmp"), "resent")
LONG = (1 << 20) + 13
SMALL = 65536 + 13
WAYS = (("sendfile", "recv"), ("splice", "splice"), ("MSG_ZEROCOPY and splice", "recv"))
DIRECTIONS = {"to the server": tcppeer.put, "from the server": tcppeer.get}
QUEUED = 12 * datafile.PAGE + 5  # fits into a socket while nothing is acknowledged
HOLE = 3 * datafile.PAGE + 100, 2 * datafile.PAGE


def run(*words):
    """Run a program, which must succeed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{' '.join(words)}: {done.stderr.strip()}")


def link(*how):
    """Make this end's way to the server such a one."""
    run("tc", "qdisc", "change", "dev", "br0", "root", "netem", *how)


def sent(transfer, *arguments):
    """A transfer; how fast it is says nothing here."""
    transfer(*arguments)


def resent(transfer, *arguments):
    """A transfer in which this guest sent packets again."""
    before = _retransmitted()
    sent(transfer, *arguments)
    if _retransmitted() == before:
        raise AssertionError("TCP sent no packet again: the link was too good to test anything")


def _retransmitted():
    """How many segments this guest's TCP has sent again (RFC 4022's RetransSegs)."""
    with open("/proc/net/snmp") as file:
        names, values = (line.split() for line in file if line.startswith("Tcp:"))
    return int(values[names.index("RetransSegs")])


def overwrite(path, new):
    """Other bytes in the same place."""
    with open(path, "r+b", buffering=0) as file:
        file.write(datafile.sent(QUEUED, new))


def cut(path, _new):
    """A file without any bytes."""
    os.truncate(path, 0)


def cut_in_page(path, _new):
    """A file that ends in the middle of a page that is under way."""
    os.truncate(path, datafile.PAGE + 1000)


def cut_and_write(path, new):
    """A file that was cut short, and then written anew."""
    os.truncate(path, 0)
    overwrite(path, new)


def punch(path, _new):
    """A hole, which begins and ends in the middle of pages."""
    with open(path, "r+b", buffering=0) as file:
        splicecalls.punch_hole(file.fileno(), *HOLE)


def remove(path, _new):
    """Nobody has the file any more."""
    os.unlink(path)


def unchanged(_path, _new):
    """The file as it was."""


CHANGES = {
    "not changed": (unchanged, False),
    "removed": (remove, False),
    "overwritten": (overwrite, False),
    "cut to nothing": (cut, True),
    "cut in the middle of a page": (cut_in_page, True),
    "cut to nothing and written again": (cut_and_write, True),
    "punched": (punch, True),
}
"""What happens to the file, and whether zeroes may arrive."""


def send_again(change, zeroes, how, seed):
    """All that is sent gets lost until the file has been changed; then the link is good."""
    new = seed if change in {unchanged, remove} else seed + 1
    datafile.make(FILE, QUEUED, seed)
    with tcppeer.connect(SERVER) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * QUEUED)  # or it waits for acknowledgements
        sock.sendall(changed.request(QUEUED, seed, new, zeroes=zeroes))
        exchange.line(sock)
        try:
            link("loss", "100%")
            datafile.send(sock, FILE, 0, QUEUED, how)
            change(FILE, new)
        finally:
            link("delay", "1ms")
        if (verdict := exchange.line(sock)) != "right":
            raise AssertionError(verdict)
        if not tcpinfo.counts(sock).resent:
            raise AssertionError("TCP sent nothing again: the file was changed too late")


def main():
    ktap.plan(len(WAYS) * len(DIRECTIONS) + 1 + 2 * len(CHANGES))
    seeds = iter(range(500, 600, 2))
    for sender, receiver in WAYS:
        for direction, transfer in DIRECTIONS.items():
            title = f"a bad link: {sender} to {receiver}, {direction}"
            check = resent if transfer is tcppeer.put else sent
            ktap.check(title, check, transfer, SERVER, LONG, 4093, next(seeds), sender, receiver)
    how = tcppeer.put, SERVER, SMALL, 3, next(seeds), "small splices", "recv"
    # too few packets to be sure that one is lost
    ktap.check("a bad link: splices of 1 to 100 bytes, to the server", sent, *how)
    run("ethtool", "-K", "br0", "tso", "on", "gso", "on")
    for name, (change, zeroes) in CHANGES.items():
        for how in "sendfile", "splice":
            ktap.check(f"sent again, the file {name}: {how}", send_again, change, zeroes, how, next(seeds))


main()
