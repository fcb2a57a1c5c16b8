"""An NVMe/TCP target, set up through configfs: one subsystem that any host may use.

`python3 /lab/lib/nvme_target.py` makes the file with what only the server has, and the target. A loop device on the
file, which lies in tmpfs, is namespace 1: it gives sectors of 512 bytes, the file itself would give blocks of a page.
"""

import os
import sys

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import blockcheck
import configfs
import loopdevice

SUBSYSTEM = "nqn.2014-08.org.example:kpatchlab"
PORT = 4420
BACKING = os.path.join(os.environ.get("LAB_TMP", "/tmp"), "nvme-backing")


def export(device, address):
    """Offer a block device as the only namespace, and listen."""
    config = configfs.folder("nvmet")
    subsystem = f"{config}/subsystems/{SUBSYSTEM}"
    os.makedirs(f"{subsystem}/namespaces/1")
    configfs.put(f"{subsystem}/attr_allow_any_host", "1")
    configfs.put(f"{subsystem}/namespaces/1/device_path", device)
    configfs.put(f"{subsystem}/namespaces/1/enable", "1")
    port = f"{config}/ports/1"
    os.mkdir(port)
    for name, value in (("trtype", "tcp"), ("adrfam", "ipv4"), ("traddr", address), ("trsvcid", PORT)):
        configfs.put(f"{port}/addr_{name}", value)
    os.symlink(subsystem, f"{port}/subsystems/{SUBSYSTEM}")  # starts to listen


if __name__ == "__main__":
    blockcheck.serve(BACKING)
    export(loopdevice.attach(BACKING), os.environ["LAB_SERVER"])
