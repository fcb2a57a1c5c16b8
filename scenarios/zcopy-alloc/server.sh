#!/bin/sh
# Exports a tmpfs to this guest itself, and mounts it.
set -eu
export LAB_VERS=4.2 LAB_SERVER=127.0.0.1
"$LAB_LIB/nfs-server.sh"
python3 "$LAB_LIB/filecheck.py" serve /srv/export
"$LAB_LIB/nfs-mount.sh"
