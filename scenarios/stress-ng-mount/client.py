#!/usr/bin/python3
"""stress-ng's stressors of files, on a mount."""

import os
import sys

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import stressng

STRESSORS = {
    "hdd": "--hdd-ops 100 --hdd-bytes 16M",
    "seek": "--seek-ops 200 --seek-size 16M",
    "readahead": "--readahead-ops 200 --readahead-bytes 16M",
    "revio": "--revio-ops 100 --revio-bytes 16M",
    "fallocate": "--fallocate-ops 20 --fallocate-bytes 16M",
    "sendfile": "--sendfile-ops 100",
    "splice": "--splice-ops 200",
}
stressng.run(STRESSORS, "/mnt/share", broken={"sendfile": "sendfile:error=EIO", "hdd": "write:error=EIO:when=20+"})
