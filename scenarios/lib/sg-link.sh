#!/bin/sh
# Puts the link between the guests behind a bridge, br0, which can send pages as they are.
#
# The guests' own network device takes packets in one piece only (no scatter-gather), so everything that is sent
# through it directly is copied. A bridge has the features that one of its ports has: with a dummy device as a
# second port it has scatter-gather, checksums and segmentation, and the network device gets finished packets.
# `ethtool -K br0 sg off` brings the copies back. br0 has the guest's IPv4 address, and fd77::1 (server) or
# fd77::2 (client).
set -eu
case $LAB_ROLE in
    server) number=1 v4=$LAB_SERVER ;;
    *) number=2 v4=$LAB_CLIENT ;;
esac
ip link add dummy77 address "02:00:00:00:77:0$number" type dummy
ip link add br0 address "$(cat "/sys/class/net/$LAB_DEV/address")" type bridge stp_state 0
ip addr flush dev "$LAB_DEV"
ip link set dummy77 master br0 up
ip link set "$LAB_DEV" master br0
ip addr add "$v4/24" dev br0
ip link set br0 up
ip addr add "fd77::$number/64" dev br0 nodad
ethtool -k br0 | grep -q '^scatter-gather: on' || { echo "br0 has no scatter-gather"; exit 1; }
