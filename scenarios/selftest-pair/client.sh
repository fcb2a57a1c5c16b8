#!/bin/sh
. "$LAB_LIB/ktap.sh"
ktap_plan 3
ktap_check "the server answers a ping" ping -c 1 -W 5 "$LAB_SERVER"
cat >fetch.py <<'PYTHON'
import hashlib, os, socket
with socket.create_connection((os.environ["LAB_SERVER"], 7001), timeout=30) as sock:
    parts = iter(lambda: sock.recv(65536), b"")
    whole = b"".join(parts)
assert len(whole) == 64 + 251 * 4178, f"{len(whole)} bytes"
assert hashlib.sha256(whole[64:]).hexdigest().encode() == whole[:64], "the sum differs"
PYTHON
ktap_check "1 MiB arrives whole" python3 fetch.py
ktap_check "nobody else answers" sh -c "! ping -c 1 -W 1 10.77.0.3"
