"""A stand-in for QEMU that misbehaves as told by its first argument; the rest is QEMU's own command line."""

import json
import os
import re
import signal
import socket
import struct
import sys
import time

mode = sys.argv[1]
line = " ".join(sys.argv)
ends = {name: socket.socket(fileno=int(fd)) for name, fd in re.findall(r"socket,id=lab-(\w+),fd=(\d+)", line)}
console, ctl, beat, clock, qmp = (ends[name] for name in ("console", "ctl", "beat", "clock", "qmp"))


def frame(kind, ident, payload=b""):
    return struct.pack("<BcHII", 0xA5, kind, 0, ident, len(payload)) + payload


def event(name, **data):
    qmp.sendall(json.dumps({"event": name, "data": data}).encode() + b"\r\n")


def receive():
    head = ctl.recv(12, socket.MSG_WAITALL)
    if len(head) < 12:
        sys.exit(0)
    _, kind, _, ident, size = struct.unpack("<BcHII", head)
    return kind, ident, ctl.recv(size, socket.MSG_WAITALL) if size else b""


def beats(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        beat.sendall(b"\0")
        time.sleep(0.05)


def answer_qmp():
    for text in qmp.makefile():
        yield json.loads(text)


def wait():
    while True:
        time.sleep(60)


if mode == "dies":
    sys.exit("stub: Could not open 'root.erofs': No such file")
if mode == "deaf":  # neither speaks nor ends by SIGTERM
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wait()
if mode == "garbage":
    console.sendall(b"booting\n")
    ctl.sendall(b"\0\1\2 this is no frame" * 100)
    wait()
if mode == "newer":
    ctl.sendall(frame(b"H", 0, b"99 6.1"))
    wait()
if mode == "huge-frame":
    ctl.sendall(struct.pack("<BcHII", 0xA5, b"O", 0, 1, 1 << 31))
    wait()

console.sendall(b"[    0.000000] Linux version 6.1.0-stub\n")
ctl.sendall(frame(b"H", 0, b"1 6.1.0-stub"))
if mode == "refuses":
    for message in answer_qmp():
        reply = {"error": {"class": "GenericError", "desc": "Not today"}} if message["id"] > 1 else {"return": {}}
        qmp.sendall(b'not JSON\n{"event":\n[1]\n' + json.dumps(reply | {"id": message["id"]}).encode() + b"\n")

kind, ident, _ = receive()
if mode == "crashes":
    os.kill(os.getpid(), signal.SIGSEGV)
elif mode == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
elif mode == "killed-inside":  # as whoever runs QEMU as a child tells of it
    sys.exit(128 + signal.SIGKILL)
elif mode == "stopped":  # what QEMU makes of a SIGTERM
    event("SHUTDOWN", reason="host-signal")
elif mode == "switches-off":
    event("SHUTDOWN", reason="guest-shutdown")
elif mode == "resets":
    event("SHUTDOWN", reason="guest-reset")
elif mode == "panics":
    event("GUEST_PANICKED", action="run")
    for number in range(8):  # the trace comes after the event, and not at once
        time.sleep(0.1)
        console.sendall(b"[    1.0] Call Trace: line %d\n" % number)
    console.sendall(b"[    1.1] Kernel panic - not syncing: stub gave up\n")
    wait()
elif mode == "floods":
    ctl.sendall(frame(b"O", ident, b"x" * 1000))
    for _ in range(2000):
        console.sendall(b"0123456789abcdef" * 1024)
        ctl.sendall(frame(b"O", ident, b"y" * 16384))
    console.sendall(b"the last word\n")
    ctl.sendall(frame(b"D", ident, struct.pack("<BI", 0, 0)))
    wait()
elif mode == "stops-beating":
    beats(0.5)
    for message in answer_qmp():
        qmp.sendall(json.dumps({"return": {}, "id": message["id"]}).encode() + b"\n")
        if message["execute"] == "inject-nmi":
            console.sendall(b"NMI: stuck in stub_spin+0x1/0x2\nKernel panic - not syncing: NMI: Not continuing\n")
            event("GUEST_PANICKED", action="run")
elif mode == "one-cpu-stops":
    beat.sendall(b"\0\1")
    beats(60)
elif mode == "speaks-half":  # beats, but never answers
    beats(60)
elif mode == "bad-end":
    ctl.sendall(frame(b"D", ident, b"\7"))
    wait()
