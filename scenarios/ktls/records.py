"""TLS records: the keys that both ends know, what setsockopt() wants of them, and user space's own sealing and opening."""

import dataclasses
import errno
import hashlib
import os
import socket
import struct
import sys

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import evp

_TCP_ULP, _SOL_TLS, TLS_TX, TLS_RX = 31, 282, 1, 2
_SET_RECORD_TYPE = 1
HANDSHAKE, DATA = 22, 23
MOST = 16384
_HEAD = struct.Struct(">BHH")


class Lacking(Exception):
    """This kernel has no such cipher for TLS."""


@dataclasses.dataclass(frozen=True)
class Suite:
    """One cipher of kTLS: its number in linux/tls.h, OpenSSL's name, lengths of key, salt and IV."""

    number: int
    name: str
    key: int
    salt: int
    iv: int


SUITES = {
    "aes128": Suite(51, "AES-128-GCM", 16, 4, 8),
    "aes256": Suite(52, "AES-256-GCM", 32, 4, 8),
    "chacha": Suite(54, "ChaCha20-Poly1305", 32, 0, 12),
}
VERSIONS = {"1.2": 0x0303, "1.3": 0x0304}


class Stream:
    """One direction of a connection: what a version, a cipher and a seed give for keys, and the record's number.

    `wire` counts the bytes of all records that `take` took.
    """

    def __init__(self, version, suite, seed):
        self.version, self.suite = VERSIONS[version], SUITES[suite]
        noise = hashlib.shake_128(f"ktls {version} {suite} {seed}".encode()).digest(64)
        self.key, self.salt = noise[:32][: self.suite.key], noise[32:36][: self.suite.salt]
        self.iv = noise[40:52][: self.suite.iv]
        self.number, self.wire = 0, 0

    def install(self, sock, direction):
        """Give the keys to the kernel.

        Raises:
            Lacking: it has no such cipher.
        """
        info = struct.pack("=HH", self.version, self.suite.number) + self.iv + self.key + self.salt + bytes(8)
        try:
            sock.setsockopt(_SOL_TLS, direction, info)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP}:
                raise Lacking(f"this kernel has no {self.suite.name} for TLS: {error}") from None
            raise

    def _nonce(self):
        """Of TLS 1.3, and of ChaCha20 in TLS 1.2: the IV with the record's number added bit by bit."""
        iv = self.salt + self.iv
        return bytes(a ^ b for a, b in zip(iv, self.number.to_bytes(len(iv), "big"), strict=True))

    def _explicit(self):
        """Whether the second half of the nonce stands in the record."""
        return self.version == VERSIONS["1.2"] and self.suite.salt

    def seal(self, data, kind=DATA):
        """One record as it goes over the wire."""
        if self.version == VERSIONS["1.3"]:
            head = _HEAD.pack(DATA, VERSIONS["1.2"], len(data) + 1 + evp.TAG)
            body = evp.seal(self.suite.name, self.key, self._nonce(), head, bytes(data) + bytes([kind]))
        else:
            head = struct.pack(">QBHH", self.number, kind, self.version, len(data))
            own = self.number.to_bytes(8, "big") if self._explicit() else b""
            nonce = self.salt + own if own else self._nonce()
            body = own + evp.seal(self.suite.name, self.key, nonce, head, data)
            head = _HEAD.pack(kind, self.version, len(body))
        self.number += 1
        return head + body

    def open(self, head, body):
        """A record's type and data."""
        kind, version, _ = _HEAD.unpack(head)
        if version != VERSIONS["1.2"]:
            raise AssertionError(f"record {self.number} says version {version:#x}: the stream is out of step")
        try:
            if self.version == VERSIONS["1.3"]:
                inner = evp.unseal(self.suite.name, self.key, self._nonce(), head, body)
                if not (data := inner.rstrip(b"\0")) or len(data) != len(inner):
                    raise AssertionError(f"{len(inner) - len(data)} bytes of padding, which nobody asked for")
                kind, data = data[-1], data[:-1]
            else:
                own = body[:8] if self._explicit() else b""
                nonce = self.salt + own if own else self._nonce()
                body = body[len(own) :]
                text = struct.pack(">QBHH", self.number, kind, version, len(body) - evp.TAG)
                data = evp.unseal(self.suite.name, self.key, nonce, text, body)
        except AssertionError as error:
            raise AssertionError(f"record {self.number} of {len(body)} bytes: {error}") from None
        self.number += 1
        if len(data) > MOST:
            raise AssertionError(f"record {self.number - 1} has {len(data)} bytes, more than TLS allows")
        return kind, data

    def take(self, sock):
        """The next record of a socket without kTLS: (type, data), or None at the end of the stream."""
        head = _exactly(sock, _HEAD.size)
        if not head:
            return None
        length = _HEAD.unpack(head)[2]
        self.wire += len(head) + length
        return self.open(head, _exactly(sock, length))


def attach(sock):
    """Make TLS the socket's upper layer; keys follow by `Stream.install`."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_ULP, b"tls")
    except FileNotFoundError:
        raise Lacking("this kernel has no kTLS") from None


def send_kind(sock, data, kind):
    """Send one record of another type than data."""
    sock.sendmsg([data], [(_SOL_TLS, _SET_RECORD_TYPE, bytes([kind]))])


def _exactly(sock, count):
    data = bytearray()
    while len(data) < count:
        part = sock.recv(count - len(data))
        if not part:
            if data:
                raise AssertionError(f"the stream ends inside a record: {len(data)} bytes of {count}")
            break
        data += part
    return bytes(data)
