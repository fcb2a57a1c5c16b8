"""AF_RXRPC sockets from Python: calls of a client, a service that answers them, and keys for rxkad.

Python's `socket` makes them and sends on them, control messages included, but does not know their addresses:
bind(), connect() and recvmsg() go through the C library.
"""

import ctypes
import errno
import os
import signal
import socket
import struct
import time

AF_RXRPC = 33
SOL_RXRPC = 272
USER_CALL_ID, ABORT, ACK, NET_ERROR, BUSY, LOCAL_ERROR = 1, 2, 3, 5, 6, 7
TX_LENGTH, CHARGE_ACCEPT = 12, 14
SECURITY_KEY, SECURITY_KEYRING, MIN_SECURITY_LEVEL = 1, 2, 4
PLAIN, AUTH, ENCRYPT = 0, 1, 2
MSG_MORE = 0x8000
_RXKAD = 2
_ADD_KEY = 248  # the system call's number on x86-64
_PROCESS_KEYRING = -2
_SESSION_KEY = bytes.fromhex("2389ab4567cdef10")
_FAILURES = {ABORT: "aborted with code", NET_ERROR: "network error", BUSY: "busy", LOCAL_ERROR: "local error"}
_CMSG = struct.Struct("@Nii")  # struct cmsghdr
_libc = ctypes.CDLL(None, use_errno=True)
_libc.recvmsg.restype = ctypes.c_ssize_t


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint),
        ("vectors", ctypes.POINTER(_Vector)),
        ("vectors_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class CallFailed(AssertionError):
    """A call that ended with an abort or an error; `kind` is the control message that said so."""

    def __init__(self, kind, value):
        super().__init__(f"the call ended: {_FAILURES[kind]} {value}")
        self.kind, self.value = kind, value


def _address(host, port, service):
    """A struct sockaddr_rxrpc with an IPv4 transport address."""
    inside = struct.pack("=H2s4s8x", socket.AF_INET, port.to_bytes(2, "big"), socket.inet_aton(host))
    return struct.pack("=HHHH28s", AF_RXRPC, service, socket.SOCK_DGRAM, len(inside), inside)


def _call_libc(name, sock, address):
    if getattr(_libc, name)(sock.fileno(), address, len(address)):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _tag(call):
    return (SOL_RXRPC, USER_CALL_ID, struct.pack("@L", call))


def listen(host, port, service, backlog=8, keyring=None):
    """A service's socket, with as many calls as `backlog` allowed to come in: their numbers are 1, 2, …."""
    sock = socket.socket(AF_RXRPC, socket.SOCK_DGRAM, socket.AF_INET)
    if keyring:
        sock.setsockopt(SOL_RXRPC, SECURITY_KEYRING, keyring.encode())
    _call_libc("bind", sock, _address(host, port, service))
    sock.listen(backlog)
    for call in range(1, backlog + 1):
        charge(sock, call)
    return sock


def charge(sock, call):
    """Let one more call come in, under this number."""
    sock.sendmsg([], [_tag(call), (SOL_RXRPC, CHARGE_ACCEPT, b"")])


def connect(host, port, service, key=None, level=PLAIN):
    """A client's socket; `key` is the description of one made by `add_client_key`."""
    sock = socket.socket(AF_RXRPC, socket.SOCK_DGRAM, socket.AF_INET)
    if key:
        sock.setsockopt(SOL_RXRPC, SECURITY_KEY, key.encode())
        sock.setsockopt(SOL_RXRPC, MIN_SECURITY_LEVEL, level)
    _call_libc("connect", sock, _address(host, port, service))
    return sock


def send(sock, call, data, more=False, length=None):
    """Send a part of a call's data; the part that is not followed by `more` ends the request or the reply."""
    control = [_tag(call)]
    if length is not None:
        control.append((SOL_RXRPC, TX_LENGTH, struct.pack("@q", length)))
    view = memoryview(data)
    while True:
        view = view[sock.sendmsg([view], control, MSG_MORE if more else 0) :]
        if not view:
            return
        del control[1:]


def abort(sock, call, code):
    """End a call at once."""
    sock.sendmsg([], [_tag(call), (SOL_RXRPC, ABORT, struct.pack("@I", code))])


def _recvmsg(sock, size):
    """As `socket.recvmsg`, without the address."""
    data, control = ctypes.create_string_buffer(size), ctypes.create_string_buffer(256)
    vector = _Vector(ctypes.addressof(data), size)
    message = _Message(None, 0, ctypes.pointer(vector), 1, ctypes.addressof(control), len(control), 0)
    while (length := _libc.recvmsg(sock.fileno(), ctypes.byref(message), 0)) < 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, f"recvmsg: {os.strerror(number)}")
    return data[:length], list(_control(control[: message.controllen])), message.flags


def _control(data):
    while len(data) >= _CMSG.size:
        length, level, kind = _CMSG.unpack_from(data)
        yield level, kind, data[_CMSG.size : length]
        data = data[-(-length // 8) * 8 :]


def receive(sock, size=1 << 17):
    """The next piece of any call.

    Returns:
        (call, data, more, ended): whether the other end will send more; whether the call is over, its number free

    Raises:
        CallFailed: the call came to a bad end; its attribute `call` is the call's number
    """
    data, control, flags = _recvmsg(sock, size)
    call, failure = None, None
    for level, kind, value in control:
        if level != SOL_RXRPC:
            continue
        if kind == USER_CALL_ID:
            (call,) = struct.unpack("@L", value)
        elif kind in _FAILURES:
            failure = CallFailed(kind, struct.unpack("@i", value[:4].ljust(4, b"\0"))[0])
    if failure:
        failure.call = call
        raise failure
    return call, data, bool(flags & MSG_MORE), bool(flags & socket.MSG_EOR)


def replies(sock, calls):
    """Wait until all these calls are over; returns call -> reply."""
    got = {call: bytearray() for call in calls}
    waiting = set(calls)
    while waiting:
        call, data, _, ended = receive(sock)
        if call not in got:
            raise AssertionError(f"a reply for call {call}, which was not made")
        got[call] += data
        if ended:
            waiting.discard(call)
    return got


class deadline:  # noqa: N801 -- reads as a statement
    """Raise AssertionError in the main thread when the block takes longer than this.

    A socket's own deadlines do not do: SO_SNDTIMEO does not end a wait for the other end's receive window.
    """

    def __init__(self, seconds):
        self.seconds = seconds

    def __enter__(self):
        def late(*_):
            raise AssertionError(f"nothing more came within {self.seconds:g} s")

        signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *_):
        signal.setitimer(signal.ITIMER_REAL, 0)


def _add_key(kind, description, payload, keyring):
    serial = _libc.syscall(
        _ADD_KEY, kind.encode(), description.encode(), payload, ctypes.c_size_t(len(payload or b"")), keyring
    )
    if serial < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"add_key {kind}: {os.strerror(number)}")
    return serial


def add_service_key(service, secret, keyring):
    """Make a keyring with the secret of a service; the service's socket names it."""
    serial = _add_key("keyring", keyring, None, _PROCESS_KEYRING)
    _add_key("rxrpc_s", f"{service}:{_RXKAD}", secret, serial)


def add_client_key(description, secret):
    """Make a ticket for a service as Kerberos 4 would, encrypted with the service's secret, valid for an hour."""
    issued = int(time.time()) - 600
    life = 255  # in units of five minutes
    plain = b"\0client\0\0LAB\0" + bytes(4) + _SESSION_KEY + bytes([life]) + struct.pack("!I", issued) + b"afs\0\0"
    ticket = _pcbc_des(secret, plain + bytes(-len(plain) % 8))
    header = struct.pack("@HHII8s", _RXKAD, len(ticket), issued + 86400, 1, _SESSION_KEY)
    _add_key("rxrpc", description, struct.pack("@I", 1) + header + ticket, _PROCESS_KEYRING)


def _pcbc_des(key, data):
    """As the kernel's rxkad does it: the key is the initialisation vector as well."""
    with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as cipher:
        cipher.bind(("skcipher", "pcbc(des)"))
        cipher.setsockopt(socket.SOL_ALG, socket.ALG_SET_KEY, key)
        operation, _ = cipher.accept()
        with operation:
            operation.sendmsg_afalg([data], op=socket.ALG_OP_ENCRYPT, iv=key)
            return operation.recv(len(data))
