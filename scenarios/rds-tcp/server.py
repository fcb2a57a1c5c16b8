#!/usr/bin/python3
"""Sets up the server: binds its socket, then answers in the background."""

import os
import sys

import messages

sock = messages.endpoint(os.environ["LAB_SERVER"], messages.PORT)
if child := os.fork():
    with open("server.pid", "w") as file:
        file.write(str(child))
    raise SystemExit
os.setsid()
log = os.open(os.path.join(os.environ["LAB_ATTACH"], "server.log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
for descriptor in (0, 1, 2):
    os.dup2(log, descriptor)
while True:
    try:
        messages.serve(sock)
    except OSError as error:  # the client's check sees that no answer comes
        print(f"request failed: {error}", file=sys.stderr, flush=True)
