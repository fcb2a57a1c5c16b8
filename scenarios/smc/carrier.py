#!/usr/bin/python3
"""Sets up what carries SMC: RDMA over the link between the guests, or nothing, so that it falls back to TCP."""

import os
import subprocess
import sys
import time

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import smc


def set_up():
    """Either end."""
    if os.environ["LAB_CARRIER"] != "rxe":
        return
    device = os.environ["LAB_DEV"]
    subprocess.run(("rdma", "link", "add", "rxe0", "type", "rxe", "netdev", device), check=True)
    smc.name_group()
    end = time.monotonic() + 10 * float(os.environ.get("LAB_SCALE", "1"))
    while "state ACTIVE" not in subprocess.run(("rdma", "link"), capture_output=True, text=True, check=True).stdout:
        if time.monotonic() > end:
            raise SystemExit("the RDMA link does not become active")
        time.sleep(0.1)


if __name__ == "__main__":
    set_up()
