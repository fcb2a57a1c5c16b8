"""Pairs of sockets of all kinds: what is sent into one comes out of the other.

Where no pair can be made without hardware or a daemon, there is a sender alone: what counts is its error.
"""

import ctypes
import fcntl
import os
import select
import socket
import struct
import sys

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import ktap

SMALL, PAGES = 400, 10000
"""Part of a page, and three pages."""
WAYS = ("write", "sendfile", "splice")
DEADLINE_S = 8 * float(os.environ.get("LAB_SCALE", "1"))
_LIBC = ctypes.CDLL(None, use_errno=True)

AF_AX25, AF_APPLETALK, AF_NETROM, AF_ATMPVC, AF_X25, AF_ROSE, AF_KEY = 3, 5, 6, 8, 9, 11, 15
AF_RDS = 21
AF_ATMSVC, AF_PPPOX, AF_LLC, AF_BLUETOOTH, AF_PHONET, AF_IEEE802154 = 20, 24, 26, 31, 35, 36
AF_CAIF, AF_NFC, AF_XDP, AF_MCTP = 37, 39, 44, 45
SOCK_DCCP, IPPROTO_DCCP, IPPROTO_L2TP, IPPROTO_MPTCP, IPPROTO_TRY = 6, 33, 115, 262, 253


class Link:
    """A sender, and where what it sends arrives.

    Attributes:
        stream: whether the receiver knows no messages.
        fresh: whether each check needs a link of its own.
        seed: the seed that the data must have; None for any.
    """

    def __init__(self, sender, receiver=None, *, stream=False, fresh=False, seed=None, shape=None, clean=None, keep=()):
        self.sender, self.receiver = sender, receiver
        self.stream, self.fresh, self.seed = stream, fresh, seed
        self.shape = shape or bytes
        self._clean = clean or (lambda message, _: message)
        self._keep = keep
        for sock in {sender, receiver or sender}:
            _patient(sock, DEADLINE_S)

    def collect(self, count, silence_s):
        """What arrives, message by message, until it is `count` bytes or nothing comes any more."""
        messages = []
        poll = select.poll()
        poll.register(self.receiver, select.POLLIN)
        while sum(map(len, messages)) < count and poll.poll(1000 * silence_s):
            message = self._clean(*self._receive())
            if message == b"":
                break
            if message is not None:  # None: not for us
                messages.append(message)
        return messages

    def _receive(self):
        try:
            if self.receiver.family == socket.AF_PACKET:
                return self.receiver.recvfrom(1 << 17)
            return self.receiver.recv(1 << 17), None  # Python cannot read the addresses of all families
        except BlockingIOError:
            return b"", None


class Family:
    """One kind of socket: how to open a link, and how many bytes to send through it."""

    def __init__(self, name, opener, *arguments, sizes=(SMALL, PAGES)):
        self.name, self._sizes = name, sizes
        self.open = lambda: opener(*arguments)

    def checks(self):
        """(size, way) of every check."""
        return [(size, way) for size in self._sizes for way in WAYS]


# --- help ---------------------------------------------------------------------------------------------------------


def _patient(sock, seconds):
    """What `datafile.patient` does, for families to whose sockets Python passes numbers only.

    One that does not know the option waits until the caller's alarm.
    """
    value = struct.pack("@ll", int(seconds), 0)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        _LIBC.setsockopt(sock.fileno(), socket.SOL_SOCKET, option, value, len(value))
    return sock


def _call(name, sock, address):
    """bind() or connect() with an address that Python does not know."""
    if getattr(_LIBC, name)(sock.fileno(), address, len(address)):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _listener(family, kind, protocol, address, options=()):
    sock = socket.socket(family, kind, protocol)
    for option in options:
        sock.setsockopt(*option)
    sock.bind(address)
    sock.listen(4)
    return _patient(sock, DEADLINE_S)


def _stream(family, kind, protocol, address, *, options=(), stream=True):
    """A connection to a listening socket, accepted."""
    listener = _listener(family, kind, protocol, address, options)
    sender = _patient(socket.socket(family, kind, protocol), DEADLINE_S)
    for option in options:
        sender.setsockopt(*option)
    sender.connect(listener.getsockname())
    receiver, _ = listener.accept()
    return Link(sender, receiver, stream=stream, keep=(listener,))


def _device(name):
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise ktap.Skip(f"there is no device {name}: its driver is missing") from None


def alone(family, kind, protocol=0):
    """A socket without a peer."""
    return Link(socket.socket(family, kind, protocol), fresh=True)


# --- one by one ---------------------------------------------------------------------------------------------------


def unix(kind):
    return Link(*socket.socketpair(socket.AF_UNIX, kind))


def raw(family, address):
    receiver = socket.socket(family, socket.SOCK_RAW, IPPROTO_TRY)
    receiver.bind((address, 0))
    sender = socket.socket(family, socket.SOCK_RAW, IPPROTO_TRY)
    sender.connect((address, 0))
    header = 20 if family == socket.AF_INET else 0
    return Link(sender, receiver, clean=lambda message, _: message[header:])


def ping(family, address, protocol, request):
    """An echo request is answered by the kernel; all data begins with its seed, which makes it a request."""
    sock = socket.socket(family, socket.SOCK_DGRAM, protocol)
    sock.connect((address, 0))
    start = struct.pack("<Q", request)
    return Link(sock, sock, seed=request, clean=lambda message, _: start + message[8:])


def netlink():
    receiver = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_USERSOCK)
    receiver.bind((0, 0))
    sender = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_USERSOCK)
    sender.connect(receiver.getsockname())
    return Link(sender, receiver)


def packet(kind):
    """On lo; a receiver sees what goes out as well as what comes in."""
    every, own = 3, 0x88B5
    receiver = socket.socket(socket.AF_PACKET, kind, socket.htons(every))
    receiver.bind(("lo", every))
    sender = socket.socket(socket.AF_PACKET, kind, 0)
    sender.bind(("lo", own))
    outgoing = 4
    return Link(sender, receiver, clean=lambda message, address: None if address[2] == outgoing else message)


def can_raw():
    _device("vcan0")
    sender, receiver = (socket.socket(socket.AF_CAN, socket.SOCK_RAW, socket.CAN_RAW) for _ in range(2))
    for sock in (sender, receiver):
        sock.bind(("vcan0",))
    return Link(sender, receiver, shape=_can_frame)


def _can_frame(data):
    return struct.pack("=IBxxx", 0x123, 8) + bytes(data)


def can_bcm():
    """Told to send one frame (TX_SEND), the broadcast manager does; a raw socket sees it."""
    _device("vcan0")
    receiver = socket.socket(socket.AF_CAN, socket.SOCK_RAW, socket.CAN_RAW)
    receiver.bind(("vcan0",))
    sender = socket.socket(socket.AF_CAN, socket.SOCK_DGRAM, socket.CAN_BCM)
    sender.connect(("vcan0",))
    head = struct.pack("@IIIlllliI0q", 4, 0, 0, 0, 0, 0, 0, 0x123, 1)
    return Link(sender, receiver, shape=lambda data: head + _can_frame(data), clean=lambda message, _: head + message)


def can_isotp():
    _device("vcan0")
    sender, receiver = (socket.socket(socket.AF_CAN, socket.SOCK_DGRAM, socket.CAN_ISOTP) for _ in range(2))
    receiver.bind(("vcan0", 0x20, 0x10))
    sender.bind(("vcan0", 0x10, 0x20))
    return Link(sender, receiver)


def can_j1939():
    _device("vcan0")
    sender, receiver = (socket.socket(socket.AF_CAN, socket.SOCK_DGRAM, socket.CAN_J1939) for _ in range(2))
    no_name, no_pgn, pgn = socket.J1939_NO_NAME, socket.J1939_NO_PGN, 0x12300
    receiver.bind(("vcan0", no_name, no_pgn, 0x80))
    sender.bind(("vcan0", no_name, no_pgn, 0x20))
    sender.connect(("vcan0", no_name, pgn, 0x80))
    return Link(sender, receiver)


def sctp(family, address, kind):
    if kind == socket.SOCK_STREAM:
        return _stream(family, kind, socket.IPPROTO_SCTP, (address, 0), stream=False)
    receiver = _listener(family, kind, socket.IPPROTO_SCTP, (address, 0))
    sender = _patient(socket.socket(family, kind, socket.IPPROTO_SCTP), DEADLINE_S)
    sender.connect(receiver.getsockname())
    return Link(sender, receiver)


def mptcp(family, address):
    return _stream(family, socket.SOCK_STREAM, IPPROTO_MPTCP, (address, 0))


def dccp(family, address):
    sol_dccp, service = 269, 2
    return _stream(
        family,
        SOCK_DCCP,
        IPPROTO_DCCP,
        (address, 0),
        options=[(sol_dccp, service, struct.pack("!I", 42))],
        stream=False,
    )


def tipc(kind):
    name, lower = 18888, os.getpid()
    receiver = socket.socket(socket.AF_TIPC, kind)
    receiver.bind((socket.TIPC_ADDR_NAMESEQ, name, lower, lower, socket.TIPC_NODE_SCOPE))
    sender = _patient(socket.socket(socket.AF_TIPC, kind), DEADLINE_S)
    to = (socket.TIPC_ADDR_NAME, name, lower, 0)
    if kind in {socket.SOCK_RDM, socket.SOCK_DGRAM}:
        sender.connect(to)
        return Link(sender, receiver)
    receiver.listen(4)
    _patient(receiver, DEADLINE_S)
    sender.setblocking(False)  # connect() waits for accept()
    try:
        sender.connect(to)
    except BlockingIOError:
        pass
    end, _ = receiver.accept()
    sender.setblocking(True)
    return Link(sender, end, stream=kind == socket.SOCK_STREAM, keep=(receiver,))


def vsock(kind):
    local, port = 1, 7100
    listener = _listener(socket.AF_VSOCK, kind, 0, (local, port))
    sender = _patient(socket.socket(socket.AF_VSOCK, kind), DEADLINE_S)
    sender.connect((local, port))
    receiver, _ = listener.accept()
    return Link(sender, receiver, stream=kind == socket.SOCK_STREAM, keep=(listener,))


def qrtr():
    receiver = socket.socket(socket.AF_QIPCRTR, socket.SOCK_DGRAM)
    receiver.bind((1, 0x4500))
    sender = socket.socket(socket.AF_QIPCRTR, socket.SOCK_DGRAM)
    sender.connect((1, 0x4500))
    return Link(sender, receiver)


def rds():
    """Between two local addresses, which RDS joins without TCP."""
    sender, receiver = (socket.socket(AF_RDS, socket.SOCK_SEQPACKET) for _ in range(2))
    receiver.bind(("127.0.0.1", 4000))
    sender.bind(("127.0.0.1", 4001))
    sender.connect(("127.0.0.1", 4000))
    return Link(sender, receiver)


def l2tp_ip(family):
    """A control message, which has bits set in its first byte and the number of the receiver in its fifth to eighth."""
    here, there = 78, 77

    def address(number):
        if family == socket.AF_INET:
            return struct.pack("=HH4sI4x", family, 0, socket.inet_aton("127.0.0.1"), number)
        return struct.pack("=HHI16sII", family, 0, 0, socket.inet_pton(family, "::1"), 0, number)

    receiver = socket.socket(family, socket.SOCK_DGRAM, IPPROTO_L2TP)
    _call("bind", receiver, address(there))
    sender = socket.socket(family, socket.SOCK_DGRAM, IPPROTO_L2TP)
    _call("bind", sender, address(here))
    _call("connect", sender, address(there))
    head = struct.pack("!HHI", 0xC803, SMALL, there)
    return Link(sender, receiver, shape=lambda data: head + bytes(data))


def l2tp_ppp():
    """Two tunnels over UDP that lead into each other; PPP frames that no PPP unit takes come out of the socket."""
    ends = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    for end in ends:
        end.bind(("127.0.0.1", 0))
    keep = list(ends)
    found = []
    for mine, (end, other) in enumerate((ends, ends[::-1]), 1):
        end.connect(other.getsockname())
        to = struct.pack("=H", socket.AF_INET) + struct.pack(
            "!H4s8x", other.getsockname()[1], socket.inet_aton("127.0.0.1")
        )
        for session in (0, 1):
            sock = socket.socket(AF_PPPOX, socket.SOCK_DGRAM, 1)
            _call(
                "connect",
                sock,
                struct.pack("=HIii16sHHHH", AF_PPPOX, 1, 0, end.fileno(), to, mine, session, 3 - mine, session),
            )
            (found if session else keep).append(sock)
    return Link(*found, keep=keep)


def pppoe():
    """One session between the two ends of a veth pair."""
    found = []
    for name, remote in (("two0", "020000000002"), ("two1", "020000000001")):
        _device(name)
        sock = socket.socket(AF_PPPOX, socket.SOCK_STREAM, 0)
        address = struct.pack("=HI", AF_PPPOX, 0) + struct.pack("!H6s16s", 5, bytes.fromhex(remote), name.encode())
        _call("connect", sock, address)
        found.append(sock)
    # Frames whose first byte is odd (a shortened protocol number) are dropped: this one is LCP's.
    return Link(*found, shape=lambda data: b"\xc0\x21" + bytes(data))


def _llc_address(mac, sap):
    return struct.pack("=HHBBBB6s2x", AF_LLC, 1, 0, 0, 0, sap, bytes.fromhex(mac))


def llc_datagram():
    """Sends to the address that it is bound to: its own."""
    _device("own0")
    sock = socket.socket(AF_LLC, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"own0")
    _call("bind", sock, _llc_address("020000000003", 0x42))
    return Link(sock, sock)


def llc_stream():
    _device("two0")
    listener = socket.socket(AF_LLC, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"two0")
    _call("bind", listener, _llc_address("020000000001", 0x46))
    listener.listen(4)
    sender = socket.socket(AF_LLC, socket.SOCK_STREAM)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"two1")
    _call("bind", sender, _llc_address("020000000002", 0x48))
    _patient(sender, DEADLINE_S)
    _call("connect", sender, _llc_address("020000000001", 0x46))
    receiver = _accept(_patient(listener, DEADLINE_S))
    return Link(sender, receiver, stream=True, keep=(listener,))


def _accept(listener):
    """accept() without asking for an address that Python cannot read."""
    end = _LIBC.accept(listener.fileno(), None, None)
    if end < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"accept: {os.strerror(number)}")
    return socket.socket(fileno=end, family=listener.family, type=listener.type, proto=listener.proto)


def appletalk():
    """Between the two ends of a veth pair, nodes 9 and 10 of network 7; the route leads to the end that is set last."""
    net, siocsifaddr = socket.htons(7), 0x8916

    def address(node, port):
        return struct.pack("=HBxHBx", AF_APPLETALK, port, net, node)

    sender, receiver = (socket.socket(AF_APPLETALK, socket.SOCK_DGRAM) for _ in range(2))
    for name, node in ((b"two1", 10), (b"two0", 9)):
        request = struct.pack("16s", name) + address(node, 0) + struct.pack("!BxHH2x", 2, 7, 7) + bytes(8)
        fcntl.ioctl(sender, siocsifaddr, request)
    _call("bind", receiver, address(10, 200) + bytes(8))
    _call("bind", sender, address(9, 201) + bytes(8))
    _call("connect", sender, address(10, 200) + bytes(8))
    return Link(sender, receiver)


def _ax25_address(family, call):
    return struct.pack("=H7s3xi", family, call, 0)


def netrom():
    """A circuit from the node to itself."""
    _device("nr0")
    call = bytes.fromhex("988a9caab04002")
    listener = socket.socket(AF_NETROM, socket.SOCK_SEQPACKET)
    _call("bind", listener, _ax25_address(AF_NETROM, call))
    listener.listen(4)
    sender = socket.socket(AF_NETROM, socket.SOCK_SEQPACKET)
    _call("connect", sender, _ax25_address(AF_NETROM, call))
    receiver = _accept(listener)
    return Link(sender, receiver, keep=(listener,))


def rose():
    """The same, with another kind of address."""
    _device("rose0")
    address, call = bytes.fromhex("1234567890"), bytes.fromhex("988a9caab04002")
    name = struct.pack("=H5s7s2xi7sx", AF_ROSE, address, call, 0, bytes(7))
    listener = socket.socket(AF_ROSE, socket.SOCK_SEQPACKET)
    _call("bind", listener, name)
    listener.listen(4)
    sender = socket.socket(AF_ROSE, socket.SOCK_SEQPACKET)
    _call("bind", sender, struct.pack("=H5s7s2xi7sx", AF_ROSE, address, bytes.fromhex("988a9caab04004"), 0, bytes(7)))
    _call("connect", sender, name)
    receiver = _accept(listener)
    return Link(sender, receiver, keep=(listener,))


def key():
    """SADB_FLUSH of ESP, whose number and process come back in the answer."""
    sock = socket.socket(AF_KEY, socket.SOCK_RAW, 2)
    return Link(sock, sock, shape=lambda data: struct.pack("=BBBBHH", 2, 9, 0, 3, 2, 0) + bytes(data))


def random_numbers():
    """AF_ALG's random number generator, which takes nothing."""
    sock = socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)
    try:
        sock.bind(("rng", "stdrng"))
    except FileNotFoundError:
        raise ktap.Skip("the kernel lacks AF_ALG's rng") from None
    operation, _ = sock.accept()
    return Link(operation, keep=(sock,))


def every():
    """All kinds, in the order in which they are checked."""
    four, six = (socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")
    stream, datagram, sequenced = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET
    frame = (8,)
    return [
        Family("UNIX datagram", unix, datagram),
        Family("UNIX seqpacket", unix, sequenced),
        Family("raw IPv4", raw, *four),
        Family("raw IPv6", raw, *six),
        Family("ping IPv4", ping, *four, socket.IPPROTO_ICMP, 8),
        Family("ping IPv6", ping, *six, socket.IPPROTO_ICMPV6, 128),
        Family("NETLINK", netlink),
        Family("PACKET raw", packet, socket.SOCK_RAW),
        Family("PACKET datagram", packet, datagram),
        Family("SCTP IPv4 stream", sctp, *four, stream),
        Family("SCTP IPv6 stream", sctp, *six, stream),
        Family("SCTP IPv4 seqpacket", sctp, *four, sequenced),
        Family("MPTCP IPv4", mptcp, *four),
        Family("MPTCP IPv6", mptcp, *six),
        Family("DCCP IPv4", dccp, *four),
        Family("DCCP IPv6", dccp, *six),
        Family("TIPC stream", tipc, stream),
        Family("TIPC seqpacket", tipc, sequenced),
        Family("TIPC rdm", tipc, socket.SOCK_RDM),
        Family("TIPC datagram", tipc, datagram),
        Family("VSOCK stream", vsock, stream),
        Family("VSOCK seqpacket", vsock, sequenced),
        Family("VSOCK datagram, alone", alone, socket.AF_VSOCK, datagram),
        Family("QRTR", qrtr),
        Family("RDS", rds),
        Family("L2TP over IPv4", l2tp_ip, socket.AF_INET, sizes=(SMALL,)),
        Family("L2TP over IPv6", l2tp_ip, socket.AF_INET6, sizes=(SMALL,)),
        Family("L2TP PPP", l2tp_ppp),
        Family("PPPoE", pppoe),
        Family("LLC datagram", llc_datagram),
        Family("LLC stream", llc_stream),
        Family("CAN raw", can_raw, sizes=frame),
        Family("CAN BCM", can_bcm, sizes=frame),
        Family("CAN ISOTP", can_isotp, sizes=(SMALL, 8000)),
        Family("CAN J1939", can_j1939),
        Family("KEY", key, sizes=frame),
        Family("APPLETALK", appletalk),
        Family("NETROM", netrom, sizes=(200,)),
        Family("ROSE", rose, sizes=(100,)),
        Family("AX25 datagram, alone", alone, AF_AX25, datagram),
        Family("AX25 seqpacket, alone", alone, AF_AX25, sequenced),
        Family("X25, alone", alone, AF_X25, sequenced),
        Family("ATM PVC, alone", alone, AF_ATMPVC, datagram),
        Family("ATM SVC, alone", alone, AF_ATMSVC, datagram),
        Family("CAIF stream, alone", alone, AF_CAIF, stream),
        Family("CAIF seqpacket, alone", alone, AF_CAIF, sequenced),
        Family("PHONET datagram, alone", alone, AF_PHONET, datagram),
        Family("PHONET pipe, alone", alone, AF_PHONET, sequenced, 2),
        Family("IEEE802154 raw, alone", alone, AF_IEEE802154, socket.SOCK_RAW),
        Family("IEEE802154 datagram, alone", alone, AF_IEEE802154, datagram),
        Family("MCTP, alone", alone, AF_MCTP, datagram),
        Family("XDP, alone", alone, AF_XDP, socket.SOCK_RAW),
        Family("Bluetooth L2CAP, alone", alone, AF_BLUETOOTH, sequenced),
        Family("Bluetooth HCI, alone", alone, AF_BLUETOOTH, socket.SOCK_RAW, 1),
        Family("NFC raw, alone", alone, AF_NFC, sequenced),
        Family("ALG, alone", alone, socket.AF_ALG, sequenced),
        Family("ALG random numbers", random_numbers),
    ]
