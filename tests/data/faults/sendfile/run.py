#!/usr/bin/env python3
"""sendfile over lo, from an odd place of a file, by a process that can be given up on."""

import os
import select
import socket
import subprocess

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
listener = socket.create_server(("127.0.0.1", 0))
near = socket.create_connection(listener.getsockname())
far, _ = listener.accept()
with open("/tmp/data", "wb") as file:
    file.write(bytes(8192))
done, tell = os.pipe()
child = os.fork()
if not child:
    with open("/tmp/data", "rb") as file:
        os.sendfile(near.fileno(), file.fileno(), 1, 4000)
    os.write(tell, b"x")
    os._exit(0)
ended = select.select([done], [], [], 10 * float(os.environ.get("LAB_SCALE", "1")))[0]
print("KTAP version 1\n1..1")
print("ok 1 - sendfile ends" if ended else "not ok 1 - sendfile ends")
os.kill(child, 9)
