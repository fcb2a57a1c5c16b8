#!/bin/sh
case $LAB_FS in
    nfs) LAB_VERS=4.2 exec "$LAB_LIB/nfs-server.sh" ;;
    cifs) exec "$LAB_LIB/ksmbd-server.sh" ;;
esac
