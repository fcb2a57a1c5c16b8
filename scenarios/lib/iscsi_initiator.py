"""The kernel's iSCSI initiator, by way of open-iscsi; no udev.

`python3 /lab/lib/iscsi_initiator.py` logs in without digests and prints the path of the disk's device.
"""

import glob
import os
import subprocess
import sys

sys.path.insert(0, os.environ["LAB_LIB"])
import blockcheck
from iscsi_target import NAME, PORT

_DIGESTS = ("HeaderDigest", "DataDigest")
_recorded = ()  # what the target's record says of them


def _iscsiadm(*words):
    """Run iscsiadm on the target's record.

    Raises:
        AssertionError: it fails, or does not end.
    """
    command = ["iscsiadm", "-m", "node", "-T", NAME, "-p", f"{os.environ['LAB_SERVER']}:{PORT}", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=blockcheck.DEADLINE_S)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"{' '.join(command)} did not end within {blockcheck.DEADLINE_S:g} s") from None
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")


def connect(digests):
    """Log in anew with ("None" or "CRC32C") for header and data; returns the path of the disk's device."""
    global _recorded
    disconnect()
    if digests != _recorded:
        words = ["-o", "update"]
        for name, value in zip(_DIGESTS, digests, strict=True):
            words += ["-n", f"node.conn[0].iscsi.{name}", "-v", value]
        _iscsiadm(*words)
        _recorded = digests
    _iscsiadm("--login")
    _agreed(digests)
    return blockcheck.wait_for("disk", _device)


def _agreed(digests):
    """What both ends agreed on has to be what was asked for."""
    (connection,) = glob.glob("/sys/class/iscsi_connection/connection*")
    for name, value in zip(("header_digest", "data_digest"), digests, strict=True):
        with open(os.path.join(connection, name)) as file:
            on = file.read().strip()
        if on != ("1" if value == "CRC32C" else "0"):
            raise AssertionError(f"{name} is {on} after a login that asked for {value}")


def _device():
    return blockcheck.device_of("/sys/class/iscsi_session/session*/device/target*/*/block/sd*")


def disconnect():
    """Log out where there is a session, and wait until the disk is gone."""
    if glob.glob("/sys/class/iscsi_session/session*"):
        _iscsiadm("--logout")
    blockcheck.wait_for("end of the session", lambda: not glob.glob("/sys/class/iscsi_session/session*"))


if __name__ == "__main__":
    print(connect(("None", "None")))
