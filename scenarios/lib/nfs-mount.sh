#!/bin/sh
# Mounts the server's export on /mnt/share (as version LAB_VERS, over LAB_TRANSPORT), or mounts it anew:
# nothing of what the client had cached survives that.
set -eu

mkdir -p /mnt/share
! grep -q ' /mnt/share ' /proc/mounts || umount /mnt/share
echo 3 >/proc/sys/vm/drop_caches

transport=proto=tcp
[ "${LAB_TRANSPORT:-tcp}" != rdma ] || transport=proto=rdma,port=20049
case $LAB_VERS in
    3) path=/srv/export transport=$transport,nolock,mountproto=tcp ;;
    *) path=/ ;;
esac
mount -t nfs -o "vers=$LAB_VERS,$transport" "$LAB_SERVER:$path" /mnt/share
