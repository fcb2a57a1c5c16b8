#!/bin/sh
# Mounts the server's share on /mnt/share (over LAB_TRANSPORT, with cache=LAB_CACHE and LAB_OPTIONS), or mounts it anew:
# nothing of what the client had cached survives that.
set -eu

mkdir -p /mnt/share
! grep -q ' /mnt/share ' /proc/mounts || umount /mnt/share
echo 3 >/proc/sys/vm/drop_caches

options=username=lab,password=lab,vers=3.1.1,cache=${LAB_CACHE:-strict}${LAB_OPTIONS:+,$LAB_OPTIONS}
[ "${LAB_TRANSPORT:-tcp}" != rdma ] || options=$options,rdma
mount -t cifs -o "$options" "//$LAB_SERVER/share" /mnt/share
