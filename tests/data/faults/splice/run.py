#!/usr/bin/env python3
"""200 bytes, spliced out as 99 and 101."""

import os
import socket

near, far = socket.socketpair()
near.send(bytes(range(200)))
out, into = os.pipe()
came = b""
for size in (99, 101):
    os.splice(far.fileno(), into, size)
    came += os.read(out, size)
print("KTAP version 1\n1..1")
print("ok 1 - spliced whole" if came == bytes(range(200)) else "not ok 1 - spliced whole")
