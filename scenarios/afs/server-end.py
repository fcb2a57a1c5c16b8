#!/usr/bin/python3
"""The server's own look: among the plain files in which the file server keeps its own, each of the client's must be."""

import os

import files
from files import datafile

there = {}
for folder, _, names in os.walk("/vicepa/AFSIDat"):
    for name in names:
        path = os.path.join(folder, name)
        with open(path, "rb") as file:
            there[datafile.digest(file.read())] = path
wanted = {name: datafile.content(size, seed) for way in (0, 2, 3) for name, size, seed in files.written(way)}
wanted[files.STREAM[0]] = datafile.content(*files.STREAM[1:])
wanted[files.PATCHED[0]] = files.patched()
missing = [name for name, data in wanted.items() if datafile.digest(data) not in there]
if missing:
    raise SystemExit(f"among {len(there)} files in /vicepa there is none that is {', '.join(missing)} of the client")
