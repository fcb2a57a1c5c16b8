#!/usr/bin/python3
"""Sets up the target: a loop device on a file in tmpfs is namespace 1 of a subsystem that any host may use.

The loop device gives sectors of 512 bytes; a file on tmpfs as the namespace itself would give blocks of a page.
"""

import fcntl
import os
import sys

sys.path.insert(0, os.environ["LAB_LIB"])
import blockcheck
import configfs
from names import BACKING, PORT, SUBSYSTEM

LOOP_CTL_GET_FREE, LOOP_SET_FD = 0x4C82, 0x4C00


def loop_device(path):
    """The loop device that a file stands behind."""
    number = fcntl.ioctl(os.open("/dev/loop-control", os.O_RDWR), LOOP_CTL_GET_FREE)
    device = f"/dev/loop{number}"
    fcntl.ioctl(os.open(device, os.O_RDWR), LOOP_SET_FD, os.open(path, os.O_RDWR))
    return device


config = configfs.folder("nvmet")
blockcheck.serve(BACKING)
subsystem = f"{config}/subsystems/{SUBSYSTEM}"
os.makedirs(f"{subsystem}/namespaces/1")
configfs.put(f"{subsystem}/attr_allow_any_host", "1")
configfs.put(f"{subsystem}/namespaces/1/device_path", loop_device(BACKING))
configfs.put(f"{subsystem}/namespaces/1/enable", "1")
port = f"{config}/ports/1"
os.mkdir(port)
for name, value in (("trtype", "tcp"), ("adrfam", "ipv4"), ("traddr", os.environ["LAB_SERVER"]), ("trsvcid", PORT)):
    configfs.put(f"{port}/addr_{name}", value)
os.symlink(subsystem, f"{port}/subsystems/{SUBSYSTEM}")  # starts to listen
