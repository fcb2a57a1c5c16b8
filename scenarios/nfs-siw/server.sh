#!/bin/sh
# Exports a tmpfs with files that only the server made.
set -eu
"$LAB_LIB/nfs-server.sh"
python3 "$LAB_LIB/filecheck.py" serve /srv/export
