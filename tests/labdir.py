"""A small lab directory for tests: two kernels, one root, a scenario of one role and one of two."""

from __future__ import annotations

from pathlib import Path

LAB = """\
title: small
kernels:
  without: old
  with: new
scenarios: ["*"]
"""
KERNEL = """\
source: {type: debian-source, package: linux-source-6.1, suite: bookworm}
config: [config/guest.config]
"""
SOLO = """\
description: one guest
tags: [splice, unix]
roles:
  main: {run: run.sh}
"""
DUO = """\
description: two guests
tags: [nfs]
roles:
  server: {setup: server.sh, prepare: [siw], memory_mib: 512}
  client: {run: client.py}
parameters: {transport: [tcp, siw], vers: [3, 4.2]}
exclude: [{transport: siw, vers: 3}]
reach:
  - {role: server, function: svc_tcp_sendto, when: {transport: tcp}}
  - {role: client, function: tcp_sendpage, max: 0, if_symbol: splice_to_socket}
"""


def write(path: Path, text: str, mode: int = 0o644) -> Path:
    """Write one file, with the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def make(root: Path) -> Path:
    """Lay out the lab; returns its lab.yaml."""
    for name in ("old", "new"):
        write(root / "kernels" / f"{name}.yaml", KERNEL)
    write(root / "kernels" / "config" / "guest.config", "CONFIG_SMP=y\n")
    write(root / "rootfs" / "base.yaml", "packages: [python3]\n")
    write(root / "scenarios" / "lib" / "ktap.sh", "echo 'KTAP version 1'\n")
    write(root / "scenarios" / "lib" / "prepare" / "siw.sh", "#!/bin/sh\ntrue\n", 0o755)
    write(root / "scenarios" / "solo" / "scenario.yaml", SOLO + "touches: {files: [net/unix/af_unix.c]}\n")
    write(root / "scenarios" / "solo" / "run.sh", "#!/bin/sh\ntrue\n", 0o755)
    write(root / "scenarios" / "duo" / "scenario.yaml", DUO + "touches: {files: [fs/nfs]}\n")
    write(root / "scenarios" / "duo" / "server.sh", "#!/bin/bash\ntrue\n", 0o755)
    write(root / "scenarios" / "duo" / "client.py", "#!/usr/bin/env python3\nprint()\n", 0o755)
    return write(root / "lab.yaml", LAB)
