#!/bin/sh
# Loads the families that the kernel has, and makes the devices that some of them need; what is missing is told by
# the checks.
modprobe -a -q rds can can-raw can-bcm can-isotp can-j1939 vcan sctp tipc l2tp_ip l2tp_ip6 l2tp_ppp pppoe llc2 veth \
    vsock_loopback appletalk qrtr netrom rose dccp_ipv4 dccp_ipv6 af_key phonet x25 caif_socket ax25 atm \
    ieee802154_socket bluetooth nfc algif_rng
ip link add vcan0 type vcan && ip link set vcan0 up
# Frames that leave one end arrive at the other. Both ends of the second pair have one address: what is sent to a
# socket's own address then comes back.
ip link add two0 address 02:00:00:00:00:01 type veth peer name two1 address 02:00:00:00:00:02
ip link add own0 address 02:00:00:00:00:03 type veth peer name own1 address 02:00:00:00:00:03
for name in two0 two1 own0 own1; do ip link set "$name" up; done
if [ -e /sys/class/net/nr0 ]; then ip link set nr0 address 98:8a:9c:aa:b0:40:02 && ip link set nr0 up; fi
if [ -e /sys/class/net/rose0 ]; then ip link set rose0 address 12:34:56:78:90 && ip link set rose0 up; fi
echo '0 2147483647' >/proc/sys/net/ipv4/ping_group_range
ip addr show >&2
exit 0
