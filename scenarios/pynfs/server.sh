#!/bin/sh
# Tests wait for leases to run out: 90 s by default, and 10 s at the least.
mount -t nfsd nfsd /proc/fs/nfsd 2>/dev/null
echo 10 >/proc/fs/nfsd/nfsv4leasetime
exec "$LAB_LIB/nfs-server.sh"
