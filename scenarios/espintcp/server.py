#!/usr/bin/python3
"""The server: takes the carrying connection, sends back what comes as a message, by UDP and by TCP in the tunnel."""

import os
import signal
import socket
import sys
import threading

import tunnel
from tunnel import datafile

import background
import exchange

FOLDER = os.environ.get("LAB_TMP", "/tmp")


def carry(listener):
    """Connections with espintcp: every message goes back as it came."""
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=guarded, args=(send_back, sock), daemon=True).start()


def send_back(sock):
    """One connection."""
    with tunnel.attach(sock):
        # The client waits for this: only then both ends know what the bytes mean.
        sock.send(tunnel.MARK + b"ready")
        while True:
            try:
                if message := sock.recv(65536):
                    sock.send(message)
                else:
                    return
            except BlockingIOError:
                continue


def datagrams(sock):
    """UDP through the tunnel: every datagram goes back."""
    while True:
        data, address = sock.recvfrom(65536)
        sock.sendto(data, address)


def streams(listener):
    """TCP through the tunnel: "SIZE SEED", the data; the answer is its sum and data of the next seed."""
    while True:
        sock, _ = listener.accept()
        with datafile.patient(sock, tunnel.DEADLINE_S):
            guarded(stream, sock)


def stream(sock):
    """One connection."""
    size, seed = (int(word) for word in exchange.line(sock).split())
    got = datafile.receive(sock, size)
    path = os.path.join(FOLDER, "back")
    datafile.make(path, size, seed + 1)
    sock.sendall(f"{datafile.digest(got)}\n".encode())
    datafile.send(sock, path, 0, size, "sendfile")


def guarded(function, sock):
    """An error ends one connection; the client's check sees that and says so."""
    try:
        function(sock)
    except (OSError, AssertionError) as error:
        print(f"request failed: {error}", file=sys.stderr, flush=True)


tunnel.set_up("server", "client")
outer, inner = tunnel.OUTER["server"], tunnel.INNER["server"]
datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagram.bind((inner, tunnel.ECHO))
services = (
    (carry, exchange.listen(outer, tunnel.CARRIER)),
    (carry, exchange.listen(outer, tunnel.PLAIN)),
    (streams, exchange.listen(inner, tunnel.ECHO)),
    (datagrams, datagram),
)
background.detach()
for function, sock in services:
    threading.Thread(target=function, args=(sock,), daemon=True).start()
signal.pause()
