"""The receiver of datagrams: asked over a TCP connection, it takes datagrams from a socket and answers with them.

A request is one line of JSON: which protocol and family, and how to take the datagrams. The answer is the port, null
where the kernel has no such protocol. Once the client has sent, it says how many bytes; when these have come, or nothing
has for a while, a second answer tells all datagrams and what the kernel's counters of errors say. Datagrams can be lost:
the client then asks again.
"""

import base64
import errno
import json
import os
import select
import socket
import sys
import threading

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import datafile
import exchange
import ktap

PORT = 7001
UDPLITE = 136
SCALE = float(os.environ.get("LAB_SCALE", "1"))
DEADLINE_S = 60 * SCALE
SILENCE_S = max(2, 1.5 * SCALE)
"""So long without a datagram, and the rest counts as lost."""
RECEIVE_BUFFER = 16 << 20
_SO_RCVBUFFORCE = 33
_LARGEST = 65536


def listen(address):
    """A listening socket for requests."""
    return exchange.listen(address, PORT)


def serve(listener):
    """Answer requests in the background, in the network namespace of the calling thread."""
    threading.Thread(target=_serve, args=(listener,), daemon=True).start()


def _serve(listener):
    while True:
        sock, _ = listener.accept()
        # An error ends this connection; the client's check sees that and says so.
        with sock:
            control = Control(sock)
            try:
                while True:
                    _answer(control, control.hear())
            except (OSError, AssertionError) as error:
                os.write(2, f"connection ended: {error}\n".encode())  # print may be cut short by the end of the process


class Control:
    """A connection on which lines of JSON go both ways."""

    def __init__(self, sock):
        self._sock = datafile.patient(sock, DEADLINE_S)
        self._lines = sock.makefile("r")

    def fileno(self):
        """For select: at most one line is under way."""
        return self._sock.fileno()

    def say(self, value):
        """Send one line."""
        try:
            self._sock.sendall((json.dumps(value) + "\n").encode())
        except OSError as error:
            raise AssertionError(f"the other end does not listen any more: {error}") from None

    def hear(self):
        """Take one line."""
        try:
            line = self._lines.readline()
        except OSError as error:
            raise AssertionError(f"the other end does not answer: {error}") from None
        if not line:
            raise AssertionError("the other end closed the connection instead of answering")
        return json.loads(line)


def datagram_socket(ipv6, lite):
    """A socket for datagrams.

    Raises:
        ktap.Skip: Linux 7 has no UDP-Lite.
    """
    try:
        return socket.socket(
            socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM, UDPLITE if lite else socket.IPPROTO_UDP
        )
    except OSError as error:
        if lite and error.errno == errno.EPROTONOSUPPORT:
            raise ktap.Skip("this kernel has no UDP-Lite") from None
        raise


def _answer(control, request):
    try:
        sock = datagram_socket(request["ipv6"], request["lite"])
    except ktap.Skip:
        control.say(None)  # in place of a port
        return
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
        sock.bind(("::" if request["ipv6"] else "0.0.0.0", 0))
        before = _errors()
        control.say(sock.getsockname()[1])
        got = _collect(control, sock, _take_splice if request["how"] == "splice" else _take_plain)
        errors = {name: value - before.get(name, 0) for name, value in _errors().items()}
        control.say(
            {
                "got": [base64.b64encode(datagram).decode() for datagram in got],
                "errors": {name: value for name, value in errors.items() if value},
            }
        )


def _collect(control, sock, take):
    """All datagrams up to the number of bytes that the client says it has sent, and what comes beyond that."""
    got, sent = [], None
    while sent is None or sum(map(len, got)) < sent:
        waiting = [sock] if sent is not None else [sock, control]
        ready = select.select(waiting, [], [], DEADLINE_S if sent is None else SILENCE_S)[0]
        if sock in ready:
            got.append(take(sock))
        elif ready:
            sent = control.hear()
        else:
            break
    try:
        while True:
            got.append(sock.recv(_LARGEST, socket.MSG_DONTWAIT))
    except BlockingIOError:
        return got


def _take_plain(sock):
    return sock.recv(_LARGEST)


def _take_splice(sock):
    """One datagram, through a pipe that holds any."""
    reader, writer = os.pipe()
    try:
        filled = os.splice(sock.fileno(), writer, _LARGEST)
        data = b""
        while len(data) < filled:
            data += os.read(reader, filled - len(data))
        return data
    finally:
        os.close(reader)
        os.close(writer)


def _errors():
    """What the kernel counted as lost or wrong, by name."""
    found = {}
    with open("/proc/net/snmp") as file:
        for names, values in zip(file, file, strict=True):
            protocol, *names = names.split()
            found |= {protocol + name: int(value) for name, value in zip(names, values.split()[1:], strict=True)}
    with open("/proc/net/snmp6") as file:
        found |= {name: int(value) for name, value in (line.split() for line in file)}
    return {name: value for name, value in found.items() if "Err" in name or "Fail" in name}
