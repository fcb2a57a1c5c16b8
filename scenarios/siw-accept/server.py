#!/usr/bin/python3
"""Sets up the server: on each connection it takes one line and sends it back; in the background, once it listens."""

import os
import sys
import traceback

from pyverbs import cm_enums
from pyverbs.cmid import CMID, AddrInfo

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import background
import verbs

LINGER_S = 0.1
WAIT_S = 2 * float(os.environ.get("LAB_SCALE", "1"))


def serve(listener):
    """One connection: an echo, or nothing where nothing comes before the client gives up."""
    connection = listener.get_request()
    link = verbs.Link(listener.context, listener.pd)
    try:
        link.await_line()
        connection.accept(link.parameters())
        link.send_line(*link.line(WAIT_S))
        link.line(LINGER_S)  # an end that comes before the client's could take the answer with it
    except AssertionError as error:
        print(error, file=sys.stderr, flush=True)
    link.close()
    connection.close()


def listen(listens):
    """Take connections for ever."""
    address = AddrInfo(
        src=os.environ["LAB_SERVER"], src_service=verbs.PORT, port_space=verbs.TCP, flags=cm_enums.RAI_PASSIVE
    )
    listener = CMID(creator=address)
    listener.listen(1)
    listens()
    while True:
        serve(listener)


def main():
    verbs.take_packets_at_once()
    listens = background.detach_first()
    try:
        listen(listens)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


main()
