#!/usr/bin/python3
"""Sets up the server: listens, then goes to the background; returns once calls are taken."""

import os

import service
from service import rxrpc

# The background process has to have the keyring, so it is made there; the pipe tells when it listens.
ready, listening = os.pipe()
if child := os.fork():
    os.close(listening)
    if not os.read(ready, 1):
        with open(os.path.join(os.environ["LAB_ATTACH"], "server.log")) as log:
            raise SystemExit(log.read() or "the server ended before it listened")
    with open("server.pid", "w") as file:
        file.write(str(child))
    raise SystemExit
os.setsid()
log = os.open(os.path.join(os.environ["LAB_ATTACH"], "server.log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
for descriptor in (0, 1, 2):
    os.dup2(log, descriptor)
rxrpc.add_service_key(service.SERVICE, service.SECRET, "lab-service")
sock = rxrpc.listen(os.environ["LAB_SERVER"], service.PORT, service.SERVICE, keyring="lab-service")
os.write(listening, b"1")
os.close(listening)
service.serve(sock)
