#!/bin/sh
# A network namespace `far` behind a veth pair of MTU 1500: near0 has 10.78.0.2 and fd78::2, far0 in it 10.78.0.1
# and fd78::1. A veth device takes pages as they are.
set -eu
ip netns add far
ip link add near0 mtu 1500 type veth peer name far0 mtu 1500 netns far
ip addr add 10.78.0.2/24 dev near0
ip addr add fd78::2/64 dev near0 nodad
ip link set near0 up
ip -n far addr add 10.78.0.1/24 dev far0
ip -n far addr add fd78::1/64 dev far0 nodad
ip -n far link set far0 up
ip -n far link set lo up
