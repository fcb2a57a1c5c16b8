#!/bin/sh
# Puts a soft-iWARP device on the link between the guests; call it again and nothing happens.
# It must run after the guest got its MAC address: the device's GID is made from it.
set -eu

# Between its answer to a request for a connection and taking over the socket (siw_accept), soft-iWARP overlooks what
# arrives; SMB Direct then waits 120 s and NFS 60 s. On one processor nothing is taken in between by a thread.
echo 1 >"/sys/class/net/$LAB_DEV/threaded"
# Soft-iWARP makes a packet of each segment: with 1500 bytes most of the time goes into making packets.
ip link set "$LAB_DEV" mtu 9000

for module in siw ib_uverbs rdma_ucm rpcrdma; do
    modprobe "$module"
done
rdma link show siw0/1 >/dev/null 2>&1 || rdma link add siw0 type siw netdev "$LAB_DEV"

waited=0
until rdma link show siw0/1 | grep -q 'state ACTIVE'; do
    [ "$waited" -lt 100 ] || { rdma link show; echo "siw0 did not become active" >&2; exit 1; }
    waited=$((waited + 1))
    sleep 0.1
done
