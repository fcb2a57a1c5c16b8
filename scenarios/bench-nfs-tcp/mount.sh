#!/bin/sh
exec "$LAB_LIB/nfs-mount.sh"
