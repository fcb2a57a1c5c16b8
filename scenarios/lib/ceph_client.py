"""Kernel clients of the cluster that lib/prepare/ceph.sh makes: what they need to know to connect."""

import os

SCALE = float(os.environ.get("LAB_SCALE", "1"))
MODES = ("legacy", "crc", "secure")
"""The messenger's modes: protocol 1; protocol 2 with checksums; protocol 2 encrypted."""


def key():
    """The secret of every client, as it stands in the preparation script."""
    with open("/lab/lib/prepare/ceph.sh") as file:
        return next(line.removeprefix("key=").strip() for line in file if line.startswith("key="))


def monitor(mode):
    """The monitor's address and port for a mode."""
    return f"{os.environ['LAB_SERVER']}:{6789 if mode == 'legacy' else 3300}"


def options(mode):
    """Options of mount and of rbd's map; a request that the cluster does not answer fails, and does not hang."""
    return f"name=admin,secret={key()},ms_mode={mode},osd_request_timeout={int(90 * SCALE)}"
