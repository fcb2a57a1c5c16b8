#!/usr/bin/python3
"""The kernel's own tests of AF_UNIX."""

import os
import sys

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import kselftest

kselftest.Collection("net/af_unix", broken=("trace=recvfrom,recvmsg,read", "inject=recvfrom,recvmsg:error=EIO")).run()
