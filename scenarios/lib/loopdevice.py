"""Loop devices: a file as a block device with sectors of 512 bytes, without losetup."""

import fcntl
import os

_CTL_GET_FREE, _SET_FD = 0x4C82, 0x4C00


def attach(path):
    """Put a loop device in front of a file; returns the device's path."""
    control = os.open("/dev/loop-control", os.O_RDWR)
    device = f"/dev/loop{fcntl.ioctl(control, _CTL_GET_FREE)}"
    loop, file = os.open(device, os.O_RDWR), os.open(path, os.O_RDWR)
    fcntl.ioctl(loop, _SET_FD, file)
    for descriptor in (control, loop, file):
        os.close(descriptor)
    return device
