#!/usr/bin/python3
"""The server's end, through libcephfs and so without the kernel's client: `make` files, or `check` the client's."""

import os
import sys

import cephfs
import files
from files import datafile


def put(share, name, data):
    """Make a file."""
    file = share.open(f"/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    done = 0
    while done < len(data):
        done += share.write(file, bytes(data[done:]), done)
    share.fsync(file, 0)
    share.close(file)


def get(share, name):
    """What is in a file."""
    file = share.open(f"/{name}", os.O_RDONLY)
    size, parts, done = share.fstat(file).st_size, [], 0
    while done < size:
        part = share.read(file, done, min(size - done, 1 << 20))
        if not part:
            break
        parts.append(part)
        done += len(part)
    share.close(file)
    return b"".join(parts)


def check(share):
    """Compare every file that the client wrote."""
    wrong = []
    for name, size, seed in files.all_written():
        try:
            datafile.same(get(share, name), datafile.content(size, seed))
        except (AssertionError, cephfs.Error) as error:
            wrong.append(f"{name}: {error}")
    if wrong:
        raise SystemExit("\n".join(wrong))


share = cephfs.LibCephFS(conffile="/etc/ceph/ceph.conf")
share.mount()
if sys.argv[1] == "make":
    for name, size, seed in files.SERVED:
        put(share, name, datafile.sent(size, seed))
else:
    check(share)
share.shutdown()
