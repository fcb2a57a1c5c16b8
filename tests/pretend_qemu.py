"""A stand-in for QEMU that boots, is saved and resumed, and whose "guest" is a folder of this host.

What is put into it lies in the folder, and what is run of it runs there, with its paths in place of the guest's: a
scenario's scripts do what they say. What such a script writes to $LAB_TMP/console is printed by the guest's kernel;
where it makes $LAB_TMP/die, QEMU ends.
"""

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

VERSION = "7.2.0"
line = " ".join(sys.argv)
if "--version" in sys.argv:
    sys.stdout.write(f"QEMU emulator version {VERSION}\n")
    sys.exit(0)
if "id=lab-ctl" not in line:  # the probe of KVM
    sys.exit("pretended: no machine for this")
ends = {name: socket.socket(fileno=int(fd)) for name, fd in re.findall(r"socket,id=lab-(\w+),fd=(\d+)", line)}
console, ctl, beat, qmp = (ends[name] for name in ("console", "ctl", "beat", "qmp"))
root = Path(tempfile.mkdtemp(prefix="pretended-"))
sending = threading.Lock()
commands, running = {}, {}


def send(kind, ident, payload=b""):
    with sending:
        ctl.sendall(struct.pack("<BcHII", 0xA5, kind, 0, ident, len(payload)) + payload)


def here(text):
    """Return a guest's path as it is on this host."""
    return re.sub(r"(?<![\w/])(/tmp)?/lab\b", lambda found: f"{root}{found[0]}", text)


def beats():
    while True:
        beat.sendall(b"\0")
        time.sleep(0.1)


def answers():
    for text in qmp.makefile():
        message = json.loads(text)
        told = {"status": "completed"} if message["execute"] == "query-migrate" else {}
        qmp.sendall(json.dumps({"return": told, "id": message["id"]}).encode() + b"\n")


def put(data):
    while data:
        head, _, data = data.partition(b"\0")
        mode, size, path = head.split(b" ", 2)
        target = Path(here(path.decode()))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data[: int(size)])
        target.chmod(int(mode, 8))
        data = data[int(size) :]


def run(ident, argv, env, cwd, data, builtin):
    status, out, err = 0, b"", b""
    if builtin and argv[0] == "put":
        put(data)
    elif not builtin and any("/lab/" in word for word in argv):
        child = subprocess.Popen(
            [here(word) for word in argv],
            env={name: here(value) for name, value in env.items()},
            cwd=here(cwd),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        running[ident] = child
        out, err = child.communicate()
        status = child.returncode
    elif argv[0] == "awk":
        out = b"tcp_sendmsg\nunix_stream_sendmsg\n"
    for kind, text in ((b"O", out), (b"E", err)):
        for at in range(0, len(text), 1 << 16):
            send(kind, ident, text[at : at + (1 << 16)])
    said = root / "tmp/lab/console"
    if said.exists():
        console.sendall(said.read_bytes())
        said.unlink()
    if (root / "tmp/lab/die").exists():
        sys.stderr.write("pretended: a bug in QEMU\n")
        sys.stderr.flush()
        os._exit(1)
    send(b"D", ident, struct.pack("<BI", *((0, status) if status >= 0 else (1, -status))))


def receive(size):
    data = ctl.recv(size, socket.MSG_WAITALL) if size else b""
    if len(data) < size:
        os._exit(0)
    return data


def start(ident):
    payload, data = commands.pop(ident)
    flags, _, _, words, variables = struct.unpack_from("<IHHII", payload)
    cwd, *rest = payload[16:].decode().split("\0")
    argv, env = rest[:words], dict(pair.split("=", 1) for pair in rest[words : words + variables])
    threading.Thread(target=run, args=(ident, argv, env, cwd, bytes(data), bool(flags & 2)), daemon=True).start()


for task in (beats, answers):
    threading.Thread(target=task, daemon=True).start()
if "-incoming" not in sys.argv:
    console.sendall(b"[    0.000000] Linux version 6.1.0-pretended\n")
    send(b"H", 0, b"1 6.1.0-pretended")
while True:
    _, kind, _, ident, size = struct.unpack("<BcHII", receive(12))
    payload = receive(size)
    if kind == b"X":
        commands[ident] = (payload, bytearray())
    elif kind == b"I" and payload:
        commands[ident][1].extend(payload)
    elif kind == b"I":
        start(ident)
    elif kind == b"P":
        send(b"P", ident, b"1 6.1.0-pretended")
    elif kind == b"K" and ident in running:
        os.killpg(running[ident].pid, struct.unpack("<I", payload)[0] or signal.SIGKILL)
