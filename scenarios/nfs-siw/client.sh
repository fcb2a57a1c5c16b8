#!/bin/sh
exec python3 "$LAB_LIB/filecheck.py" run /mnt/share "$LAB_LIB/nfs-mount.sh"
