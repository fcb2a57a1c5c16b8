"""The kernel's rbd client, by way of its own interface in sysfs: no rbd tool, no udev."""

import glob
import os
import sys

sys.path.insert(0, os.environ["LAB_LIB"])
import blockcheck
import ceph_client

_BUS = "/sys/bus/rbd"


def _tell(verb, text):
    """Write to add or remove; with one major number for all devices they have other names."""
    path = f"{_BUS}/{verb}_single_major"
    with open(path if os.path.exists(path) else f"{_BUS}/{verb}", "w") as file:
        file.write(text)


def connect(mode):
    """Map the image anew, in one mode of the messenger; returns the path of its device."""
    disconnect()
    _tell("add", f"{ceph_client.monitor(mode)} {ceph_client.options(mode)} rbd disk")
    return blockcheck.wait_for("block device", _device)


def _device():
    return blockcheck.device_of("/sys/block/rbd*")


def disconnect():
    """Unmap what is mapped."""
    for path in glob.glob(f"{_BUS}/devices/*"):
        _tell("remove", os.path.basename(path))
    blockcheck.wait_for("end of the block device", lambda: not glob.glob("/sys/block/rbd*"))
