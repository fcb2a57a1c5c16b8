#!/usr/bin/python3
"""kTLS between two kernels and between a kernel and user space, by sendfile, splice and write."""

import os
import socket
import threading
import time

import peer
import records
from peer import datafile

import exchange
import ktap

LONG = 2 << 20
SERVER = os.environ["LAB_SERVER"]
# how it is sent, how it is received
WAYS = (("sendfile", "recv"), ("splice", "splice"), ("write", "recv"))
# version, cipher, sizes, ways: all ways for one cipher of each version
KINDS = (
    ("1.2", "aes128", (1, 4095, 4097, 65535, 65537), WAYS),
    ("1.3", "aes256", (1, 4096, 65536, 65537), WAYS),
    ("1.2", "aes256", (4097, 65537), WAYS[:1]),
    ("1.3", "aes128", (4097, 65537), WAYS[:1]),
    ("1.2", "chacha", (4097, 65537), WAYS[:1]),
    ("1.3", "chacha", (4097, 65537), WAYS[:1]),
)


def connect(verb, size, offset, seed, how, kind):
    """A connection on which the other end is ready for the records."""
    sock = datafile.patient(socket.create_connection((SERVER, peer.PORT)), peer.DEADLINE_S)
    try:
        sock.sendall(f"{verb} {size} {offset} {seed} {how} {kind[0]} {kind[1]}\n".encode())
        answer = exchange.line(sock)
        if answer != "ready":
            raise ktap.Skip(f"server: {answer}")
    except BaseException:
        sock.close()
        raise
    return sock


def install(sock, stream, direction):
    """This end's keys."""
    try:
        stream.install(sock, direction)
    except records.Lacking as what:
        raise ktap.Skip(f"client: {what}") from None


def expected(size, offset, seed):
    """What has to come."""
    return memoryview(datafile.content(offset + size, seed))[offset:]


def check_sum(answer, size, offset, seed):
    """Hold the other end's length and sum against the right ones."""
    length, there = answer.split()
    if there != datafile.digest(expected(size, offset, seed)):
        raise AssertionError(f"{size} bytes: the other end got {length} bytes with the wrong sum")


def put(size, offset, seed, sender, receiver, kind):
    """Send records by this kernel; the seconds of it."""
    with peer.File(size, offset, seed) as path, connect("put", size, offset, seed, receiver, kind) as sock:
        records.attach(sock)
        install(sock, records.Stream(*kind, seed), records.TLS_TX)
        began = time.monotonic()
        datafile.send(sock, path, offset, size, sender)
        answer = exchange.line(sock)
        seconds = time.monotonic() - began
    check_sum(answer, size, offset, seed)
    return seconds


def put_sealed(size, offset, seed, receiver, kind):
    """Send records that user space sealed, of odd lengths: the other kernel opens them."""
    with connect("put", size, offset, seed, receiver, kind) as sock:
        stream = records.Stream(*kind, seed)
        data = memoryview(datafile.sent(offset + size, seed))[offset:]
        lengths = (records.MOST, 1, 4096, 9999)
        while data:
            length = lengths[stream.number % len(lengths)]
            sock.sendall(stream.seal(data[:length]))
            data = data[length:]
        answer = exchange.line(sock)
    check_sum(answer, size, offset, seed)


def get(size, offset, seed, sender, receiver, kind):
    """Receive through this kernel; the seconds of it."""
    with connect("get", size, offset, seed, sender, kind) as sock:
        records.attach(sock)
        install(sock, records.Stream(*kind, seed + peer.BACK), records.TLS_RX)
        began = time.monotonic()
        got = datafile.receive(sock, size, receiver)
        seconds = time.monotonic() - began
    same(got, size, offset, seed)
    return seconds


def take_records(verb, size, offset, seed, how, kind):
    """What the other kernel sends, opened in user space: a list of (type, data), up to `size` bytes of data."""
    taken, done = [], 0
    with connect(verb, size, offset, seed, how, kind) as sock:
        stream = records.Stream(*kind, seed + peer.BACK)
        while done < size:
            try:
                record = stream.take(sock)
            except BlockingIOError:
                reason = f"{done} bytes of {size} came in {len(taken)} records, then nothing more"
                raise AssertionError(reason) from None
            if record is None:
                raise AssertionError(f"the other end closed after {done} bytes of {size}")
            taken.append(record)
            if record[0] == records.DATA:
                done += len(record[1])
    return taken


def get_opened(size, offset, seed, sender, kind):
    """Receive without kTLS and open the records in user space."""
    taken = take_records("get", size, offset, seed, sender, kind)
    same(b"".join(data for _, data in taken), size, offset, seed)


def same(got, size, offset, seed):
    """Compare, and say of which size."""
    try:
        datafile.same(got, expected(size, offset, seed))
    except AssertionError as error:
        raise AssertionError(f"{size} bytes: {error}") from None


def sizes_of(transfer, sizes, kind, *ways):
    """A connection and a seed for each size."""
    for number, size in enumerate(sizes):
        transfer(size, (0, 4093)[number % 2], 100 + number, *ways, kind)


def special(verb, size, seed, kind):
    """The data of one of the peer's special ways of sending, and its records."""
    taken = take_records(verb, size, 0, seed, "-", kind)
    same(b"".join(data for type_, data in taken if type_ == records.DATA), size, 0, seed)
    return taken


def mixed(kind):
    """write, sendfile and splice take turns."""
    special("mix", sum(size for size, _ in peer.PARTS), 200, kind)


def short_file(kind):
    """sendfile of more than the file has: nothing of it waits for a next send."""
    for number, size in enumerate((1, 5000, 16384, 70000)):
        special("eof", size, 210 + number, kind)


def corked(kind):
    """What is sent with MSG_MORE makes one record with what follows."""
    taken = special("cork", sum(peer.CORKED), 220, kind)
    if len(taken) != 1:
        raise AssertionError(f"{len(taken)} records of {[len(data) for _, data in taken]} bytes instead of one")


def other_kind(kind):
    """A record of another type comes between the data where it was sent, whole and alone."""
    taken = special("kind", 20_000, 230, kind)
    before = 0
    for type_, data in taken:
        if type_ != records.DATA:
            if (type_, data, before) != (records.HANDSHAKE, b"not data", 5000):
                raise AssertionError(f"a record of type {type_} with {data!r} after {before} bytes")
            return
        before += len(data)
    raise AssertionError("no record of another type came")


def both(kind):
    """Both directions of one connection at the same time."""
    size, offset, seed = 300_000, 3, 240
    failures = []
    with peer.File(size, offset, seed) as path, connect("both", size, offset, seed, "recv", kind) as sock:
        records.attach(sock)
        install(sock, records.Stream(*kind, seed), records.TLS_TX)
        install(sock, records.Stream(*kind, seed + peer.BACK), records.TLS_RX)

        def send():
            try:
                datafile.send(sock, path, offset, size, "sendfile")
            except (OSError, AssertionError) as error:
                failures.append(error)

        sender = threading.Thread(target=send)
        sender.start()
        got = datafile.receive(sock, size)
        sender.join()
        if failures:
            raise failures[0]
        answer = exchange.line(sock)
    check_sum(answer, size, offset, seed)
    same(got, size, offset, seed + peer.BACK)


def main():
    ktap.plan(sum(2 * len(ways) + 2 for *_, ways in KINDS) + 2 + 2 * 5)
    for *kind, sizes, all_ways in KINDS:
        name = f"TLS {kind[0]} {records.SUITES[kind[1]].name}"
        for ways in all_ways:
            sender, receiver = ways
            ktap.check(f"{name}: {sender} to {receiver}, to the server", sizes_of, put, sizes, kind, *ways)
            ktap.check(f"{name}: {sender} to {receiver}, from the server", sizes_of, get, sizes, kind, *ways)
        ktap.check(f"{name}: sendfile, opened in user space", sizes_of, get_opened, sizes, kind, "sendfile")
        ktap.check(f"{name}: sealed in user space, to splice", sizes_of, put_sealed, sizes, kind, "splice")
    for transfer in (put, get):
        title = f"TLS 1.3 AES-128-GCM: {transfer.__name__} {LONG >> 20} MiB by sendfile"
        seconds = ktap.check(title, transfer, LONG, 1, 99, "sendfile", "recv", ("1.3", "aes128"))
        if seconds:
            ktap.metric(f"ktls_{transfer.__name__}_sendfile", LONG / (1 << 20) / seconds, "MiB/s", "higher")
    for kind in (("1.2", "aes128"), ("1.3", "aes128")):
        name = f"TLS {kind[0]}"
        ktap.check(f"{name}: write, sendfile and splice take turns", mixed, kind)
        ktap.check(f"{name}: sendfile of more than the file has", short_file, kind)
        ktap.check(f"{name}: MSG_MORE makes one record", corked, kind)
        ktap.check(f"{name}: a record of another type after a splice with more to come", other_kind, kind)
        ktap.check(f"{name}: both directions at once", both, kind)


main()
