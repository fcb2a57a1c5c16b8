#!/bin/sh
# The server's own look at what the client wrote.
timeout "$(awk -v scale="${LAB_SCALE:-1}" 'BEGIN { print int(120 * scale) }')" python3 server.py check && exit
cp /var/log/ceph/*.log "$LAB_ATTACH"
exit 1
