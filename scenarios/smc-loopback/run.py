#!/usr/bin/python3
"""SMC-D over loopback-ism, which the kernel has from 6.10: sendfile, splice and write on lo."""

import os
import sys

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import ktap
import smc

HERE = "127.0.0.1"


def carried():
    """Both ends say SMC-D: a fallback to TCP would pass all that follows, and test nothing of it."""
    near, far = smc.modes(HERE)
    if not (near.startswith("SMC-D") and far.startswith("SMC-D")):
        raise AssertionError(f"one end says {near}, the other {far}")


def main():
    smc.name_group()
    smc.serve(smc.listen(HERE))
    ktap.plan(2 + len(smc.WAYS))
    ktap.check("the connection is SMC-D", carried)
    for sender, receiver in smc.WAYS:
        ktap.check(f"{sender} to {receiver}, all sizes", smc.sizes_by, smc.put, HERE, sender, receiver)
    seconds = ktap.check(f"sendfile to recv, {smc.LONG >> 20} MiB", smc.put, HERE, smc.LONG, 1, 99, "sendfile", "recv")
    if seconds:
        ktap.metric("smc_loopback_sendfile", smc.LONG / (1 << 20) / seconds, "MiB/s", "higher")


main()
