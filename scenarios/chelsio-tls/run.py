#!/usr/bin/python3
"""Compile only: whether the module is there, loads, and has the operations that belong to this kernel."""

import os
import sys

sys.path.insert(0, os.environ["LAB_LIB"])
import ktap

DRIVER = "chtls"


def symbols():
    """{(module or "", name)} of all of the kernel's symbols."""
    with open("/proc/kallsyms") as table:
        words = [line.split() for line in table]
    return {(one[3].strip("[]") if len(one) > 3 else "", one[2]) for one in words}


def is_loaded():
    """The module has been initialised."""
    with open(f"/sys/module/{DRIVER}/initstate") as file:
        state = file.read().strip()
    if state != "live":
        raise AssertionError(f"module {DRIVER} is {state}")


def has_operations(table, *, old):
    """sendmsg, and sendpage exactly where the kernel has that operation at all (`old`)."""
    if (DRIVER, "chtls_sendmsg") not in table:
        raise AssertionError("chtls_sendmsg is missing")
    if ((DRIVER, "chtls_sendpage") in table) != old:
        raise AssertionError("chtls_sendpage is missing" if old else "chtls_sendpage is still there")


def main():
    table = symbols()
    old = ("", "kernel_sendpage") in table
    if os.environ.get("LAB_BREAK"):  # there is no data to break, so what is expected is wrong instead
        old = not old
    ktap.plan(3)
    ktap.check("the module loads", is_loaded)
    wanted = "chtls_sendmsg and chtls_sendpage" if old else "chtls_sendmsg and no chtls_sendpage"
    ktap.check(f"it has {wanted}", has_operations, table, old=old)
    ktap.skip("data through it", "needs a Chelsio T6 card: compile only")


main()
