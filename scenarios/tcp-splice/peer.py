"""What both ends of the TCP scenario speak: a request of one line, then the data, then (one way) its sum.

A request is "put SIZE OFFSET SEED HOW" (the client sends, the other end receives HOW and answers with the
length and SHA-256 of what came) or "get SIZE OFFSET SEED HOW" (the other end answers "ready", then sends HOW).
"""

import os
import socket
import sys
import threading
import time

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import datafile

PORT = 7000
DEADLINE_S = 60 * float(os.environ.get("LAB_SCALE", "1"))
_FOLDER = os.environ.get("LAB_TMP", "/tmp")


def listen(address):
    """A listening socket."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, PORT))
    listener.listen(16)
    return listener


def serve(listener):
    """Answer requests from two threads, so that two can be under way."""
    for _ in range(2):
        threading.Thread(target=_serve, args=(listener,), daemon=True).start()


def _serve(listener):
    while True:
        sock, _ = listener.accept()
        # An error ends this connection; the client's check sees that and says so.
        with datafile.patient(sock, DEADLINE_S):
            try:
                _answer(sock)
            except (OSError, AssertionError) as error:
                print(f"request failed: {error}", file=sys.stderr, flush=True)


def _answer(sock):
    verb, size, offset, seed, how = _line(sock).split()
    if verb == "get":
        _send(sock, int(size), int(offset), int(seed), how, first=b"ready\n")
    else:
        got = datafile.receive(sock, int(size), how)
        sock.sendall(f"{len(got)} {datafile.digest(got)}\n".encode())


def put(address, size, offset, seed, sender, receiver):
    """Send to the other end, hold the sum that it answers with against the right one; returns seconds of sending."""
    with _connect(address) as sock:
        sock.sendall(f"put {size} {offset} {seed} {receiver}\n".encode())
        seconds = _send(sock, size, offset, seed, sender)
        length, sum_there = _line(sock).split()
    right = datafile.digest(_expected(size, offset, seed))
    if sum_there != right:
        raise AssertionError(f"{size} bytes: the other end got {length} bytes with sum {sum_there}, not {right}")
    return seconds


def get(address, size, offset, seed, sender, receiver):
    """Receive from the other end and compare; returns the seconds of receiving."""
    with _connect(address) as sock:
        sock.sendall(f"get {size} {offset} {seed} {sender}\n".encode())
        _line(sock)
        began = time.monotonic()
        got = datafile.receive(sock, size, receiver)
        seconds = time.monotonic() - began
    try:
        datafile.same(got, _expected(size, offset, seed))
    except AssertionError as error:
        raise AssertionError(f"{size} bytes: {error}") from None
    return seconds


def _connect(address):
    return datafile.patient(socket.create_connection((address, PORT)), DEADLINE_S)


def _expected(size, offset, seed):
    return memoryview(datafile.content(offset + size, seed))[offset:]


def _send(sock, size, offset, seed, how, first=b""):
    path = os.path.join(_FOLDER, f"tcp-{sock.fileno()}-{os.getpid()}")
    datafile.make(path, offset + size, seed)
    try:
        sock.sendall(first)
        began = time.monotonic()
        datafile.send(sock, path, offset, size, how)
        return time.monotonic() - began
    finally:
        os.unlink(path)


def _line(sock):
    """One line, read byte by byte: what follows it must stay in the socket for splice."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte:
            raise AssertionError("the other end closed the connection instead of answering")
        line += byte
    return line.decode()
