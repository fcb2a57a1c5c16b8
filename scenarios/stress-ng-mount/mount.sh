#!/bin/sh
case $LAB_FS in
    nfs) LAB_VERS=4.2 exec "$LAB_LIB/nfs-mount.sh" ;;
    cifs) exec "$LAB_LIB/cifs-mount.sh" ;;
esac
