#!/usr/bin/python3
"""The same checks with each setting of the digests; each setting writes its own area of the disk."""

import os
import sys

sys.path.insert(0, os.environ["LAB_LIB"])
import blockcheck
import iscsi_initiator

import ktap

# Header, data; in the order of the areas: the first two have a long stream as well.
SETTINGS = {
    "no digest": ("None", "None"),
    "both digests": ("CRC32C", "CRC32C"),
    "header digest": ("CRC32C", "None"),
    "data digest": ("None", "CRC32C"),
}
METRICS = {"no digest": "iscsi_plain", "both digests": "iscsi_digests"}


def main():
    ktap.plan(1 + sum(blockcheck.checks(area) for area in range(len(SETTINGS) + 1)))
    blockcheck.run("the server's own data", 0, lambda: iscsi_initiator.connect(("None", "None")))
    for area, (label, digests) in enumerate(SETTINGS.items(), 1):
        blockcheck.run(label, area, lambda digests=digests: iscsi_initiator.connect(digests), METRICS.get(label, ""))
    ktap.check("log out", iscsi_initiator.disconnect)


main()
