#!/usr/bin/python3
"""Many connections, one after the other; on each the client sends at once, and waits for the echo.

The server's siw_accept() sends its reply before the socket is the queue pair's own (siw_qp_socket_assoc): what comes
in between is not looked at until more comes. A client that waits for an answer first, as NFS and SMB Direct do, then
waits for ever.
"""

import os
import sys

from pyverbs.cmid import CMID, AddrInfo

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import verbs

import ktap

ROUNDS = 60
WAIT_S = 2 * float(os.environ.get("LAB_SCALE", "1"))
BROKEN = "x" if os.environ.get("LAB_BREAK") else ""


def echo(number):
    """One connection: the first line is taken, and comes back as it was."""
    address = AddrInfo(dst=os.environ["LAB_SERVER"], dst_service=verbs.PORT, port_space=verbs.TCP)
    connection = CMID(creator=address)
    link = verbs.Link(connection.context, connection.pd)
    connection.connect(link.parameters())
    link.await_line()
    link.send_line(f"line-{number}{BROKEN}")
    try:
        (came,) = link.line(WAIT_S)
    except verbs.Late:
        raise AssertionError(
            f"the server overlooked the first message of connection {number} of {ROUNDS} for {WAIT_S:g} s"
        ) from None
    if came != f"line-{number}":
        raise AssertionError(f"connection {number}: {came} came back")
    connection.disconnect()
    link.close()
    connection.close()


def all_taken():
    """Every first line is taken; the first that is not ends it, since taking down such a connection may hang."""
    for number in range(1, ROUNDS + 1):
        echo(number)


verbs.take_packets_at_once()
ktap.plan(1)
ktap.check(f"the first message of each of {ROUNDS} connections is taken", all_taken)
os._exit(0)  # a connection that was left half-way is not waited for
