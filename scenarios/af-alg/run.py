#!/usr/bin/python3
"""AF_ALG: hashes, ciphers, ciphers with authentication and random numbers, by write, sendfile and splice."""

import contextlib
import errno
import fcntl
import hashlib
import hmac
import os
import socket
import sys
import threading
import time

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import datafile
import evp
import ktap
import outcome

FILE = os.path.join(os.environ.get("LAB_TMP", "/tmp"), "data")
DEADLINE_S = 12 * float(os.environ.get("LAB_SCALE", "1"))
LONG = 4 << 20
SMALL = [size for size in datafile.SIZES if size < 100_000]
PIECE = 16384
WAYS = ("write", "sendfile", "splice")
OFFSETS = (0, 4093)
KEY = bytes(range(16))
IV = bytes(range(100, 116))
NONCE = bytes(range(200, 212))
HEADER = bytes(range(50, 70))
MORE = socket.MSG_MORE
# kernel's name, OpenSSL's name, whole blocks only
CIPHERS = (("cbc(aes)", "AES-128-CBC", 16), ("ctr(aes)", "AES-128-CTR", 1))


@contextlib.contextmanager
def algorithm(kind, name, key=None, tag=None):
    """An operation's socket; skips the check where the kernel has no such algorithm."""
    with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as parent:
        try:
            parent.bind((kind, name))
        except FileNotFoundError:
            raise ktap.Skip(f"this kernel has no {kind} {name}") from None
        if key is not None:
            parent.setsockopt(socket.SOL_ALG, socket.ALG_SET_KEY, key)
        if tag is not None:
            parent.setsockopt(socket.SOL_ALG, socket.ALG_SET_AEAD_AUTHSIZE, None, tag)
        operation, _ = parent.accept()
        with operation:
            yield operation


def part(size, offset, seed):
    """Make the file; returns what is right for its part from `offset` on."""
    datafile.make(FILE, offset + size, seed)
    return bytes(memoryview(datafile.content(offset + size, seed))[offset:])


def same_sum(got, right, what):
    """Compare two digests."""
    if got != right:
        raise AssertionError(f"{what}: the kernel's digest is {got.hex()}, not {right.hex()}")


def hash_sizes(how, offset, sizes, name="sha256", key=None):
    """The digest of a file's part, all sizes, one socket for all: each message begins anew."""
    plain = name[5:-1] if key else name
    with algorithm("hash", name, key) as operation:
        for number, size in enumerate(sizes):
            data = part(size, offset, 100 + number)
            datafile.send(operation, FILE, offset, size, how)
            right = hmac.digest(key, data, plain) if key else hashlib.new(plain, data).digest()
            same_sum(operation.recv(64), right, f"{size} bytes")


def hash_empty():
    """Nothing at all, an empty message, an empty one that has more to come, and an empty end."""
    right = hashlib.sha256().digest()
    with algorithm("hash", "sha256") as operation:
        same_sum(operation.recv(64), right, "no message")
        operation.send(b"")
        same_sum(operation.recv(64), right, "an empty message")
        operation.send(b"", MORE)
        same_sum(operation.recv(64), right, "an empty message with MSG_MORE")
        data = part(4097, 0, 150)
        operation.send(datafile.sent(4097, 150), MORE)
        operation.send(b"")
        same_sum(operation.recv(64), hashlib.sha256(data).digest(), "data with MSG_MORE, then an empty message")


def splice_more(operation, start, size, more):
    """One splice of `size` bytes of the file, which all fit into one pipe."""
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
        with open(FILE, "rb", buffering=0) as file:
            filled = 0
            while filled < size:
                filled += os.splice(file.fileno(), writer, size - filled, offset_src=start + filled)
        while filled:
            filled -= os.splice(reader, operation.fileno(), filled, flags=os.SPLICE_F_MORE if more else 0)
    finally:
        os.close(reader)
        os.close(writer)


def hash_mixed():
    """send with MSG_MORE and splice take turns in one message; once a splice ends it, once a send."""
    parts = ((13, "send"), (4097, "splice"), (1, "send"), (70001, "splice"), (200000, "send"), (4096, "splice"))
    total = sum(size for size, _ in parts)
    for extra in (0, 77):
        data = part(total + extra, 0, 160 + extra)
        right = hashlib.sha256(data).digest()
        bad = datafile.sent(total + extra, 160 + extra)
        with algorithm("hash", "sha256") as operation:
            at = 0
            for size, how in parts:
                more = extra or at + size < total
                if how == "send":
                    operation.sendall(bad[at : at + size], MORE if more else 0)
                else:
                    splice_more(operation, at, size, more)
                at += size
            if extra:
                operation.sendall(bad[at:])
            same_sum(operation.recv(64), right, f"{len(parts)} parts and {extra} bytes")


def many_pages():
    """One splice of more than the 16 pages that one request to a hash takes."""
    for pages in (15, 16, 17, 33, 64, 255):
        size = pages * 4096
        data = part(size + 5, 0, 170 + pages)
        with algorithm("hash", "sha256") as operation:
            splice_more(operation, 3, size, False)
            same_sum(operation.recv(64), hashlib.sha256(data[3 : 3 + size]).digest(), f"{pages} pages")


def hash_clone(how):
    """accept() in mid-stream: both sockets go on from there, each with data of its own."""
    data = part(100_003, 0, 180)
    bad = datafile.sent(100_003, 180)
    middle, end = 50_001, 90_000
    with algorithm("hash", "sha256") as operation:
        if how == "splice":
            splice_more(operation, 0, middle, True)
        else:
            operation.sendall(bad[:middle], MORE)
        clone, _ = operation.accept()
        with clone:
            clone.sendall(bad[end:])
            datafile.send(operation, FILE, middle, end - middle, "sendfile")
            same_sum(clone.recv(64), hashlib.sha256(data[:middle] + data[end:]).digest(), "the clone")
            same_sum(operation.recv(64), hashlib.sha256(data[:end]).digest(), "the first socket")


def hash_short_file():
    """sendfile of more than the file has: the end of the file is the end of the data."""
    data = part(10_000, 0, 190)
    with algorithm("hash", "sha256") as operation, open(FILE, "rb", buffering=0) as file:
        done = os.sendfile(operation.fileno(), file.fileno(), 0, 1 << 20)
        if done != len(data):
            raise AssertionError(f"sendfile took {done} bytes of {len(data)}")
        same_sum(operation.recv(64), hashlib.sha256(data).digest(), "a file that ends early")


def hash_long():
    """A long file by sendfile; returns the seconds."""
    data = part(LONG, 1, 199)
    with algorithm("hash", "sha256") as operation:
        began = time.monotonic()
        datafile.send(operation, FILE, 1, LONG, "sendfile")
        got = operation.recv(64)
        seconds = time.monotonic() - began
    same_sum(got, hashlib.sha256(data).digest(), f"{LONG} bytes")
    return seconds


def through(operation, size, send_it):
    """Send while a second thread takes `size` bytes out; returns what it got.

    The reader takes less at a time than the socket's buffer holds: recv() of more wakes a waiting sender only when it
    has got all of it, that is never.  AF_ALG knows neither timeouts nor shutdown(), so that a reader for which nothing
    comes is left behind.
    """
    got, failure = [], []

    def read():
        try:
            done = bytearray()
            while len(done) < size:
                done += operation.recv(min(PIECE, size - len(done)))
            got.append(done)
        except OSError as error:
            failure.append(error)

    def write():
        try:
            send_it()
        except (OSError, AssertionError) as error:
            failure.append(error)

    threads = [threading.Thread(target=function, daemon=True) for function in (read, write)]
    end = time.monotonic() + DEADLINE_S
    for thread in threads:
        thread.start()
    for thread in reversed(threads):
        thread.join(max(0, end - time.monotonic()))
        if failure:
            raise failure[0]
        if thread.is_alive():
            raise AssertionError(f"no end of {size} bytes after {DEADLINE_S:.0f} s")
    return got[0]


def put(operation, size, offset, how):
    """Send a file's part.  A single write of more than the buffer holds would sleep before it wakes the reader."""
    if how != "write":
        datafile.send(operation, FILE, offset, size, how)
        return
    with open(FILE, "rb", buffering=0) as file:
        data = memoryview(os.pread(file.fileno(), size, offset))
    while data:
        done = operation.send(data[: 3 * PIECE], MORE if len(data) > 3 * PIECE else 0)
        data = data[done:]


def exchange(operation, size, offset, how):
    """A file's part in, its encryption or decryption out: one after the other where the socket's buffer holds it."""
    if size > SMALL[-1] + 16:
        return through(operation, size, lambda: put(operation, size, offset, how))
    put(operation, size, offset, how)
    return datafile.receive(operation, size)


def cipher_one(name, right_name, size, offset, how, seed):
    """Encrypt a file's part, decrypt it again by the same way; returns the seconds of encryption."""
    data = part(size, offset, seed)
    right = evp.encrypt(right_name, KEY, IV, data)
    with algorithm("skcipher", name, KEY) as operation:
        operation.sendmsg_afalg([], op=socket.ALG_OP_ENCRYPT, iv=IV, flags=MORE)
        began = time.monotonic()
        got = exchange(operation, size, offset, how)
        seconds = time.monotonic() - began
    datafile.same(got, right)
    with open(FILE, "wb", buffering=0) as file:
        file.write(bytes(offset) + got)
    with algorithm("skcipher", name, KEY) as operation:
        operation.sendmsg_afalg([], op=socket.ALG_OP_DECRYPT, iv=IV, flags=MORE)
        got = exchange(operation, size, offset, how)
    datafile.same(got, data)
    return seconds


def cipher_sizes(name, right_name, block, how):
    """All sizes, rounded up to whole blocks where the cipher wants that."""
    for number, size in enumerate(datafile.SIZES):
        # Where sending and receiving overlap, whole blocks: `cut_in_block` is the check of what happens otherwise.
        offset = OFFSETS[number % 2] if size in SMALL else 32
        try:
            cipher_one(name, right_name, -(-size // block) * block, offset, how, 200 + number)
        except AssertionError as error:
            raise AssertionError(f"{size} bytes: {error}") from None


def cipher_mixed():
    """send with MSG_MORE and splice take turns in one stream, cut in the middle of blocks and of pages."""
    parts = ((5, "send"), (4097, "splice"), (3, "send"), (30_001, "splice"), (20_000, "send"), (8192, "splice"))
    total = sum(size for size, _ in parts)
    data = part(total, 0, 250)
    bad = datafile.sent(total, 250)
    with algorithm("skcipher", "ctr(aes)", KEY) as operation:
        operation.sendmsg_afalg([], op=socket.ALG_OP_ENCRYPT, iv=IV, flags=MORE)
        at = 0
        for size, how in parts:
            if how == "send":
                operation.sendall(bad[at : at + size], MORE)
            else:
                splice_more(operation, at, size, at + size < total)
            at += size
        got = datafile.receive(operation, total)
    datafile.same(got, evp.encrypt("AES-128-CTR", KEY, IV, data))


def cut_in_block():
    """recv() of more than there is yet, and what there is ends in the middle of a block: no hole in the answer."""
    first, total = 4099, 8192
    data = part(total, 0, 255)
    bad = datafile.sent(total, 255)
    with algorithm("skcipher", "ctr(aes)", KEY) as operation:
        operation.sendmsg_afalg([bad[:first]], op=socket.ALG_OP_ENCRYPT, iv=IV, flags=MORE)

        def rest():
            time.sleep(0.5)  # by now recv() has taken the whole blocks and waits
            operation.send(bad[first:])

        sender = threading.Thread(target=rest, daemon=True)
        sender.start()
        got = operation.recv(total)
        sender.join()
    datafile.same(got, evp.encrypt("AES-128-CTR", KEY, IV, data))


def spliced_page_written_later():
    """A page that is written to after it was spliced, before it is encrypted: old or new bytes, nothing else."""
    data = part(4096, 0, 260)
    with algorithm("skcipher", "cbc(aes)", KEY) as operation:
        operation.sendmsg_afalg([], op=socket.ALG_OP_ENCRYPT, iv=IV, flags=MORE)
        splice_more(operation, 0, 4096, False)
        with open(FILE, "r+b", buffering=0) as file:
            file.write(bytes(4096))
        got = datafile.receive(operation, 4096)
    if bytes(got) == evp.encrypt("AES-128-CBC", KEY, IV, bytes(4096)):
        return "new"
    datafile.same(got, evp.encrypt("AES-128-CBC", KEY, IV, data))
    return "old"


def aead_one(size, how, header, seed):
    """Seal by one way, hold it against OpenSSL, open it again."""
    data = part(size, 0, seed)
    right = evp.seal("AES-128-GCM", KEY, NONCE, header, data)
    with algorithm("aead", "gcm(aes)", KEY, evp.TAG) as operation:
        begin = {"iv": NONCE, "assoclen": len(header)}
        operation.sendmsg_afalg([header], op=socket.ALG_OP_ENCRYPT, flags=MORE if size else 0, **begin)
        if size:
            datafile.send(operation, FILE, 0, size, how)
        # One answer has the whole: the header first, as it came.
        got = operation.recv(len(header) + size + evp.TAG)
        datafile.same(got, header + right)
        with open(FILE, "wb", buffering=0) as file:
            file.write(got)
        operation.sendmsg_afalg([], op=socket.ALG_OP_DECRYPT, flags=MORE, **begin)
        datafile.send(operation, FILE, 0, len(got), how)
        datafile.same(operation.recv(len(header) + size), header + data)


def aead_sizes(how):
    """All sizes that fit into the socket's buffer as one message, with and without a header."""
    for number, size in enumerate((0, *SMALL)):
        for header in (b"", HEADER):
            if size or header:
                try:
                    aead_one(size, how, header, 300 + number)
                except AssertionError as error:
                    raise AssertionError(f"{size} bytes, header of {len(header)}: {error}") from None


def aead_wrong_tag():
    """One wrong byte of a spliced message is EBADMSG."""
    sealed = evp.seal("AES-128-GCM", KEY, NONCE, HEADER, bytes(5000))
    with algorithm("aead", "gcm(aes)", KEY, evp.TAG) as operation:
        for wrong in (0, 1):
            with open(FILE, "wb", buffering=0) as file:
                file.write(HEADER + sealed[:-1] + bytes([sealed[-1] ^ wrong]))
            operation.sendmsg_afalg([], op=socket.ALG_OP_DECRYPT, iv=NONCE, assoclen=len(HEADER), flags=MORE)
            datafile.send(operation, FILE, 0, len(HEADER) + len(sealed), "sendfile")
            try:
                got = operation.recv(len(HEADER) + 5000)
            except OSError as error:
                if error.errno != errno.EBADMSG or not wrong:
                    raise
                continue
            if wrong:
                raise AssertionError("a message with a wrong tag was decrypted")
            datafile.same(got, HEADER + bytes(5000))


def random_numbers():
    """8 KiB that repeat nothing and have about as many ones as zeroes."""
    with algorithm("rng", "stdrng", b"") as operation:
        blocks = [operation.recv(128) for _ in range(64)]
    data = b"".join(blocks)
    ones = sum(byte.bit_count() for byte in data)
    if len(data) != 8192 or len({data[at : at + 16] for at in range(0, 8192, 16)}) != 512:
        raise AssertionError(f"{len(data)} bytes of 8192, or one block twice")
    # 65536 coins: the standard deviation is 128, and one run in many millions is off by more than six of them
    if abs(ones - 32768) > 6 * 128:
        raise AssertionError(f"{ones} ones in 65536 bits")


def main():
    ktap.plan(len(WAYS) * len(OFFSETS) + 10 + len(CIPHERS) * (len(WAYS) + 1) + 3 + len(WAYS) + 1 + 1)
    for how in WAYS:
        for offset in OFFSETS:
            ktap.check(f"sha256 by {how}, all sizes, file offset {offset}", hash_sizes, how, offset, datafile.SIZES)
    ktap.check("hmac(sha256) by splice, all sizes", hash_sizes, "splice", 1, SMALL, "hmac(sha256)", b"key" * 30)
    ktap.check("sha1 by sendfile, all sizes", hash_sizes, "sendfile", 1, SMALL, "sha1")
    ktap.check("md5 by sendfile, all sizes", hash_sizes, "sendfile", 1, SMALL, "md5")
    ktap.check("sha256 of nothing", hash_empty)
    ktap.check("sha256: send and splice take turns", hash_mixed)
    ktap.check("sha256: one splice of up to 255 pages", many_pages)
    for how in ("send", "splice"):
        ktap.check(f"sha256: accept() in mid-stream, after {how}", hash_clone, how)
    ktap.check("sha256: sendfile of more than the file has", hash_short_file)
    seconds = ktap.check(f"sha256 by sendfile, {LONG >> 20} MiB", hash_long)
    if seconds:
        ktap.metric("alg_sha256_sendfile", LONG / (1 << 20) / seconds, "MiB/s", "higher")
    for name, right_name, block in CIPHERS:
        for how in WAYS:
            ktap.check(f"{name} by {how}, all sizes", cipher_sizes, name, right_name, block, how)
        seconds = ktap.check(
            f"{name} by sendfile, {LONG >> 21} MiB", cipher_one, name, right_name, LONG // 2, 16, "sendfile", 299
        )
        if seconds:
            ktap.metric(f"alg_{name[:3]}_aes_sendfile", LONG / (2 << 20) / seconds, "MiB/s", "higher")
    ktap.check("ctr(aes): send and splice take turns", cipher_mixed)
    ktap.check("ctr(aes): recv() meets the middle of a block", cut_in_block)
    outcome.record("cbc(aes): a page that is written after it was spliced", spliced_page_written_later)
    for how in WAYS:
        ktap.check(f"gcm(aes) by {how}, all sizes", aead_sizes, how)
    ktap.check("gcm(aes): a wrong tag", aead_wrong_tag)
    ktap.check("random numbers", random_numbers)


main()
