#!/usr/bin/python3
"""Sets up the server: listens for the client's orders, then goes to the background."""

import os
import socket

import node

listener = socket.create_server(("", node.PORT))
if child := os.fork():
    with open("server.pid", "w") as file:
        file.write(str(child))
    raise SystemExit
os.setsid()
log = os.open(os.path.join(os.environ["LAB_ATTACH"], "server.log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
for descriptor in (0, 1, 2):
    os.dup2(log, descriptor)
node.serve(listener)
