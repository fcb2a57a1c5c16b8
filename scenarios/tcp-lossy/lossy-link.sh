#!/bin/sh
# The link to the other guest, on which each end loses, repeats, delays and reorders what it sends. TCP makes single
# packets, and no segments for the device to cut up: of these there would be too few to lose any.
set -eu
"$LAB_LIB/sg-link.sh"
ethtool -K br0 tso off gso off
tc qdisc add dev br0 root netem delay 4ms 1ms loss 3% duplicate 3% reorder 25% 50%
