#!/bin/bash
# Runs one part of LTP by kirk, and prints kirk's report.
export LTPROOT=/lab/suites/ltp LTP_COLORIZE_OUTPUT=0
# Tests bring times of their own, for processors that are not emulated.
LTP_TIMEOUT_MUL=$(awk -v scale="${LAB_SCALE:-1}" 'BEGIN { print 3 * scale }')
BUDGET_S=$(awk -v scale="${LAB_SCALE:-1}" 'BEGIN { print int(1300 * scale) }')
# The longest of the tests, pcrypt_aead01, gives itself 300 s.
TEST_S=$(awk -v scale="${LAB_SCALE:-1}" 'BEGIN { print int(420 * scale) }')
export LTP_TIMEOUT_MUL
# The lab knows the configuration; a guest has it only where IKCONFIG is on. Without it no test runs that asks.
[ -e /proc/config.gz ] || export KCONFIG_SKIP_CHECK=1

file=syscalls
case $LAB_PART in
splice) tests='(splice|vmsplice|tee)' calls=splice,vmsplice,tee ;;
sendfile) tests='sendfile' calls=sendfile ;;
sockets) tests='(send|sendto|sendmsg|sendmmsg|recv|recvfrom|recvmsg|recvmmsg|socket|socketpair)' calls=socket,socketpair ;;
crypto) tests='[a-z_]+' calls=socket file=crypto ;;
network)
    # Tests with stations of their own in namespaces; DCCP and SCTP come with tests of theirs.
    tests='(in6_|getaddrinfo_|asapi_|bbr|bind_noport|busy_poll|tcp_fastopen|vlan|macvlan|gre_ipv[46]_|fou|dctcp_ipv[46]_)'
    calls=connect
    cat "$LTPROOT/runtest/net.features" >>"$LTPROOT/runtest/net.ipv6_lib"
    file=net.ipv6_lib
    ;;
esac
grep -E "^$tests[0-9]*(_64|_ipv6)?[[:space:]]" "$LTPROOT/runtest/$file" >"$LTPROOT/runtest/lab"
while read -r name _; do echo "# asked: $name"; done <"$LTPROOT/runtest/lab"

broken=()
[ -z "${LAB_BREAK:-}" ] || broken=(strace -f -qq -o /dev/null -e "inject=$calls:error=EIO")
"${broken[@]}" python3 /lab/suites/kirk/kirk -n -f lab -o report.json -d /tmp -t "$TEST_S" -T "$BUDGET_S" >&2
cat report.json
