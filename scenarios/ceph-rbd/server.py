#!/usr/bin/python3
"""The server's end, through librbd and so without the kernel's client: `make` data, or `check` the client's."""

import os
import sys

import rados
import rbd

sys.path.insert(0, os.environ["LAB_LIB"])
import blockcheck
import ceph_client
import datafile


def make(image):
    """Write what only the server has."""
    for way in blockcheck.WRITERS:
        for offset, size, seed in blockcheck.extents(0, way):
            image.write(bytes(datafile.sent(size, seed)), offset)
    image.flush()


def check(image):
    """Compare every area that the client wrote."""
    for area, mode in enumerate(ceph_client.MODES, 1):
        try:
            datafile.same(image.read(area * blockcheck.AREA, blockcheck.AREA), blockcheck.image(area))
        except AssertionError as error:
            raise SystemExit(f"area {area} ({mode}) of the image: {error}") from None


with rados.Rados(conffile="/etc/ceph/ceph.conf") as cluster, cluster.open_ioctx("rbd") as pool:
    with rbd.Image(pool, "disk") as image:
        {"make": make, "check": check}[sys.argv[1]](image)
