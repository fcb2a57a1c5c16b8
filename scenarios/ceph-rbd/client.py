#!/usr/bin/python3
"""The same checks in each mode of the messenger; each writes its own area of the image."""

import disk
from disk import blockcheck, ceph_client

import ktap


def main():
    ktap.plan(1 + sum(blockcheck.checks(area) for area in range(len(ceph_client.MODES) + 1)))
    blockcheck.run("the server's own data", 0, lambda: disk.connect("legacy"))
    for area, mode in enumerate(ceph_client.MODES, 1):
        blockcheck.run(mode, area, lambda mode=mode: disk.connect(mode), f"rbd_{mode}")
    ktap.check("unmap", disk.disconnect)


main()
