#!/usr/bin/python3
"""The checks of every network file system, and then many readers and writers at once on one TCP connection."""

import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.environ["LAB_LIB"])
import datafile
import filecheck

FOLDERS = ("/mnt/share", "/mnt/second")
WORKERS = 4
SIZE = datafile.SIZES[-1]
DEADLINE_S = 40 * float(os.environ.get("LAB_SCALE", "1"))


def work(number):
    """Write a file through one mount, read it back through the other, and one of the server's with it."""
    here, there = FOLDERS[number % 2], FOLDERS[1 - number % 2]
    way = filecheck.WRITERS[("write", "write with O_DIRECT")[number // 2 % 2]]
    name, seed = f"worker-{number}", 900 + number
    way(os.path.join(here, name), datafile.sent(SIZE, seed))
    datafile.same(filecheck.read_direct(os.path.join(there, name), SIZE), datafile.content(SIZE, seed))
    name, size, seed = next(one for one in filecheck.SERVED if one[1] == SIZE)
    datafile.same(filecheck.read_direct(os.path.join(here, name), size), datafile.content(size, seed))


def at_once():
    """All workers at the same time, each in a process of its own."""
    mount = dict(os.environ, LAB_OPTIONS="nosharecache")  # a mount of its own, and yet the same connection
    subprocess.run(["./mount.sh", FOLDERS[1]], check=True, env=mount, stdout=subprocess.DEVNULL)
    reader, writer = os.pipe()
    children = [start(work, number, writer) for number in range(WORKERS)]
    os.close(writer)
    end = time.monotonic() + DEADLINE_S
    while children and time.monotonic() < end:
        children = [child for child in children if not os.waitpid(child, os.WNOHANG)[0]]
        time.sleep(0.05)
    for child in children:
        os.kill(child, signal.SIGKILL)
    if children:
        raise AssertionError(f"{len(children)} of {WORKERS} did not end within {DEADLINE_S:g} s")
    if said := os.read(reader, 1 << 16).decode():
        raise AssertionError(said)
    connections = to_server()
    subprocess.run(["umount", FOLDERS[1]], check=True)
    if connections != 1:
        raise AssertionError(f"{connections} connections to the server instead of one")


def start(function, number, complaints):
    """Run a function in a child; what goes wrong is written to the pipe."""
    if child := os.fork():
        return child
    try:
        function(number)
    except (AssertionError, OSError) as error:
        os.write(complaints, f"worker {number}: {error}\n".encode())
    finally:
        os._exit(0)


def to_server():
    """How many TCP connections to an NFS server there are."""
    with open("/proc/net/tcp") as table:
        lines = [line.split() for line in table][1:]
    established, port = "01", f":{2049:04X}"
    return sum(fields[2].endswith(port) and fields[3] == established for fields in lines)


filecheck.run(FOLDERS[0], ["./mount.sh"], [(f"{WORKERS} readers and writers at once on one connection", at_once)])
