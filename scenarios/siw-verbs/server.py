#!/usr/bin/python3
"""Sets up the server: listens, then goes to the background; returns once connections are taken."""

import os
import sys
import traceback

import peer
from peer import datafile
from pyverbs import cm_enums
from pyverbs.cmid import CMID, AddrInfo
from pyverbs.pyverbs_error import PyverbsError

IDLE_S = 2 * peer.DEADLINE_S
LOG = os.path.join(os.environ["LAB_ATTACH"], "server.log")


def answer(link, verb, words):
    """Do what one line asks for."""
    if verb == "area":
        link.far(*words)
        link.await_line()
        link.send_line(link.area.buf, link.area.rkey)
        return
    at, size, *more = (int(word) for word in words)
    if verb == "take":
        link.await_data(at, size)
        link.await_line()
        link.send_line("ready")
        link.send_line(link.received())
        return
    link.await_line()
    if verb == "sum":
        link.send_line(datafile.digest(link.area.read(size, at)))
    elif verb == "fill":
        link.fill(at, size, more[0])
        link.send_line("ready")
    elif verb == "give":
        link.fill(at, size, more[0])
        link.post(peer.SEND, [(at, size)], flags=more[1])
        if more[1] == peer.SIGNALLED:
            link.done()
    elif verb == "write":
        link.fill(at, size, more[0])
        link.post(peer.WRITE, [(at, size)], there=more[1], flags=peer.UNSIGNALLED)
        link.send_line("written")


def serve(listener):
    """Take one connection, and answer until it ends.  What goes wrong in it, the client sees as well, and says so."""
    connection = listener.get_request()
    link = peer.Link(listener.context, listener.pd)
    try:
        link.await_line()
        connection.accept(link.parameters())
        while True:
            verb, *words = link.line(IDLE_S)
            answer(link, verb, words)
    except peer.Closed:
        pass
    except (AssertionError, PyverbsError) as error:
        print(error, file=sys.stderr, flush=True)
    link.close()
    connection.close()


def background():
    """Go on as a child; the parent ends once the child has listened, with its status."""
    ready, told = os.pipe()
    if child := os.fork():
        with open("server.pid", "w") as file:
            file.write(str(child))
        os.close(told)
        if not os.read(ready, 1):
            with open(LOG) as file:
                raise SystemExit(file.read())
        raise SystemExit
    os.setsid()
    log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for descriptor in (0, 1, 2):
        os.dup2(log, descriptor)
    return told


def main():
    peer.use_mtu(peer.LARGE_MTU)
    told = background()  # first: what RDMA's devices are opened with is of no use to a child
    address = AddrInfo(
        src=os.environ["LAB_SERVER"], src_service=peer.PORT, port_space=peer.TCP, flags=cm_enums.RAI_PASSIVE
    )
    try:
        listener = CMID(creator=address)
        listener.listen(1)
        os.write(told, b"1")
        while True:
            serve(listener)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


main()
