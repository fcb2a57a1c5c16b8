#!/bin/sh
"$LAB_LIB/ksmbd-server.sh" || exit
mount -o remount,size=1536m /srv/export
mkdir -p /srv/export/test /srv/export/scratch
chmod 777 /srv/export /srv/export/test /srv/export/scratch
