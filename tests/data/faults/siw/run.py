#!/usr/bin/python3
"""Two processes of one guest, over lo: a line by SEND, and the same one back."""

import os
import subprocess
import sys
import time

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
subprocess.run(["rdma", "link", "add", "siw0", "type", "siw", "netdev", "lo"], check=True)
while b"state ACTIVE" not in subprocess.run(["rdma", "link", "show", "siw0/1"], capture_output=True).stdout:
    time.sleep(0.1)

import verbs  # needs the device
from pyverbs import cm_enums
from pyverbs.cmid import CMID, AddrInfo

WHERE = "127.0.0.1"


def serve(ready):
    """Take one connection and send back what comes."""
    passive = AddrInfo(src=WHERE, src_service=verbs.PORT, port_space=verbs.TCP, flags=cm_enums.RAI_PASSIVE)
    listener = CMID(creator=passive)
    listener.listen(1)
    os.write(ready, b"x")
    connection = listener.get_request()
    link = verbs.Link(listener.context, listener.pd)
    link.await_line()
    connection.accept(link.parameters())
    link.send_line(*link.line())
    time.sleep(2)


def ask():
    """Send a line; what comes back."""
    connection = CMID(creator=AddrInfo(dst=WHERE, dst_service=verbs.PORT, port_space=verbs.TCP))
    link = verbs.Link(connection.context, connection.pd)
    link.await_line()
    connection.connect(link.parameters())
    time.sleep(0.5)  # soft-iWARP overlooks what arrives while it still answers the request for a connection
    link.send_line("there", "and", "back")
    return link.line()


listens, ready = os.pipe()
if not os.fork():
    serve(ready)
    os._exit(0)
os.read(listens, 1)
print("KTAP version 1\n1..1")
print("ok 1 - there and back" if ask() == ["there", "and", "back"] else "not ok 1 - there and back", flush=True)
os._exit(0)  # no teardown: the other end may be gone
