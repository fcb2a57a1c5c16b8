#!/bin/sh
# Starts ksmbd: it shares a tmpfs, /srv/export, as "share", to user "lab" with password "lab".
# It listens on TCP port 445 and, on every RDMA device that exists by now, for SMB Direct (iWARP: port 5445).
set -eu

mkdir -p /srv/export /etc/ksmbd /run
mount -t tmpfs -o size=256m export /srv/export
cat >/etc/ksmbd/ksmbd.conf <<'CONF'
[global]
    netbios name = LAB
    server multi channel support = no
[share]
    path = /srv/export
    read only = no
CONF
ksmbd.adduser --add --password=lab lab
ksmbd.mountd
waited=0
until [ "$(cat /sys/class/ksmbd-control/stats 2>/dev/null | wc -l)" -gt 0 ] && grep -q ':01BD ' /proc/net/tcp /proc/net/tcp6; do
    [ "$waited" -lt 100 ] || { echo "ksmbd does not listen on port 445" >&2; exit 1; }
    waited=$((waited + 1))
    sleep 0.1
done
