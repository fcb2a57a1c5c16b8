#!/bin/sh
# Runs the collection of the kernel's selftests that this guest was given.
exec python3 "${LAB_LIB:-/lab/lib}/kselftest.py"
