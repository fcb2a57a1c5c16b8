#!/usr/bin/python3
"""kTLS between two kernels and between a kernel and user space, by sendfile, splice and write."""

import threading
import time

import ends
import peer
import records
from peer import datafile

import exchange
import ktap

LONG = 2 << 20
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
    with peer.File(size, offset, seed) as path, peer.connect("put", size, offset, seed, receiver, kind) as sock:
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
    with peer.connect("put", size, offset, seed, receiver, kind) as sock:
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
    with peer.connect("get", size, offset, seed, sender, kind) as sock:
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
    with peer.connect(verb, size, offset, seed, how, kind) as sock:
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


def both(kind):
    """Both directions of one connection at the same time."""
    size, offset, seed = 300_000, 3, 240
    failures = []
    with peer.File(size, offset, seed) as path, peer.connect("both", size, offset, seed, "recv", kind) as sock:
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
    ktap.plan(sum(2 * len(ways) + 2 for *_, ways in KINDS) + 2 + 2 * (1 + ends.CHECKS))
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
        ktap.check(f"{name}: both directions at once", both, kind)
        ends.check_all(kind)


main()
