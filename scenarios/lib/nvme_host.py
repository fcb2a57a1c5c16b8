"""The NVMe host, by way of the kernel's own interface: no nvme-cli, no udev.

`python3 /lab/lib/nvme_host.py connect` prints the path of the namespace's device; `disconnect` takes it away.
"""

import glob
import os
import sys

sys.path.insert(0, os.environ["LAB_LIB"])
import blockcheck
from nvme_target import PORT, SUBSYSTEM

_FABRICS = "/dev/nvme-fabrics"


def connect(options):
    """Connect anew, with or without digests; returns the path of the namespace's device."""
    disconnect()
    text = f"transport=tcp,traddr={os.environ['LAB_SERVER']},trsvcid={PORT},nqn={SUBSYSTEM},nr_io_queues=1"
    file = os.open(_FABRICS, os.O_RDWR)
    try:
        os.write(file, ",".join(filter(None, (text, options))).encode())
    finally:
        os.close(file)
    return blockcheck.wait_for("block device", _device)


def _device():
    """The namespace's own device; nvme0c0n1 beside it is a path to it and has no node."""
    return blockcheck.device_of("/sys/block/nvme*")


def disconnect():
    """Take every controller away, and wait until their devices are gone."""
    for path in glob.glob("/sys/class/nvme/nvme*/delete_controller"):
        with open(path, "w") as file:
            file.write("1")
    blockcheck.wait_for("end of the block device", lambda: not glob.glob("/sys/block/nvme*"))


if __name__ == "__main__":
    if sys.argv[1] == "connect":
        print(connect(""))
    else:
        disconnect()
