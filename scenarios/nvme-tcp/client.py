#!/usr/bin/python3
"""The same checks with each setting of the digests; each setting writes its own area of the namespace."""

import os
import sys

sys.path.insert(0, os.environ["LAB_LIB"])
import blockcheck
import nvme_host

import ktap

# In the order of the areas: the first two have a long stream as well.
SETTINGS = {
    "no digest": "",
    "both digests": "hdr_digest,data_digest",
    "header digest": "hdr_digest",
    "data digest": "data_digest",
}
METRICS = {"no digest": "nvme_tcp_plain", "both digests": "nvme_tcp_digests"}


def main():
    ktap.plan(1 + sum(blockcheck.checks(area) for area in range(len(SETTINGS) + 1)))
    blockcheck.run("the server's own data", 0, lambda: nvme_host.connect(""))
    for area, (label, options) in enumerate(SETTINGS.items(), 1):
        blockcheck.run(label, area, lambda options=options: nvme_host.connect(options), METRICS.get(label, ""))
    ktap.check("disconnect", nvme_host.disconnect)


main()
