#!/usr/bin/python3
"""Datagrams by sendfile, splice and corked sends: to the server, into a network namespace, and on lo.

A datagram is described by its pieces, (how, bytes), and by what holds them together. What must hold is what
udp(7) and send(2) promise: corked pieces make one datagram. One call of splice or sendfile makes one as well, except
that over IPv6 kernels with ->sendpage() make one of each page: there, both hold.
"""

import base64
import os
import socket
import subprocess
from collections import Counter

import peer
from peer import datafile

import ktap
import netns
from outcome import name_of, record

SIZES = (1, 100, 1452, 1453, 1472, 1473, 2952, 4095, 4096, 4097, 8192, 16001, 60000)
"""Around one packet of 1500 bytes, of two, around a page, and near what a datagram can hold."""
OFFSETS = (0, 4093)
PROTOCOLS = {"UDP over IPv4": (False, False), "UDP over IPv6": (True, False), "UDPLITE over IPv4": (False, True)}
PROTOCOLS["UDPLITE over IPv6"] = (True, True)
FILE = os.path.join(os.environ.get("LAB_TMP", "/tmp"), "datagrams")
TRIES = 4
UDP_CORK, UDP_SEGMENT = 1, 103
SEGMENT = 1000
MARKER = b"this comes after it"
CALL, PAGE = "one datagram a call", "one datagram a page"

CORKED = (
    (("write", 100), ("splice", 500)),
    (("splice", 500), ("write", 100)),
    (("write", 8), ("splice", 4096), ("write", 9)),
    (("sendfile", 1000), ("sendfile", 3000)),
    (("write", 33), ("splice", 30000), ("sendfile", 20001), ("write", 7)),
    (("splice", 1480), ("splice", 8), ("splice", 1)),
    (("splice", 13),) * 12,
    (("splice", 60000), ("write", 1)),
)
MORE = (
    (("write", 64), ("splice", 1000)),
    (("write", 1), ("sendfile", 5000)),
    (("splice", 3000), ("write", 100)),
    (("write", 2000), ("splice", 40000)),
    (("splice", 1), ("splice", 1471), ("sendfile", 1)),
)
# A copied part that ends around the end of the first packet, then pages: the last bytes of a packet that is too
# full move to the next one.
EDGES = tuple((("write", first), ("splice", 20)) for first in range(1440, 1480, 3))
EDGES += tuple((("splice", first), ("write", 20)) for first in range(1440, 1480, 3))


class Path:
    """One way to a receiver: its addresses, and the connection on which it is asked."""

    def __init__(self, v4, v6):
        self.address = {False: v4, True: v6}
        sock = socket.create_connection((v4, peer.PORT), peer.DEADLINE_S)
        sock.settimeout(None)
        self.control = peer.Control(sock)

    def socket(self, protocol, port):
        """A sending socket, connected."""
        ipv6, lite = PROTOCOLS[protocol]
        sock = peer.datagram_socket(ipv6, lite)
        sock.connect((self.address[ipv6], port))
        return datafile.patient(sock, peer.DEADLINE_S)

    def exchange(self, protocol, send, how="recv"):
        """Compare what arrives with what `send(sock)` says may: datagrams by name; again where some are lost.

        Returns:
            The name that fits.
        """
        ipv6, lite = PROTOCOLS[protocol]
        peer.datagram_socket(ipv6, lite).close()  # a server that was asked waits for datagrams
        for left in reversed(range(TRIES)):
            self.control.say({"ipv6": ipv6, "lite": lite, "how": how})
            if (port := self.control.hear()) is None:
                raise ktap.Skip("the server's kernel has no UDP-Lite")
            with self.socket(protocol, port) as sock:
                expected = {}
                try:
                    expected = send(sock)
                finally:
                    # What all the forms have in common is the number of bytes.
                    total = sum(map(len, next(iter(expected.values()), ())))
                    self.control.say(total)
                    answer = self.control.hear()
            got = [base64.b64decode(datagram) for datagram in answer["got"]]
            form, lost = _compare(got, expected)
            if not lost:
                return form
            if not left:
                raise AssertionError(f"{lost}, {TRIES} times; counted: {answer['errors']}")


def _compare(got, expected):
    """Compare by SHA-256, in any order, with each of the forms; (the form that fits, what is lost in words).

    Raises:
        AssertionError: what came was sent in none of these forms.
    """
    forms = [(name, *_held(got, datagrams)) for name, datagrams in expected.items()]
    for name, wrong, lost in sorted(forms, key=lambda form: len(form[2])):
        if not wrong and lost:
            return name, f"lost {len(lost)} of {len(expected[name])} datagrams, the first of {len(lost[0])} bytes"
        if not wrong:
            return name, ""
    name, wrong, lost = forms[0]
    nearest = min(lost or expected[name], key=lambda datagram: abs(len(datagram) - len(wrong[0])))
    told = f"lengths {_some(got)} instead of {_some(expected[name])}"
    raise AssertionError(f"a datagram that was not sent so: {datafile.difference(wrong[0], nearest)}; {told}")


def _held(got, expected):
    """(datagrams of `got` that are not in `expected`, those of `expected` that are not in `got`)."""
    missing = Counter(datafile.digest(datagram) for datagram in expected)
    wrong = []
    for datagram in got:
        digest = datafile.digest(datagram)
        if missing[digest]:
            missing[digest] -= 1
        else:
            wrong.append(datagram)
    lost = []
    for datagram in expected:
        digest = datafile.digest(datagram)
        if missing[digest]:
            missing[digest] -= 1
            lost.append(datagram)
    return wrong, lost


def _some(datagrams):
    lengths = [len(datagram) for datagram in datagrams]
    return f"{lengths[:10]}{' ...' if len(lengths) > 10 else ''}"


def _total(pieces):
    return sum(size for _, size in pieces)


def _piece(sock, file, offset, how, size, more):
    """One call, which must take all of it: a datagram is not sent in halves."""
    if how == "write":
        done = sock.send(os.pread(file, size, offset), socket.MSG_MORE if more else 0)
    elif how == "sendfile":
        done = os.sendfile(sock.fileno(), file, offset, size)
    else:
        reader, writer = os.pipe()
        try:
            if os.splice(file, writer, size, offset_src=offset) != size:
                raise AssertionError(f"a pipe does not take {size} bytes")
            done = os.splice(reader, sock.fileno(), size, flags=os.SPLICE_F_MORE if more else 0)
        finally:
            os.close(reader)
            os.close(writer)
    if done != size:
        raise AssertionError(f"{how} took {done} bytes of {size}")


def _cork(sock, on):
    sock.setsockopt(socket.IPPROTO_UDP, UDP_CORK, int(on))


def _forms(protocol, content, offset, described, *, cork, segment):
    """The datagrams that may come, by name: one a call, or, where nothing is promised, one a page."""
    ends = {CALL: lambda where, last: last}
    if PROTOCOLS[protocol][0] and not cork:
        ends[PAGE] = lambda where, last: last or where % datafile.PAGE == 0
    found = {}
    for name, ends_here in ends.items():
        expected, at, start = [], offset, offset
        for pieces in described:
            for number, (how, size) in enumerate(pieces, 1):
                at += size
                if number < len(pieces):
                    continue
                cuts = [i for i in range(at - size + 1, at + 1) if ends_here(i, i == at)] if how != "write" else [at]
                for cut in cuts:
                    expected.append(bytes(content[start:cut]))
                    start = cut
        found[name] = expected
    if segment:
        whole = found[CALL]
        found = {CALL: [one[i : i + segment] for one in whole for i in range(0, len(one), segment)]}
    return found


def datagrams(path, protocol, described, *, offset=0, cork=False, how="recv", segment=0):
    """Send datagrams as described, one after the other from one file, and compare; returns the form that fits."""
    total = offset + sum(map(_total, described))
    seed = 1 + len(described) + offset + total % 997
    datafile.make(FILE, total, seed)
    expected = _forms(
        protocol, memoryview(datafile.content(total, seed)), offset, described, cork=cork, segment=segment
    )

    def send(sock):
        if segment:
            sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, segment)
        at = offset
        with open(FILE, "rb", buffering=0) as file:
            for pieces in described:
                if cork:
                    _cork(sock, True)
                for number, (way, size) in enumerate(pieces, 1):
                    _piece(sock, file.fileno(), at, way, size, more=not cork and number < len(pieces))
                    at += size
                if cork:
                    _cork(sock, False)
        return expected

    return path.exchange(protocol, send, how)


def end_of_file(path, protocol):
    """sendfile that is asked for more than the file has; a datagram sent after it shows where the first one ends."""
    size, seed = 5000, 41
    datafile.make(FILE, size, seed)
    data = bytes(datafile.content(size, seed))

    def send(sock):
        with open(FILE, "rb", buffering=0) as file:
            if (done := os.sendfile(sock.fileno(), file.fileno(), 0, 3 * size)) != size:
                raise AssertionError(f"sendfile took {done} bytes of {size}")
        sock.send(MARKER)
        return {"ends the datagram": [data, MARKER], "leaves the datagram open": [data + MARKER]}

    return path.exchange(protocol, send)


def end_of_file_ends(path, protocol):
    """The same, where the kernel has code for it: at the file's end the datagram must go out."""
    if (outcome := end_of_file(path, protocol)) != "ends the datagram":
        raise AssertionError(f"sendfile that meets the end of the file {outcome}: the next send is added to it")


def scattered(path, protocol):
    """Many short pieces, each of another page, in one datagram: more pages than a packet has room for."""
    count, length, seed = 40, 13, 43
    size = count * datafile.PAGE
    datafile.make(FILE, size, seed)
    content = datafile.content(size, seed)
    data = b"".join(content[at : at + length] for at in range(0, size, datafile.PAGE))

    def send(sock):
        outcome = {"one datagram": [bytes(data), MARKER]}
        _cork(sock, True)
        with open(FILE, "rb", buffering=0) as file:
            try:
                for at in range(0, size, datafile.PAGE):
                    _piece(sock, file.fileno(), at, "splice", length, more=False)
            except OSError as error:
                outcome = {name_of(error): [MARKER]}
        _cork(sock, False)
        sock.send(MARKER)
        return outcome

    return path.exchange(protocol, send)


def basic(where, path, protocol):
    """What is checked on every path."""
    for way in ("splice", "sendfile"):
        for offset in OFFSETS:
            ktap.check(
                f"{where}: {way}, all sizes, file offset {offset}, {protocol}",
                datagrams,
                path,
                protocol,
                [[(way, size)] for size in SIZES],
                offset=offset,
            )
    ktap.check(f"{where}: corked parts make one datagram, {protocol}", datagrams, path, protocol, CORKED, cork=True)
    ktap.check(f"{where}: parts with MSG_MORE make one datagram, {protocol}", datagrams, path, protocol, MORE)


def edges(where, path, protocol):
    """Parts that meet near the end of a packet."""
    ktap.check(f"{where}: parts meet near a packet's end, {protocol}", datagrams, path, protocol, EDGES, cork=True)


def more(where, path, protocol):
    """What is checked where it is cheap, on one path."""
    every = [[("splice", size)] for size in SIZES]
    ktap.check(f"{where}: splice to splice, {protocol}", datagrams, path, protocol, every, offset=5, how="splice")
    record(f"{where}: splice of several pages, {protocol}", datagrams, path, protocol, [[("splice", 20000)]])
    record(f"{where}: 40 corked pieces of different pages, {protocol}", scattered, path, protocol)
    title = f"{where}: sendfile that meets the end of the file, {protocol}"
    if PROTOCOLS[protocol][1]:
        record(title, end_of_file, path, protocol)
    else:
        ktap.check(title, end_of_file_ends, path, protocol)


def segments(where, path, protocol):
    """One send of many datagrams, cut up by the kernel (UDP_SEGMENT)."""
    described = [[("splice", 14500)], [("splice", 8000)], [("sendfile", 999)], [("write", 10), ("splice", 9991)]]
    ktap.check(f"{where}: UDP_SEGMENT, {protocol}", datagrams, path, protocol, described, cork=True, segment=SEGMENT)


def command(*words):
    """Run a command; an error carries what it said."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{' '.join(words)}: {done.stderr.strip()}")


def main():
    udp = [name for name, (_, lite) in PROTOCOLS.items() if not lite]
    ktap.plan(4 * (6 + 1 + 4) + 2 * 2 + 2 * (6 + 1) + 4 * (6 + 1) + 2 + 2 * 6)
    peer.serve(peer.listen("127.0.0.1"))
    netns.run_in("far", lambda: peer.serve(peer.listen("10.78.0.1")), peer.DEADLINE_S)
    server = Path(os.environ["LAB_SERVER"], "fd77::1")
    for protocol in PROTOCOLS:
        basic("between guests", server, protocol)
        edges("between guests", server, protocol)
        more("between guests", server, protocol)
    for protocol in udp:
        segments("between guests", server, protocol)
    command("ethtool", "-K", "br0", "tx-udp-segmentation", "off")
    for protocol in udp:
        segments("between guests, no segmentation", server, protocol)
    command("ethtool", "-K", "br0", "sg", "off")
    for protocol in udp:
        basic("between guests, no scatter-gather", server, protocol)
        edges("between guests, no scatter-gather", server, protocol)
    far = Path("10.78.0.1", "fd78::1")
    for protocol in PROTOCOLS:
        basic("veth", far, protocol)
        edges("veth", far, protocol)
    for protocol in udp:
        segments("veth", far, protocol)
    local = Path("127.0.0.1", "::1")
    for protocol in udp:
        basic("lo", local, protocol)


if __name__ == "__main__":
    main()
