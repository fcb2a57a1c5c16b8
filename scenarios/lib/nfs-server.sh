#!/bin/sh
# Starts an NFS server for one protocol version, LAB_VERS ("3", "4.1", "4.2"): it exports a tmpfs, /srv/export.
# With LAB_TRANSPORT=rdma it also listens on RDMA port 20049.
set -eu

mkdir -p /srv/export /run/rpcbind /var/lib/nfs/rpc_pipefs /var/lib/nfs/v4recovery
mount -t tmpfs -o size=256m export /srv/export
mount -t nfsd nfsd /proc/fs/nfsd 2>/dev/null || [ -e /proc/fs/nfsd/threads ]
mount -t rpc_pipefs sunrpc /var/lib/nfs/rpc_pipefs 2>/dev/null || true

# fsid=0 makes the export version 4's root: a path below a root that is an overlay gives ENOENT.
echo '/srv/export *(rw,async,no_root_squash,no_subtree_check,insecure,fsid=0)' >/etc/exports

# Requests of up to 1 MiB; the default depends on the memory, and is less in a small guest.
echo 1048576 >/proc/fs/nfsd/max_block_size
pidof rpcbind >/dev/null || rpcbind
exportfs -ra
rpc.mountd
# The first write of a version 4 client waits for the end of the grace period: 90 s by default, and 10 s at the least.
[ "$LAB_VERS" = 3 ] || echo 10 >/proc/fs/nfsd/nfsv4gracetime || :
case $LAB_VERS in
    3) rpc.nfsd --no-nfs-version 4 --nfs-version 3 2 ;;
    *) rpc.nfsd --no-nfs-version 3 --nfs-version "$LAB_VERS" 2 ;;
esac
if [ "${LAB_TRANSPORT:-tcp}" = rdma ]; then
    echo rdma 20049 >/proc/fs/nfsd/portlist
fi
# It ends at once where the kernel lets it; newer ones answer EBUSY where no nfsdcld runs.
[ "$LAB_VERS" = 3 ] || echo Y >/proc/fs/nfsd/v4_end_grace || echo "the grace period ends by itself" >&2
cat /proc/fs/nfsd/versions /proc/fs/nfsd/portlist
