#!/usr/bin/python3
"""Two processes of one guest: data by SEND, and a line back.

By the address of a device that leads nowhere: the one of lo has no hardware address, which soft-iWARP is found by.
"""

import os
import subprocess
import sys
import time

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
WHERE = "10.9.8.7"
SIZE, SEED = 8192, 1  # what is short goes with its header, by another function
for words in (
    "ip link set lo up",
    "ip link add near type dummy",
    f"ip address add {WHERE}/24 dev near",
    "ip link set near up",
    "rdma link add siw0 type siw netdev near",
):
    subprocess.run(words.split(), check=True)
while b"state ACTIVE" not in subprocess.run(["rdma", "link", "show", "siw0/1"], capture_output=True).stdout:
    time.sleep(0.1)

import verbs  # needs the device
from pyverbs import cm_enums
from pyverbs.cmid import CMID, AddrInfo


def serve(ready):
    """Take one connection, and say that what comes is whole."""
    passive = AddrInfo(src=WHERE, src_service=verbs.PORT, port_space=verbs.TCP, flags=cm_enums.RAI_PASSIVE)
    listener = CMID(creator=passive)
    listener.listen(1)
    os.write(ready, b"x")
    connection = listener.get_request()
    link = verbs.Link(listener.context, listener.pd)
    link.await_data(0, SIZE)
    connection.accept(link.parameters())
    link.received()
    link.holds(0, SIZE, SEED)
    link.send_line("whole")
    time.sleep(2)


def ask():
    """Send the data; what comes back."""
    connection = CMID(creator=AddrInfo(dst=WHERE, dst_service=verbs.PORT, port_space=verbs.TCP))
    link = verbs.Link(connection.context, connection.pd)
    link.await_line()
    connection.connect(link.parameters())
    time.sleep(0.5)  # soft-iWARP overlooks what arrives while it still answers the request for a connection
    link.fill(0, SIZE, SEED)
    link.post(verbs.SEND, [(0, SIZE)])
    link.done()
    return link.line()


listens, ready = os.pipe()
if not os.fork():
    serve(ready)
    os._exit(0)
os.read(listens, 1)
print("KTAP version 1\n1..1")
print("ok 1 - it arrives whole" if ask() == ["whole"] else "not ok 1 - it arrives whole", flush=True)
os._exit(0)  # no teardown: the other end may be gone
