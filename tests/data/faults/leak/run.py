#!/usr/bin/env python3
"""Binds and closes thousands of sockets: what the kernel's slab cannot give back grows by all of their names, or not."""

import socket
import time

SOCKETS, NAME = 8000, 100
LEAK_KIB = SOCKETS * NAME // 1024 // 2


def unreclaimable():
    """KiB of slab memory in use."""
    time.sleep(0.3)  # what waits for a grace period
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("SUnreclaim:"))


def bind_and_close():
    for number in range(SOCKETS):
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(f"\0{number:0{NAME}}")


bind_and_close()
sizes = [unreclaimable()]
for _ in range(2):
    bind_and_close()
    sizes.append(unreclaimable())
grew = [after - before for before, after in zip(sizes, sizes[1:])]
print("KTAP version 1\n1..1")
print(f"# SUnreclaim grew by {grew} KiB, {LEAK_KIB} are half of the names")
print("ok 1 - nothing leaks" if min(grew) < LEAK_KIB else "not ok 1 - nothing leaks")
