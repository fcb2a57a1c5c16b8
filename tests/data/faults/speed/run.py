#!/usr/bin/env python3
"""The best of many rounds, so that whatever else the guest does is not in it."""

import socket
import time

near, far = socket.socketpair()
data = bytes(4096)
best = 1e9
for _ in range(30):
    began = time.monotonic_ns()
    for _ in range(20):
        near.send(data)
        far.recv(4096)
    best = min(best, time.monotonic_ns() - began)
print("KTAP version 1\n1..1\nok 1 - it runs")
print(f"metric unix_stream {best / 20:.1f} ns lower")
