"""The service of this scenario: what a request and a reply look like at both ends.

A request is a header (verb, seed, size) and, after "put", that many bytes. The reply to "put" is the length and
the SHA-256 of what came; the reply to "get" is data of that seed and size.
"""

import os
import struct
import sys

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import datafile
import rxrpc

PORT = 7100  # not 7000 to 7009: kAFS and rxperf have theirs there
SERVICE = 1234
SECRET = bytes.fromhex("a7838acbc783ec94")
HEADER = struct.Struct("!4sIQ")


def serve(sock):
    """Answer calls, one after the other."""
    requests = {}
    while True:
        try:
            call, data, more, ended = rxrpc.receive(sock)
        except rxrpc.CallFailed as failure:
            print(f"call {failure.call}: {failure}", file=sys.stderr, flush=True)
            call, data, more, ended = failure.call, b"", False, True
        if ended:
            requests.pop(call, None)
            rxrpc.charge(sock, call)
            continue
        request = requests.setdefault(call, bytearray())
        request += data
        if not more:
            try:
                rxrpc.send(sock, call, _reply(requests.pop(call)))
            except OSError as error:  # the client's check sees that no reply comes
                print(f"call {call}: {error}", file=sys.stderr, flush=True)


def _reply(request):
    verb, seed, size = HEADER.unpack_from(request)
    if verb == b"get ":
        return datafile.sent(size, seed)
    data = memoryview(request)[HEADER.size :]
    return f"{len(data)} {datafile.digest(data)}".encode()
