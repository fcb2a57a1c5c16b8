#!/usr/bin/python3
"""Listens, goes to the background, and sends 1 MiB with its sum before it to everybody who connects."""

import hashlib
import os
import socket

listener = socket.create_server((os.environ["LAB_SERVER"], 7001))
if os.fork():
    raise SystemExit
os.setsid()
for descriptor in (0, 1, 2):
    os.dup2(os.open("/dev/null", os.O_RDWR), descriptor)
data = bytes(range(251)) * 4178
while True:
    sock, _ = listener.accept()
    with sock:
        sock.sendall(hashlib.sha256(data).hexdigest().encode() + data)
