"""Streams between two ends: a request of one line, then the data, then (one way) its sum.

A request is "put SIZE OFFSET SEED HOW" (the asking end sends, the other receives HOW and answers with the length and
SHA-256 of what came) or "get SIZE OFFSET SEED HOW" (the other end answers "ready", then sends HOW; told that all has
come, it answers with what sending has changed in its file, or an empty line).
"""

import os
import socket
import threading
import time

import datafile
import sources
import tcpinfo

_FOLDER = os.environ.get("LAB_TMP", "/tmp")


def listen(address, port, sock=None):
    """A listening socket; `sock`: a new one of another kind than IPv4's TCP."""
    listener = sock or socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(16)
    return listener


def serve(listener, answer, deadline_s, threads=1):
    """Call `answer` with each connection, from so many threads, in the network namespace of the calling one."""
    for _ in range(threads):
        threading.Thread(target=_serve, args=(listener, answer, deadline_s), daemon=True).start()


def _serve(listener, answer, deadline_s):
    while True:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:  # a listener with a deadline of its own
            continue
        # An error ends this connection; the client's check sees that and says so.
        with datafile.patient(sock, deadline_s):
            try:
                answer(sock)
            except (OSError, AssertionError) as error:
                os.write(2, f"request failed: {error}\n".encode())


def line(sock):
    """One line, read byte by byte: what follows it must stay in the socket for splice."""
    data = bytearray()
    while not data.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte:
            raise AssertionError("the other end closed the connection instead of answering")
        data += byte
    return data[:-1].decode()


def answer(sock, request, senders=None):
    """Do what a request asks for; `senders`: more ways than `datafile.send` has, name -> f(sock, path, offset, size)."""
    verb, size, offset, seed, how = request.split(maxsplit=4)
    if verb == "get":
        _send(sock, int(size), int(offset), int(seed), how, senders, first=b"ready\n")
        line(sock)  # until then pages of the file may be under way
        sock.sendall(f"{_changed()}\n".encode())
    else:
        got = datafile.receive(sock, int(size), how)
        sock.sendall(f"{len(got)} {datafile.digest(got)}\n".encode())


def put(sock, size, offset, seed, sender, receiver, senders=None):
    """Send to the other end, and hold the sum that it answers with against the right one.

    Returns:
        Seconds of sending, and seconds until the answer, the making of the file among them.
    """
    request = f"put {size} {offset} {seed} {receiver}\n".encode()
    before = _tcp_counts(sock)
    sock.sendall(request)
    began = time.monotonic()
    sending = _send(sock, size, offset, seed, sender, senders)
    length, sum_there = line(sock).split()
    answered = time.monotonic() - began
    right = datafile.digest(_expected(size, offset, seed))
    if sum_there != right:
        raise AssertionError(f"{size} bytes: the other end got {length} bytes with sum {sum_there}, not {right}")
    _compare_counts(before, _tcp_counts(sock), len(request) + size)
    return sending, answered


def _is_tcp(sock):
    """Whether TCP carries the data, as the kernel says: Python says AF_INET of an SMC socket too."""
    domain, protocol = (sock.getsockopt(socket.SOL_SOCKET, option) for option in (socket.SO_DOMAIN, socket.SO_PROTOCOL))
    return domain in {socket.AF_INET, socket.AF_INET6} and protocol == socket.IPPROTO_TCP


def _tcp_counts(sock):
    """What TCP counts of a connection; None for other sockets.

    What was sent before may still be on its way: SMC that falls back to TCP says so in 28 bytes, and gets no answer.
    """
    if not _is_tcp(sock):
        return None
    for _ in range(200):
        counts = tcpinfo.counts(sock)
        if not counts.unacknowledged_packets:
            break
        time.sleep(0.01)
    return counts


def _compare_counts(before, now, sent):
    """Once the other end has answered, all that was sent is acknowledged."""
    if before and (counted := now.acknowledged - before.acknowledged) != sent:
        raise AssertionError(f"TCP counts {counted} bytes as acknowledged, {sent} were sent")


def get(sock, size, offset, seed, sender, receiver):
    """Receive from the other end and compare; returns the seconds of receiving."""
    sock.sendall(f"get {size} {offset} {seed} {sender}\n".encode())
    line(sock)
    began = time.monotonic()
    got = datafile.receive(sock, size, receiver)
    seconds = time.monotonic() - began
    try:
        datafile.same(got, _expected(size, offset, seed))
        sock.sendall(b"got it\n")
        if changed := line(sock):
            raise AssertionError(f"at the other end, {changed}")
    except AssertionError as error:
        raise AssertionError(f"{size} bytes: {error}") from None
    return seconds


def _changed():
    """What sending has changed at this end, in words, or ""."""
    try:
        sources.whole()
    except AssertionError as error:
        return str(error)
    return ""


def _expected(size, offset, seed):
    return memoryview(datafile.content(offset + size, seed))[offset:]


def _send(sock, size, offset, seed, how, senders, first=b""):
    path = os.path.join(_FOLDER, f"sent-{os.getpid()}-{threading.get_ident()}")
    datafile.make(path, offset + size, seed)
    try:
        if first:
            sock.sendall(first)
        began = time.monotonic()
        if senders and how in senders:
            senders[how](sock, path, offset, size)
        else:
            datafile.send(sock, path, offset, size, how)
        return time.monotonic() - began
    finally:
        os.unlink(path)
