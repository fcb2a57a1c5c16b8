#!/bin/sh
# Starts an AFS cell on this guest, all of it in user space: the databases of volumes and of users, a file server
# and a volume server. The cell is "lab.test"; its volume "data" may be read and written by everybody. Nothing is
# authenticated. The file server keeps each file as one plain file somewhere under /vicepa/AFSIDat.
set -eu

cell=lab.test
config=/etc/openafs/server
state=/var/lib/openafs/local
programs=/usr/lib/openafs

# There is no cable yet: what the guest sends on its own account would wait in the device, and the kernel complain.
# The address is on lo for as long, so that the servers can be reached by it.
ip address add "$LAB_SERVER/32" dev lo
ip link set "$LAB_DEV" down

mkdir -p "$config" "$state" /var/lib/openafs/db /var/log/openafs /vicepa
mount -t tmpfs tmpfs /vicepa
: >/vicepa/AlwaysAttach # or a folder that is not a partition of its own is passed over

# The servers want an address for the host's name. The name is another one after the guest was saved; by then
# all of them are running.
printf '127.0.0.1 localhost\n%s %s\n' "$LAB_SERVER" "$(uname -n)" >/etc/hosts
for folder in /etc/openafs "$config"; do
    printf '%s\n' "$cell" >"$folder/ThisCell"
    printf '>%s\n%s\t#server\n' "$cell" "$LAB_SERVER" >"$folder/CellServDB"
done
: >"$config/UserList"
: >"$state/NoAuth"
# The one address that clients are told of.
printf '%s\n' "$LAB_SERVER" >"$state/NetInfo"
printf '127.0.0.1\n' >"$state/NetRestrict"

start() {
    name=$1
    shift
    "$programs/$name" "$@" </dev/null >"/var/log/openafs/$name.out" 2>&1 &
}

give_up() {
    tail -n 5 /var/log/openafs/* >&2
    echo "$1" >&2
    exit 1
}

# A command that is tried until it succeeds: the servers take their time to come up.
patiently() {
    end=$(($(date +%s) + 120))
    until timeout 60 "$@" >/run/afs-said 2>&1; do
        [ "$(date +%s)" -lt "$end" ] || { cat /run/afs-said >&2; give_up "no success within 120 s: $*"; }
        sleep 0.2
    done
}

start ptserver
start vlserver
patiently pts listentries -noauth
patiently vos listvldb -noauth -noresolve
# Not earlier: where these two do not find the databases, they try again after half a minute.
start fileserver -udpsize 1048576
start volserver
patiently vos listvol "$LAB_SERVER" -noauth -noresolve
patiently vos create "$LAB_SERVER" a data -maxquota 0 -noauth -noresolve

# The root of a new volume is open to administrators alone, and nobody here can prove to be one. So the volume
# is dumped, the entry of its access list changed to mean everybody, and restored.
vos dump data -file /run/data.dump -noauth >/dev/null
python3 - /run/data.dump <<'EOF'
import struct
import sys

ADMINISTRATORS, ANYUSER, EVERYTHING = -204, -101, 0o177
with open(sys.argv[1], "r+b") as file:
    dump = file.read()
    old = struct.pack(">ii", ADMINISTRATORS, EVERYTHING)
    if dump.count(old) != 1:
        raise SystemExit(f"{dump.count(old)} access list entries of the administrators instead of one")
    file.seek(dump.index(old))
    file.write(struct.pack(">ii", ANYUSER, EVERYTHING))
EOF
vos restore "$LAB_SERVER" a data -file /run/data.dump -overwrite full -noauth >/dev/null
rm /run/data.dump

for name in ptserver vlserver fileserver volserver; do
    pgrep -x "$name" >/dev/null || give_up "$name has ended"
done
ip link set "$LAB_DEV" up
ip address delete "$LAB_SERVER/32" dev lo
