#!/usr/bin/python3
"""Sets up the server: listens, then goes to the background; returns once connections are taken."""

import os
import sys
import traceback

from pyverbs import cm_enums
from pyverbs.cmid import CMID, AddrInfo
from pyverbs.pyverbs_error import PyverbsError

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import background
import verbs
from verbs import datafile

IDLE_S = 2 * verbs.DEADLINE_S


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
        link.post(verbs.SEND, [(at, size)], flags=more[1])
        if more[1] == verbs.SIGNALLED:
            link.done()
    elif verb == "write":
        link.fill(at, size, more[0])
        link.post(verbs.WRITE, [(at, size)], there=more[1], flags=verbs.UNSIGNALLED)
        link.send_line("written")


def serve(listener):
    """Take one connection, and answer until it ends.  What goes wrong in it, the client sees as well, and says so."""
    connection = listener.get_request()
    link = verbs.Link(listener.context, listener.pd)
    try:
        link.await_line()
        connection.accept(link.parameters())
        while True:
            verb, *words = link.line(IDLE_S)
            answer(link, verb, words)
    except verbs.Closed:
        pass
    except (AssertionError, PyverbsError) as error:
        print(error, file=sys.stderr, flush=True)
    link.close()
    connection.close()


def main():
    verbs.use_mtu(verbs.LARGE_MTU)
    listens = background.detach_first()  # first: what RDMA's devices are opened with is of no use to a child
    address = AddrInfo(
        src=os.environ["LAB_SERVER"], src_service=verbs.PORT, port_space=verbs.TCP, flags=cm_enums.RAI_PASSIVE
    )
    try:
        listener = CMID(creator=address)
        listener.listen(1)
        listens()
        while True:
            serve(listener)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


main()
