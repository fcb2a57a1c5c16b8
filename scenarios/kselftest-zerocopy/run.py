#!/usr/bin/python3
"""The kernel's own tests of MSG_ZEROCOPY."""

import os
import sys

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import kselftest

# What it runs one after the other when it is called without arguments.
PARTS = ("4 tcp -t 1", "6 tcp -t 1", "4 udp -t 1", "6 udp -t 1")
kselftest.Collection(
    "net/msg_zerocopy",
    parts={"msg_zerocopy.sh": PARTS},
    broken=("trace=poll", "inject=poll:error=EIO"),  # not recvmsg: `ip` uses that too
).run()
