"""What both ends of the kTLS scenario speak: a request of one line, an answer of one line, then TLS records.

A request is "VERB SIZE OFFSET SEED HOW VERSION SUITE"; the answer is "ready", or "lacking" and what.
- put: the client sends records, the server takes them HOW, then answers in plain text with length and SHA-256;
- get: the server sends a part of a file HOW;
- mix, eof, cork, kind: the server sends as `SPECIAL` says;
- both: put and get at the same time.
"""

import os
import socket
import sys
import threading

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import datafile
import exchange
import records

PORT = 7001
DEADLINE_S = 20 * float(os.environ.get("LAB_SCALE", "1"))
_FOLDER = os.environ.get("LAB_TMP", "/tmp")
BACK = 5000
"""What is added to a seed for the data that comes back at the same time."""
PARTS = ((13, "write"), (4097, "sendfile"), (1, "write"), (65537, "splice"), (4095, "sendfile"), (7, "sendfile"))
CORKED = (1, 100, 3000, 7, 9000)


def listen(address):
    """A listening socket."""
    return exchange.listen(address, PORT)


def serve(listener):
    """Answer one request after the other."""
    exchange.serve(listener, _answer, DEADLINE_S)


def _answer(sock):
    verb, size, offset, seed, how, version, suite = exchange.line(sock).split()
    size, offset, seed = int(size), int(offset), int(seed)
    with File(size, offset, seed + BACK if verb == "both" else seed) as path:
        # What goes back in plain text comes before the keys for sending.
        try:
            records.attach(sock)
            if verb in {"put", "both"}:
                records.Stream(version, suite, seed).install(sock, records.TLS_RX)
            sock.sendall(b"ready\n")
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
        else:
            SPECIAL[verb](sock, path, size, seed)
            # The connection stays: what is still in an open record must not be pushed by closing it.
            sock.recv(1)


def _send_mix(sock, path, _size, _seed):
    """write, sendfile and splice take turns."""
    at = 0
    for size, how in PARTS:
        datafile.send(sock, path, at, size, how)
        at += size


def _send_eof(sock, path, size, _seed):
    """sendfile of more than the file has."""
    with open(path, "rb", buffering=0) as file:
        done = os.sendfile(sock.fileno(), file.fileno(), 0, size + (1 << 20))
    if done != size:
        raise AssertionError(f"sendfile took {done} bytes of {size}")


def _send_cork(sock, _path, size, seed):
    """Small parts with MSG_MORE, a last one without."""
    data, at = datafile.sent(size, seed), 0
    for part in CORKED:
        sock.sendall(data[at : at + part], socket.MSG_MORE if at + part < size else 0)
        at += part


def _send_kind(sock, path, size, _seed):
    """Data by splice with more to come, a record of another type, the rest of the data."""
    reader, writer = os.pipe()
    with open(path, "rb", buffering=0) as file:
        os.splice(file.fileno(), writer, 5000, offset_src=0)
        done = os.splice(reader, sock.fileno(), 5000, flags=os.SPLICE_F_MORE)
    os.close(reader)
    os.close(writer)
    records.send_kind(sock, b"not data", records.HANDSHAKE)
    datafile.send(sock, path, done, size - done, "sendfile")


SPECIAL = {"mix": _send_mix, "eof": _send_eof, "cork": _send_cork, "kind": _send_kind}


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
