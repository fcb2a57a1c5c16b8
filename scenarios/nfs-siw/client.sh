#!/bin/sh
exec python3 "$LAB_LIB/filecheck.py" run /mnt/share ./mount.sh
