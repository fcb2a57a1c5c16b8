"""One of the two nodes of a DRBD resource, configured by drbdsetup alone.

The disk is a loop device on a file in tmpfs, so what reached it can be read from the file, past DRBD and the network.
"""

import os
import re
import sys

sys.path.insert(0, os.environ.get("LAB_LIB", "/lab/lib"))
import blockcheck
import datafile
import filecheck
import loopdevice
import programs

DEVICE, MOUNTED = "/dev/drbd0", "/mnt"
_RESOURCE, _MINOR, _PORT = "lab", "0", 7789
_META = 4 << 20  # bytes for DRBD's own data, behind the others
_BACKING = os.path.join(os.environ.get("LAB_TMP", "/tmp"), "drbd-backing")
_HELPER = "/sys/module/drbd/parameters/usermode_helper"
_PAIR = re.compile(r"\b([a-z]+):(\S+)")
_OFTEN = ("--resync-rate=1048576", "--c-plan-ahead=0", "--read-balancing=prefer-remote")
"""Of the disk: resynchronise as fast as possible; read from the other node although there is a disk here."""
_ALWAYS = ("--verify-alg=crc32c", "--connect-int=1", "--max-buffers=8000")


class Node:
    """This guest. The methods take and return what JSON has."""

    def __init__(self, with_data):
        """Make the disk, with what only the server has if `with_data`, and the resource on it."""
        address, peer = os.environ["LAB_SERVER"], os.environ["LAB_CLIENT"]
        self._ends = [f"ipv4:{end}:{_PORT}" for end in ((address, peer) if with_data else (peer, address))]
        with open(_HELPER, "w") as file:  # drbdadm, which would look for a resource that no file names
            file.write("/bin/true")
        if with_data:
            blockcheck.serve(_BACKING)
        with open(_BACKING, "ab") as file:
            file.truncate(blockcheck.SIZE + _META)
        self._disk = loopdevice.attach(_BACKING)
        programs.run("drbdmeta", "--force", _MINOR, "v08", self._disk, "internal", "create-md")
        programs.run("drbdsetup", "new-resource", _RESOURCE)
        programs.run("drbdsetup", "new-minor", _RESOURCE, _MINOR, "0")
        self.attach()

    def attach(self):
        """Take the disk into use."""
        programs.run("drbdmeta", _MINOR, "v08", self._disk, "internal", "apply-al")
        programs.run("drbdsetup", "attach", _MINOR, self._disk, self._disk, "internal", *_OFTEN)

    def detach(self):
        """Go on without the disk."""
        programs.run("drbdsetup", "detach", _MINOR)

    def connect(self, *options):
        """Begin to connect; `settle` waits for the end."""
        programs.run("drbdsetup", "connect", _RESOURCE, *self._ends, *_ALWAYS, *options)

    def disconnect(self):
        """End the connection, if there is one."""
        if self.state()["cs"] != "StandAlone":
            programs.run("drbdsetup", "disconnect", *self._ends)

    def role(self, name, *options):
        """Become "primary" or "secondary"."""
        programs.run("drbdsetup", name, _MINOR, *options)

    def verify(self):
        """Begin to compare both disks, by digests that travel between the kernels."""
        programs.run("drbdsetup", "verify", _MINOR)

    def state(self):
        """What /proc/drbd says: cs, ro, ds are words, ns, nr (sent and received), dw, dr, oos ... KiB."""
        with open("/proc/drbd") as file:
            found = dict(_PAIR.findall(file.read().partition(f" {_MINOR}: ")[2]))
        return {name: int(value) if value.isdecimal() else value for name, value in found.items()}

    def settle(self, **wanted):
        """Wait until `state` says all of this, as in settle(cs="Connected").

        Raises:
            AssertionError: it does not within the deadline; with what it says instead.
        """
        try:
            blockcheck.wait_for("such state", lambda: wanted.items() <= self.state().items())
        except AssertionError:
            raise AssertionError(f"{wanted} is not reached: {self.state()}") from None

    def status(self):
        """What drbdsetup says of both disks, as in "UpToDate UpToDate"."""
        return " ".join(re.findall(r"disk:(\S+)", programs.run("drbdsetup", "status", _RESOURCE)))

    def compare(self, areas):
        """Hold this node's disk against what the client was to write, past DRBD; as `blockcheck.verify`."""
        blockcheck.verify(_BACKING, areas)

    def digest(self, offset=0, size=blockcheck.SIZE):
        """The SHA-256 of a part of this node's disk, past DRBD."""
        return datafile.digest(self._read(offset, size))

    def _read(self, offset, size):
        with open(_BACKING, "rb", buffering=0) as file:
            return datafile.read_all(file.fileno(), size, offset)

    def spoil(self, offset):
        """Change a byte on this node's disk, past DRBD."""
        wrong = self._read(offset, 1)[0] ^ 1
        with open(_BACKING, "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), bytes([wrong]), offset)

    def mount(self):
        """Mount the file system on the device."""
        os.makedirs(MOUNTED, exist_ok=True)
        programs.run("mount", "-t", "xfs", DEVICE, MOUNTED)

    def unmount(self):
        programs.run("umount", MOUNTED)

    def sums(self):
        """SHA-256 of each file of the mounted file system."""
        return {
            name: datafile.digest(filecheck.read_plain(os.path.join(MOUNTED, name), 64 << 20))
            for name in sorted(os.listdir(MOUNTED))
        }
