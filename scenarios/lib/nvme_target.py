"""An NVMe/TCP target, set up through configfs: one subsystem that any host may use.

`python3 /lab/lib/nvme_target.py` makes the file with what only the server has, and the target. A loop device on the
file, which lies in tmpfs, is namespace 1: it gives sectors of 512 bytes, the file itself would give blocks of a page.
"""

import fcntl
import os
import sys

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import blockcheck
import configfs

SUBSYSTEM = "nqn.2014-08.org.example:kpatchlab"
PORT = 4420
BACKING = os.path.join(os.environ.get("LAB_TMP", "/tmp"), "nvme-backing")
_LOOP_CTL_GET_FREE, _LOOP_SET_FD = 0x4C82, 0x4C00


def _loop_device(path):
    """The loop device that a file stands behind."""
    number = fcntl.ioctl(os.open("/dev/loop-control", os.O_RDWR), _LOOP_CTL_GET_FREE)
    device = f"/dev/loop{number}"
    fcntl.ioctl(os.open(device, os.O_RDWR), _LOOP_SET_FD, os.open(path, os.O_RDWR))
    return device


def set_up(address):
    """Make the backing file, and listen."""
    config = configfs.folder("nvmet")
    blockcheck.serve(BACKING)
    subsystem = f"{config}/subsystems/{SUBSYSTEM}"
    os.makedirs(f"{subsystem}/namespaces/1")
    configfs.put(f"{subsystem}/attr_allow_any_host", "1")
    configfs.put(f"{subsystem}/namespaces/1/device_path", _loop_device(BACKING))
    configfs.put(f"{subsystem}/namespaces/1/enable", "1")
    port = f"{config}/ports/1"
    os.mkdir(port)
    for name, value in (("trtype", "tcp"), ("adrfam", "ipv4"), ("traddr", address), ("trsvcid", PORT)):
        configfs.put(f"{port}/addr_{name}", value)
    os.symlink(subsystem, f"{port}/subsystems/{SUBSYSTEM}")  # starts to listen


if __name__ == "__main__":
    set_up(os.environ["LAB_SERVER"])
