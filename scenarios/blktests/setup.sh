#!/bin/sh
# The tests wait for udev, and put their images below /tmp: a tmpfs has no direct I/O on older kernels, ext4 has.
set -eu
/lib/systemd/systemd-udevd --daemon
udevadm settle
for name in configfs:config debugfs:debug; do
    grep -q " /sys/kernel/${name#*:} " /proc/mounts || mount -t "${name%:*}" none "/sys/kernel/${name#*:}"
done
mkdir -p /mnt/images
truncate -s 4G /tmp/images.ext4
mkfs.ext4 -q /tmp/images.ext4
mount -o loop /tmp/images.ext4 /mnt/images
