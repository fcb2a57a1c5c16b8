#!/bin/sh
exec umount /mnt/share
