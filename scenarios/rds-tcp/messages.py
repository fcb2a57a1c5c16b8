"""What both ends of the RDS scenario speak: every message is a header (verb, seed, size), then perhaps data.

"put ": that many bytes follow; the answer is their length and SHA-256.
"part": the same, one of a sequence, and there is no answer; "sums" asks for the sum of all parts since the last one.
"get ": the answer is data of that seed and size.
"many": the answers are messages of up to CHUNK bytes, which together are data of that seed and size.
"""

import errno
import hashlib
import os
import socket
import struct
import sys
import time

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import datafile

PORT = 4000
LARGEST = 1 << 20  # RDS takes no larger message
CHUNK = 65537 - 17
DEADLINE_S = 20 * float(os.environ.get("LAB_SCALE", "1"))
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
HEADER = struct.Struct("!4sIQ")


def endpoint(address, port):
    """A socket that takes messages of the largest size."""
    sock = socket.socket(socket.AF_RDS, socket.SOCK_SEQPACKET)
    # A message must fit into half of the buffer.
    for option in (SO_SNDBUFFORCE, SO_RCVBUFFORCE):
        sock.setsockopt(socket.SOL_SOCKET, option, 4 * LARGEST)
    sock.bind((address, port))
    return sock


def send(sock, where, buffers, control=(), flags=0):
    """Send one message; the connection may be coming up, the receiver congested: both pass."""
    end = time.monotonic() + DEADLINE_S
    while True:
        try:
            done = sock.sendmsg(buffers, control, flags | socket.MSG_DONTWAIT, where)
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.ENOBUFS} or time.monotonic() > end:
                raise
            time.sleep(0.002)
            continue
        if done != sum(map(len, buffers)):
            raise AssertionError(f"a message of {sum(map(len, buffers))} bytes went out as {done}")
        return


def serve(sock):
    """Answer for ever."""
    parts, length = hashlib.sha256(), 0
    while True:
        message, _, _, where = sock.recvmsg(LARGEST, 256)
        verb, seed, size = HEADER.unpack_from(message)
        data = memoryview(message)[HEADER.size :]
        if verb == b"put ":
            send(sock, where, [f"{len(data)} {datafile.digest(data)}".encode()])
        elif verb == b"part":
            parts.update(data)
            length += len(data)
        elif verb == b"sums":
            send(sock, where, [f"{length} {parts.hexdigest()}".encode()])
            parts, length = hashlib.sha256(), 0
        else:
            chunk = CHUNK if verb == b"many" else size
            view = memoryview(datafile.sent(size, seed))
            for start in range(0, size, chunk):
                send(sock, where, [view[start : start + chunk]])
