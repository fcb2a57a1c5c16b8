"""What both ends of the kTLS scenario speak: a request of one line, an answer of one line, then TLS records.

A request is "VERB SIZE OFFSET SEED HOW VERSION SUITE"; the answer is "ready", or "lacking" and what.
- put: the client sends records, the server takes them HOW, then answers in plain text with length and SHA-256;
- get: the server sends a part of a file HOW;
- steps: the server sends as the steps HOW say (`steps`), and keeps the connection until the client says something,
  except where the steps close it;
- both: put and get at the same time.
"""

import os
import socket
import sys
import threading

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import datafile
import exchange
import ktap
import records
import steps

PORT = 7001
DEADLINE_S = 20 * float(os.environ.get("LAB_SCALE", "1"))
_FOLDER = os.environ.get("LAB_TMP", "/tmp")
READY = "ready"
BACK = 5000
"""What is added to a seed for the data that comes back at the same time."""


def listen(address):
    """A listening socket."""
    return exchange.listen(address, PORT)


def serve(listener):
    """Answer one request after the other."""
    exchange.serve(listener, _answer, DEADLINE_S)


def connect(verb, size, offset, seed, how, kind):
    """The client's end of a connection on which the server is ready for the records."""
    sock = datafile.patient(socket.create_connection((os.environ["LAB_SERVER"], PORT)), DEADLINE_S)
    try:
        sock.sendall(f"{verb} {size} {offset} {seed} {how} {kind[0]} {kind[1]}\n".encode())
        answer = exchange.line(sock)
        if answer != READY:
            raise ktap.Skip(f"server: {answer}")
    except BaseException:
        sock.close()
        raise
    return sock


def _answer(sock):
    verb, size, offset, seed, how, version, suite = exchange.line(sock).split()
    size, offset, seed = int(size), int(offset), int(seed)
    with File(size, offset, seed + BACK if verb == "both" else seed) as path:
        # What goes back in plain text comes before the keys for sending.
        try:
            records.attach(sock)
            if verb in {"put", "both"}:
                records.Stream(version, suite, seed).install(sock, records.TLS_RX)
            sock.sendall(f"{READY}\n".encode())
        except records.Lacking as what:
            sock.sendall(f"lacking {what}\n".encode())
            return
        if verb != "put":
            records.Stream(version, suite, seed + BACK).install(sock, records.TLS_TX)
        if verb == "put":
            got = datafile.receive(sock, size, how)
            sock.sendall(f"{len(got)} {datafile.digest(got)}\n".encode())
        elif verb == "get":
            datafile.send(sock, path, offset, size, how)
            # Until the client has all: to a stream that has ended, no upper layer can be attached any more.
            sock.recv(1)
        elif verb == "both":
            sender = threading.Thread(target=datafile.send, args=(sock, path, offset, size, "sendfile"))
            sender.start()
            got = datafile.receive(sock, size, how)
            sender.join()
            sock.sendall(f"{len(got)} {datafile.digest(got)}\n".encode())
        elif steps.take(sock, path, steps.parse(how)):
            # What is still in an open record must not be pushed by closing the connection.
            sock.recv(1)


class File:
    """A file with what is sent, there for a while."""

    def __init__(self, size, offset, seed):
        self._path = os.path.join(_FOLDER, f"ktls-{os.getpid()}-{threading.get_ident()}")
        self._make = (offset + size, seed)

    def __enter__(self):
        datafile.make(self._path, *self._make)
        return self._path

    def __exit__(self, *_):
        os.unlink(self._path)
