#!/bin/sh
set -eu
# mount.ceph wants a configuration of its own: the tests call mount without it.
mv /usr/sbin/mount.ceph /usr/sbin/mount.ceph.unused
options=$(PYTHONPATH=$LAB_LIB python3 -c 'import ceph_client; print(ceph_client.options("crc"))')
monitor=$(PYTHONPATH=$LAB_LIB python3 -c 'import ceph_client; print(ceph_client.monitor("crc"))')
mkdir -p /mnt/all
mount -t ceph "$monitor:/" /mnt/all -o "$options"
mkdir -p /mnt/all/test /mnt/all/scratch
chmod 777 /mnt/all /mnt/all/test /mnt/all/scratch
umount /mnt/all
exec "$LAB_LIB/xfstests.sh" ceph "$monitor:/test" "$monitor:/scratch" "$options"
