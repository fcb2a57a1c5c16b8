"""The two ends of the espintcp scenario: a TCP connection from port 4500 to 4500, and a tunnel of ESP through it.

The outer addresses are those of the guests, the inner ones are on lo and reached through the tunnel alone.
"""

import os
import socket
import subprocess
import sys

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import datafile

DEADLINE_S = 15 * float(os.environ.get("LAB_SCALE", "1"))
CARRIER, PLAIN, ECHO = 4500, 4501, 7002
"""Ports: of the connection, of the one for what is refused or not, of what talks through the tunnel."""
MARK = bytes(4)
"""What a message of user space begins with, and no packet does."""
OUTER = {"server": os.environ.get("LAB_SERVER", ""), "client": os.environ.get("LAB_CLIENT", "")}
INNER = {"server": "10.99.0.1", "client": "10.99.0.2"}
_ESPINTCP, _TCP_ULP = b"espintcp", 31
_ENCRYPTION = ("aead", "rfc4106(gcm(aes))", "0x" + "5a" * 20, "128")


def attach(sock):
    """Make espintcp the socket's upper layer."""
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_ULP, _ESPINTCP)
    return datafile.patient(sock, DEADLINE_S)


def set_up(own, other):
    """Addresses, states and policies of one end, by role."""
    for line in (
        ("address", "add", f"{INNER[own]}/32", "dev", "lo"),
        ("route", "add", INNER[other], "via", OUTER[other], "src", INNER[own]),
        *(_state(source, target) for source, target in ((own, other), (other, own))),
        _policy(own, other, "out"),
        _policy(other, own, "in"),
    ):
        done = subprocess.run(("ip", *line), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"ip {' '.join(line)}: {done.stderr.strip()}")


def _state(source, target):
    number = "0x1001" if source == "client" else "0x1002"
    ends = ("src", OUTER[source], "dst", OUTER[target])
    head = ("xfrm", "state", "add", *ends, "proto", "esp", "spi", number, "reqid", "1", "mode", "tunnel")
    return (*head, *_ENCRYPTION, "encap", "espintcp", str(CARRIER), str(CARRIER), "0.0.0.0")


def _policy(source, target, direction):
    selector = ("src", f"{INNER[source]}/32", "dst", f"{INNER[target]}/32", "dir", direction)
    template = ("src", OUTER[source], "dst", OUTER[target], "proto", "esp", "reqid", "1", "mode", "tunnel")
    return ("xfrm", "policy", "add", *selector, "tmpl", *template)
