#!/usr/bin/python3
"""The kernel's own test_sockmap: on plain sockets, or on those with kernel TLS."""

import os
import sys

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import kselftest

# Each word is looked for in the map's file, in "ktls" and in the title of a test.
PARTS = {
    "plain": ("--whitelist sockmap_kern", "--whitelist sockhash_kern --blacklist ktls"),
    "ktls": ("--whitelist ktls",),
}

kselftest.Collection(
    "bpf/test_sockmap",
    parts={"test_sockmap": PARTS[os.environ["LAB_SOCKETS"]]},
    broken=("trace=recvmsg", "inject=recvmsg:error=EIO:when=3+"),
).run()
