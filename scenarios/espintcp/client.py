#!/usr/bin/python3
"""espintcp: messages of user space on the socket, and ping, UDP and TCP through the tunnel that the socket carries."""

import os
import socket
import subprocess
import threading
import time

import tunnel
from tunnel import datafile

import exchange
import ktap

FILE = os.path.join(os.environ.get("LAB_TMP", "/tmp"), "data")
LONG = 1 << 19
# A message has 16 bits for its length, which count themselves and the mark.
MESSAGES = (1, 4091, 4092, 4093, 16384, 65529)
DATAGRAMS = (1, 100, 1000, 1390)
TUNNEL = (tunnel.INNER["server"], tunnel.ECHO)


def connect(port):
    """A connection with espintcp at both ends."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((tunnel.OUTER["client"], port))
    datafile.patient(sock, tunnel.DEADLINE_S)
    sock.connect((tunnel.OUTER["server"], port))
    tunnel.attach(sock)
    if (greeting := take(sock)) != tunnel.MARK + b"ready":
        raise AssertionError(f"the server greets with {greeting!r}")
    return sock


def take(sock):
    """The next message."""
    try:
        return sock.recv(65536)
    except OSError as error:
        raise datafile.explain(error) from None


def messages(sock, seed):
    """Messages of all sizes: there, and back."""
    for number, size in enumerate(MESSAGES):
        sock.send(tunnel.MARK + datafile.sent(size, seed + number))
        try:
            datafile.same(take(sock), tunnel.MARK + datafile.content(size, seed + number))
        except AssertionError as error:
            raise AssertionError(f"message of {size} bytes: {error}") from None


def ping():
    """Echo requests through the tunnel, small and in fragments."""
    for size in (56, 1300, 4000):
        command = ("ping", "-q", "-c", "3", "-i", "0.2", "-W", "5", "-s", str(size), TUNNEL[0])
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or " 0% packet loss" not in done.stdout:
            raise AssertionError(f"{' '.join(command)}: {done.stdout.strip()} {done.stderr.strip()}")


def datagrams(how):
    """UDP there and back; a corked datagram is made of a copied start and a part of a file."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        datafile.patient(sock, tunnel.DEADLINE_S)
        sock.bind((tunnel.INNER["client"], 0))
        sock.connect(TUNNEL)
        for number, size in enumerate(DATAGRAMS):
            seed = 200 + number
            datafile.make(FILE, size, seed)
            if how == "send":
                sock.send(datafile.sent(size, seed))
            else:
                sock.send(b"start", socket.MSG_MORE)
                datafile.send(sock, FILE, 0, size, how)
            right = bytes(datafile.content(size, seed))
            try:
                datafile.same(take(sock), right if how == "send" else b"start" + right)
            except AssertionError as error:
                raise AssertionError(f"datagram of {size} bytes: {error}") from None


def stream(size, seed, how):
    """TCP through the tunnel: a file there, another back; returns the seconds of both."""
    datafile.make(FILE, size, seed)
    with datafile.patient(socket.socket(), tunnel.DEADLINE_S) as sock:
        sock.bind((tunnel.INNER["client"], 0))
        sock.connect(TUNNEL)
        sock.sendall(f"{size} {seed}\n".encode())
        began = time.monotonic()
        datafile.send(sock, FILE, 0, size, how)
        there = exchange.line(sock).strip()
        got = datafile.receive(sock, size)
        seconds = time.monotonic() - began
    if there != datafile.digest(datafile.content(size, seed)):
        raise AssertionError(f"{size} bytes: not what the server got")
    datafile.same(got, datafile.content(size, seed + 1))
    return seconds


def both_ways(sock):
    """Messages of user space while the tunnel is in use: they meet in one queue."""
    failures = []

    def use_tunnel():
        try:
            stream(LONG // 2, 300, "sendfile")
        except (OSError, AssertionError) as error:
            failures.append(error)

    thread = threading.Thread(target=use_tunnel)
    thread.start()
    try:
        number = 0
        while thread.is_alive() or not number:
            # "no buffer space" is an answer here: a packet is on its way through the connection
            try:
                sock.send(tunnel.MARK + datafile.sent(3000, 400 + number))
            except OSError as error:
                if error.errno not in {105, 11}:
                    raise
                time.sleep(0.01)
                continue
            datafile.same(take(sock), tunnel.MARK + datafile.content(3000, 400 + number))
            number += 1
    finally:
        thread.join()
    if failures:
        raise failures[0]


def sendfile():
    """sendfile into the socket is refused, or it is a message: bytes without a length break the connection."""
    size = 1000
    with open(FILE, "wb") as file:
        file.write(tunnel.MARK + datafile.sent(size, 500))
    with connect(tunnel.PLAIN) as sock:
        datafile.patient(sock, 3 * float(os.environ.get("LAB_SCALE", "1")))
        try:
            datafile.send(sock, FILE, 0, len(tunnel.MARK) + size, "sendfile")
        except OSError as error:
            print(f"# sendfile: {error}", flush=True)
        else:
            datafile.same(take(sock), tunnel.MARK + datafile.content(size, 500))
            return
        # What was refused has left nothing behind.
        messages(sock, 600)


def main():
    ktap.plan(11)
    tunnel.set_up("client", "server")
    with connect(tunnel.CARRIER) as sock:
        ktap.check("messages of all sizes on the socket", messages, sock, 100)
        ktap.check("ping through the tunnel", ping)
        for how in ("send", "write", "sendfile", "splice"):
            ktap.check(f"UDP through the tunnel, {how}", datagrams, how)
        for how in ("sendfile", "write"):
            seconds = ktap.check(f"TCP through the tunnel, {how}, {LONG >> 10} KiB each way", stream, LONG, 250, how)
            if seconds and how == "sendfile":
                ktap.metric("espintcp_tcp", 2 * LONG / (1 << 20) / seconds, "MiB/s", "higher")
        ktap.check("messages while the tunnel is in use", both_ways, sock)
        ktap.check("messages of all sizes on the socket, at the end", messages, sock, 150)
    ktap.check("sendfile into the socket is refused, or makes a message", sendfile)


main()
