#!/usr/bin/python3
"""SMC between two guests: sendfile, splice and write, both ways."""

import os
import sys

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import ktap
import smc

CARRIER = os.environ["LAB_CARRIER"]
EXPECTED = {"tcp": "TCP (fallback)", "rxe": "SMC-R"}[CARRIER]


# What either end gives as the reason of its fallback when it finds no RDMA device that belongs to the link.
NO_DEVICE = ("0x03030000", "0x03030002")


def how_carried(address):
    """How both ends say that a connection goes."""
    here, there = smc.modes(address)
    print(f"# carried by: {here} at the client, {there} at the server", flush=True)
    return here, there


def carried(here, there):
    """The connection is what this job is about."""
    if not (here.startswith(EXPECTED) and there.startswith(EXPECTED)):
        raise AssertionError(f"{EXPECTED} expected; client: {here}; server: {there}")


def main():
    server = os.environ["LAB_SERVER"]
    here, there = how_carried(server)
    if CARRIER == "rxe" and any(reason in f"{here} {there}".split() for reason in NO_DEVICE):
        ktap.plan(1)
        ktap.skip(
            "SMC-R over rxe", "a kernel's SMC does not find the device of rxe (6.1 asks only drivers with get_netdev)"
        )
        return
    ktap.plan(1 + len(smc.DIRECTIONS) * (len(smc.WAYS) + 1))
    ktap.check(f"the connection is {EXPECTED}", carried, here, there)
    for direction, transfer in smc.DIRECTIONS.items():
        for sender, receiver in smc.WAYS:
            title = f"{sender} to {receiver}, {direction}, all sizes"
            ktap.check(title, smc.sizes_by, transfer, server, sender, receiver)
        title = f"sendfile to recv, {direction}, {smc.LONG >> 20} MiB"
        seconds = ktap.check(title, transfer, server, smc.LONG, 1, 99, "sendfile", "recv")
        if seconds:
            name = f"smc_{CARRIER}_{transfer.__name__}_sendfile"
            ktap.metric(name, smc.LONG / (1 << 20) / seconds, "MiB/s", "higher")


main()
