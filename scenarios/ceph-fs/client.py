#!/usr/bin/python3
"""The same checks in each mode of the messenger; each writes files of its own."""

import functools
import os
import subprocess
import time

import files
from files import ceph_client, datafile, filecheck

import ktap

SHARE = "/mnt/share"
DEADLINE_S = 120 * ceph_client.SCALE
content = functools.lru_cache(maxsize=32)(datafile.content)  # everything is read three times


def run(*command):
    """Run a command that has to end well, and in time."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"{command[0]} did not end within {DEADLINE_S:g} s") from None
    if done.returncode:
        raise AssertionError(f"{command[0]}: {(done.stderr or done.stdout).strip()}")


def unmount():
    """Take the file system away, and with it all that the client had cached."""
    if os.path.ismount(SHARE):
        run("umount", SHARE)


def mount(mode):
    """Mount anew, in one mode."""
    os.makedirs(SHARE, exist_ok=True)
    unmount()
    # -i: without mount.ceph, which wants its configuration.
    run("mount", "-i", "-t", "ceph", f"{ceph_client.monitor(mode)}:/", SHARE, "-o", ceph_client.options(mode))


def write(mode, way):
    """Write the files of all sizes."""
    for name, size, seed in files.written(mode, way):
        filecheck.WRITERS[way](os.path.join(SHARE, name), datafile.sent(size, seed))


def write_stream(mode):
    """Write the long file; returns the seconds that it took to reach the server."""
    name, size, seed = files.stream(mode)
    data = datafile.sent(size, seed)
    began = time.monotonic()
    filecheck.write_plain(os.path.join(SHARE, name), data)
    return time.monotonic() - began


def read(mode, way):
    """Read everything one way: what this mode wrote, and the server's own files."""
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")
    wanted = [entry for written in filecheck.WRITERS for entry in files.written(mode, written)]
    for name, size, seed in [*files.SERVED, *wanted, files.stream(mode)]:
        got, right = filecheck.READERS[way](os.path.join(SHARE, name), size), content(size, seed)
        if got != right:  # byte for byte, which is cheaper in an emulated guest than two sums
            raise AssertionError(f"{name}: {datafile.difference(got, right)}")


def checks(mode):
    """All checks in one mode."""
    ktap.check(f"{mode}: mount", mount, mode)
    if not os.path.ismount(SHARE):
        raise SystemExit("nothing is mounted: these checks would test the guest's own root")
    for way in filecheck.WRITERS:
        ktap.check(f"{mode}: {way}, all sizes", write, mode, way)
    seconds = ktap.check(f"{mode}: write {files.LONG >> 20} MiB", write_stream, mode)
    if seconds:
        ktap.metric(f"cephfs_{mode}_write", files.LONG / (1 << 20) / seconds, "MiB/s", "higher")
    ktap.check(f"{mode}: mount anew", mount, mode)
    for way in filecheck.READERS:
        ktap.check(f"{mode}: {way}, all sizes", read, mode, way)


ktap.plan(len(ceph_client.MODES) * (3 + len(filecheck.WRITERS) + len(filecheck.READERS)) + 1)
for mode in ceph_client.MODES:
    checks(mode)
ktap.check("unmount", unmount)
