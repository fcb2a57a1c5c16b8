#!/usr/bin/python3
"""stress-ng's stressors of what the series changes in one guest."""

import os
import sys

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import stressng

STRESSORS = {
    "splice": "--splice-ops 2000",
    "vm-splice": "--vm-splice-ops 2000",
    "tee": "--tee-ops 400",
    "sendfile": "--sendfile-ops 1000",
    "sockpair": "--sockpair-ops 400",
    "sock": "--sock-ops 60",
    "sockfd": "--sockfd-ops 400",
    "udp": "--udp-ops 2000",
    "af-alg": "--af-alg-ops 12",
}
stressng.run(
    STRESSORS,
    broken={
        "splice": "splice:error=EIO",
        "vm-splice": "vmsplice:error=EIO",
        "tee": "tee:error=EIO",
        "sendfile": "sendfile:error=EIO",
    },
)
