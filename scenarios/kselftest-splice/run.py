#!/usr/bin/python3
"""The kernel's own tests of splice."""

import os
import sys

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import kselftest

kselftest.Collection("splice", broken=("trace=splice", "inject=splice:error=EIO")).run()
