#!/bin/sh
# Unmounts after checks that were cut short.
! grep -q ' /mnt/share ' /proc/mounts || umount /mnt/share || umount -f -l /mnt/share
