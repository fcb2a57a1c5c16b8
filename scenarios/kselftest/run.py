#!/usr/bin/python3
"""One collection of the kernel's own selftests."""

import os
import sys

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import kselftest

HOW = {
    "splice": {"broken": ("trace=splice", "inject=splice:error=EIO")},
    "net/tls": {
        # An emulated processor computes ciphers slowly: tests with 10 MB, most of those with much data, and all but the
        # ones with files where the cipher alone is another; and ciphers that few kernels have.
        "too_slow": r"\.mutliproc_|^tls\.13\w+\.(multi_chunk_sendfile|sendmsg_large)"
        r"|^tls\.(?!1[23]_aes_gcm\.|13_nopad\.)\w+\.(?!sendfile|splice_from_pipe|splice_to_pipe)"
        r"|^tls\.1[23]_(sm4|aria)_",
        "broken": ("trace=recvfrom", "inject=recvfrom:poke_exit=@arg2=00"),
    },
    "net/af_unix": {"broken": ("trace=recvfrom,recvmsg,read", "inject=recvfrom,recvmsg:error=EIO")},
    "net/msg_zerocopy": {
        # what it runs one after the other when it is called without arguments
        "parts": {"msg_zerocopy.sh": ("4 tcp -t 1", "6 tcp -t 1", "4 udp -t 1", "6 udp -t 1")},
        "broken": ("trace=poll", "inject=poll:error=EIO"),  # not recvmsg: `ip` uses that too
    },
}

name = os.environ["LAB_COLLECTION"]
kselftest.Collection(name, **HOW.get(name, {})).run()
