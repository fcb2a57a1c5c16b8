"""One of the two nodes of an o2cb cluster, set up through configfs: a file system that both mount, and its locks.

The disk is a file in the server's memory. The client has it by NVMe over TCP, which is not what is tested: the file
system's sums are taken at both ends, and once more from the file.
"""

import contextlib
import fcntl
import os
import re
import sys
import tempfile

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import blockcheck
import configfs
import datafile
import filecheck
import loopdevice
import programs

SERVER, CLIENT = 1, 2
KEEPALIVE_S = 0.5
VALUE_BYTES = 64
# The same on both nodes, or they refuse each other; long, for a slow guest is not a dead one.
_DEAD_S, _IDLE_S = 600, 300
_CLUSTER, _PORT = "lab", 7777
_BACKING = os.path.join(os.environ.get("LAB_TMP", "/tmp"), "ocfs2-backing")
_BYTES = 128 << 20
_MOUNTED, _LOCKS = "/mnt", "/run/dlm"
_SHARED = f"{_MOUNTED}/shared"  # not there while nothing is mounted
_O2NET = "/sys/kernel/debug/o2net"
WRITERS = {"write": filecheck.write_plain, "write with O_DIRECT": blockcheck.write_sectors}


def disk():
    """Make the disk and the file system on it; the cluster must be up. Returns the device."""
    with open(_BACKING, "wb") as file:
        file.truncate(_BYTES)
    device = loopdevice.attach(_BACKING)
    programs.run(
        "mkfs.ocfs2", "-q", "-F", "-x", "-N", "2", "-b", "4096", "-C", "4096", "-J", "size=4M", "--nodiscard", device
    )
    return device


class Node:
    """This guest. The methods take and return what JSON has."""

    def __init__(self, number):
        self._number, self._open, self.device = number, {}, ""
        root = f"{configfs.folder('cluster')}/{_CLUSTER}"
        os.mkdir(root)
        configfs.put(f"{root}/keepalive_delay_ms", int(KEEPALIVE_S * 1000))
        configfs.put(f"{root}/idle_timeout_ms", 1000 * _IDLE_S)
        configfs.put(f"{root}/heartbeat/dead_threshold", _DEAD_S // 2)
        for other, role in ((SERVER, "SERVER"), (CLIENT, "CLIENT")):
            folder = f"{root}/node/{role.lower()}"
            os.mkdir(folder)
            configfs.put(f"{folder}/ipv4_port", _PORT)
            configfs.put(f"{folder}/ipv4_address", os.environ[f"LAB_{role}"])
            configfs.put(f"{folder}/num", other)  # by which the kernel finds it: the last but one
            if other == number:
                configfs.put(f"{folder}/local", 1)

    def mount(self):
        """Mount the file system, and the locks that files stand for."""
        os.makedirs(_LOCKS, exist_ok=True)
        programs.run("mount", "-t", "ocfs2", self.device, _MOUNTED)
        os.makedirs(_SHARED, exist_ok=True)
        programs.run("mount", "-t", "ocfs2_dlmfs", "ocfs2_dlmfs", _LOCKS)
        os.mkdir(f"{_LOCKS}/{_CLUSTER}")

    def unmount(self):
        for path in os.listdir(f"{_LOCKS}/{_CLUSTER}"):
            os.unlink(f"{_LOCKS}/{_CLUSTER}/{path}")
        os.rmdir(f"{_LOCKS}/{_CLUSTER}")
        programs.run("umount", _LOCKS)
        programs.run("umount", _MOUNTED)

    def write(self, name, size, seed, way):
        """Write a file anew."""
        WRITERS[way](f"{_SHARED}/{name}", datafile.sent(size, seed))

    def append(self, name, size, seed):
        """Write behind what a file has."""
        file = os.open(f"{_SHARED}/{name}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            done = os.write(file, datafile.sent(size, seed))
        finally:
            os.close(file)
        if done != size:
            raise AssertionError(f"a write of {size} bytes says {done}")

    def found(self, name):
        """[size as the inode says, SHA-256 of what can be read] of a file."""
        path = f"{_SHARED}/{name}"
        return [os.stat(path).st_size, datafile.digest(filecheck.read_plain(path, _BYTES))]

    def make_names(self, folder, numbers):
        """Make a folder, and empty files in it; every third is renamed, every fifth is deleted again."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(f"{_SHARED}/{folder}")
        for number in range(*numbers):
            path = f"{_SHARED}/{folder}/{number}"
            open(path, "x").close()
            if number % 3 == 0:
                os.rename(path, f"{path}-renamed")
            elif number % 5 == 0:
                os.unlink(path)

    def names(self, folder):
        """What a folder has."""
        return sorted(os.listdir(f"{_SHARED}/{folder}"))

    def lock(self, name, wait=True):
        """Lock a file of the file system for this node alone; False where it is another's, and may not wait."""
        file = os.open(f"{_SHARED}/{name}", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(file)
            return False
        self._open[name] = file
        return True

    def unlock(self, name):
        os.close(self._open.pop(name))

    def put(self, lock, value):
        """Take a lock alone, and leave 64 bytes (hexadecimal) in it."""
        file = os.open(f"{_LOCKS}/{_CLUSTER}/{lock}", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            done = os.write(file, bytes.fromhex(value))
        finally:
            os.close(file)
        if done != VALUE_BYTES:
            raise AssertionError(f"a write of {VALUE_BYTES} bytes to a lock says {done}")

    def get(self, lock):
        """Share a lock, and read its value."""
        file = os.open(f"{_LOCKS}/{_CLUSTER}/{lock}", os.O_RDONLY | os.O_CREAT, 0o600)
        try:
            return os.read(file, 2 * VALUE_BYTES).hex()
        finally:
            os.close(file)

    def connection(self):
        """[addresses and ports, microseconds of this node's clock] of the connection on which data came last."""
        with open(f"{_O2NET}/sock_containers") as file:
            found = re.findall(r"sock: +(\S+ -> \S+)$.*?data ready: +(\d+) usecs", file.read(), re.M | re.S)
        return max(([ends, int(heard)] for ends, heard in found), key=lambda one: one[1], default=["none", 0])

    def counts(self):
        """[messages sent, messages received] by this node's kernel on the connection that it has."""
        with open(f"{_O2NET}/stats") as file:
            fields = re.split(r"[,\s]+", file.read().strip())
        return [int(fields[2]), int(fields[6])] if len(fields) > 6 else [0, 0]

    def checked(self):
        """Have the disk of a file system that nobody has mounted checked."""
        programs.run("fsck.ocfs2", "-f", "-n", self.device)

    def on_disk(self, names):
        """The SHA-256 of files as a program finds them on the disk, past the kernel's file system."""
        with tempfile.TemporaryDirectory() as folder:
            with open(f"{folder}/orders", "w") as file:
                file.writelines(f"dump /shared/{name} {folder}/{name}\n" for name in names)
            # Its status is 1 also where all went well; a file that it did not find is not there below.
            programs.run("debugfs.ocfs2", "-f", f"{folder}/orders", self.device, statuses=(0, 1))
            return {name: datafile.digest(filecheck.read_plain(f"{folder}/{name}", _BYTES)) for name in names}
