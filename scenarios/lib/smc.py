"""SMC sockets: making them, asking the kernel how they are carried, and transfers between two of them.

A request is one of `exchange`, or "mode": how is this connection carried?
"""

import os
import socket
import struct
import sys

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import datafile
import exchange

AF_SMC = 43
PORT = 7003
DEADLINE_S = 20 * float(os.environ.get("LAB_SCALE", "1"))
MODES = ("SMC-R", "TCP (fallback)", "SMC-D")
_HEADER = struct.Struct("=IHHII")
_SOCK_DIAG, _GENERIC = 4, 16
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300


def stream():
    """A new socket of SMC. To Python it is one of AF_INET: the addresses are, and it knows none of SMC."""
    made = socket.socket(AF_SMC, socket.SOCK_STREAM, 0)
    return datafile.patient(socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=made.detach()), DEADLINE_S)


def _ask(protocol, kind, flags, payload):
    """One netlink request; returns the answers' payloads."""
    answers = []
    with datafile.patient(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol), DEADLINE_S) as link:
        link.send(_HEADER.pack(_HEADER.size + len(payload), kind, _REQUEST | flags, 1, 0) + payload)
        while True:
            data = link.recv(1 << 16)
            while data:
                length, kind, *_ = _HEADER.unpack_from(data)
                body, data = data[_HEADER.size : length], data[(length + 3) & ~3 :]
                if kind == _ERROR:
                    number = -struct.unpack_from("=i", body)[0]
                    if number:
                        raise OSError(number, os.strerror(number))
                    return answers
                if kind == _DONE:
                    return answers
                answers.append(body)


def mode(sock):
    """How a connected socket is carried: one of MODES and, of a fallback, the reasons (this end's, the peer's)."""
    # struct smc_diag_req: family, padding, what else to tell (bit 4: the reason of a fallback), a socket (any)
    request = struct.pack("=B2xB48x", AF_SMC, 1 << 4)
    inode = os.fstat(sock.fileno()).st_ino
    for answer in _ask(_SOCK_DIAG, 20, _DUMP, request):
        # struct smc_diag_msg: 4 bytes, of which the third is the mode; the socket; user; inode; then attributes
        if struct.unpack_from("=Q", answer, 56)[0] != inode:
            continue
        reasons, rest = (), answer[64:]
        while len(rest) >= 4:
            length, kind = struct.unpack_from("=HH", rest)
            if kind == 5:
                reasons = tuple(f"{reason:#010x}" for reason in struct.unpack_from("=II", rest, 4))
            rest = rest[(length + 3) & ~3 or 4 :]
        return MODES[answer[2]], reasons
    raise AssertionError("the kernel does not list this socket among those of SMC")


def _attribute(kind, value):
    """One attribute of a netlink message, padded."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _command(family, command, *attributes):
    """A command of generic netlink; what is there already is no error."""
    # Which number the family has: command 3 of the controller, attribute 2; attribute 1 of the answer
    name = family.encode() + b"\0"
    answer = _ask(_GENERIC, 16, _ACK, struct.pack("=BBH", 3, 1, 0) + _attribute(2, name))[0][4:]
    number = 0
    while len(answer) >= 4:
        length, kind = struct.unpack_from("=HH", answer)
        if kind == 1:
            number = struct.unpack_from("=H", answer, 4)[0]
        answer = answer[(length + 3) & ~3 :]
    try:
        _ask(_GENERIC, number, _ACK, struct.pack("=BBH", command, 1, 0) + b"".join(attributes))
    except FileExistsError:
        pass


def name_group():
    """Give this kernel the name that both ends of SMC version 2 must have in common (the "user-defined EID")."""
    _command("SMC_GEN_NETLINK", 10, _attribute(1, b"KPATCHLAB".ljust(32) + b"\0"))


def listen(address):
    """A listening socket."""
    return exchange.listen(address, PORT, stream())


def serve(listener):
    """Answer one request after the other."""
    exchange.serve(listener, _answer, DEADLINE_S)


def _answer(sock):
    request = exchange.line(sock)
    if request == "mode":
        how, reasons = mode(sock)
        sock.sendall(f"{how} {' '.join(reasons)}\n".encode())
    else:
        exchange.answer(sock, request)


def modes(address):
    """How a connection is carried, in words: as this end says, and as the other."""
    with _connect(address) as sock:
        sock.sendall(b"mode\n")
        there = exchange.line(sock).strip()
        how, reasons = mode(sock)
    return f"{how} {' '.join(reasons)}".strip(), there


def put(address, size, offset, seed, sender, receiver):
    """Send to the other end, which must get what is right; returns seconds until it says so."""
    with _connect(address) as sock:
        return exchange.put(sock, size, offset, seed, sender, receiver)[1]


def get(address, size, offset, seed, sender, receiver):
    """Receive from the other end and compare; returns the seconds of receiving."""
    with _connect(address) as sock:
        return exchange.get(sock, size, offset, seed, sender, receiver)


def _connect(address):
    sock = stream()
    sock.connect((address, PORT))
    return sock


OFFSETS = (0, 4093)
WAYS = (("sendfile", "recv"), ("splice", "splice"), ("write", "splice"))
"""How it is sent, how it is received."""
DIRECTIONS = {"to the server": put, "from the server": get}
LONG = 4 << 20


def sizes_by(transfer, address, sender, receiver):
    """All sizes, each with a connection and a seed of its own."""
    for number, size in enumerate(datafile.SIZES):
        if size < 100_000 or sender == "sendfile":
            transfer(address, size, OFFSETS[number % 2], 100 + number, sender, receiver)
