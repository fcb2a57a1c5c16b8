#!/bin/sh
# Mounts the server's export on /mnt/share, or on the folder that is given (as version LAB_VERS, over LAB_TRANSPORT,
# with LAB_OPTIONS), or mounts it anew: nothing of what the client had cached survives that.
set -eu

folder=${1:-/mnt/share}
mkdir -p "$folder"
! grep -q " $folder " /proc/mounts || umount "$folder"
echo 3 >/proc/sys/vm/drop_caches

transport=proto=tcp
[ "${LAB_TRANSPORT:-tcp}" != rdma ] || transport=proto=rdma,port=20049
case $LAB_VERS in
    3) path=/srv/export transport=$transport,nolock,mountproto=tcp ;;
    *) path=/ ;;
esac
options=vers=$LAB_VERS,$transport,rsize=1048576,wsize=1048576${LAB_OPTIONS:+,$LAB_OPTIONS}
mount -t nfs -o "$options" "$LAB_SERVER:$path" "$folder"
grep " $folder nfs" /proc/mounts
