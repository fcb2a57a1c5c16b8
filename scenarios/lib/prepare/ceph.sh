#!/bin/sh
# Starts a Ceph cluster on this guest: one monitor, one OSD that keeps everything in memory, one MDS. It has a
# file system "fs" and, in pool "rbd", an image "disk". A manager (statistics, modules) is left out: neither the
# kernel's clients nor these steps need one.
set -eu

# The one secret of all daemons and clients, in Ceph's own encoding; clients read this line.
key=AQAAAAAAAAAAABAAa3BhdGNobGFiLXNlY3JldA==
disk_mib=48

# There is no cable yet: what the guest sends on its own account would wait in the device, and the kernel complain.
# The address is on lo for as long, so that the daemons can be reached by it.
ip address add "$LAB_SERVER/32" dev lo
ip link set "$LAB_DEV" down

mkdir -p /etc/ceph /run/ceph /var/log/ceph /var/lib/ceph/mon/ceph-a /var/lib/ceph/osd/ceph-0 /var/lib/ceph/mds/ceph-a

# Deadlines that go by the wall clock are long: a guest that was saved is resumed days later. So are those of
# heartbeats: an emulated guest on a busy host is slow and not dead.
cat >/etc/ceph/ceph.conf <<EOF
[global]
fsid = 6b706174-6368-6c61-622d-636c75737465
mon host = [v2:$LAB_SERVER:3300,v1:$LAB_SERVER:6789]
public addr = $LAB_SERVER
keyring = /etc/ceph/keyring
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth mon ticket ttl = 30000000
auth service ticket ttl = 30000000
ms bind ipv6 = false
log file = /var/log/ceph/\$name.log
crash dir =
rados mon op timeout = 60
rados osd op timeout = 60

[mon]
mon initial members = a
mon allow pool size one = true
mon allow pool delete = true
mon osd report timeout = 300000000
mon data avail crit = 1
mon data avail warn = 1
mds beacon grace = 3600
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off

[osd]
osd objectstore = memstore
memstore device bytes = 1073741824
osd class dir = /usr/lib/x86_64-linux-gnu/rados-classes
osd heartbeat grace = 3600
osd op thread timeout = 3600
osd op thread suicide timeout = 36000

[mds]
mds beacon grace = 3600
mds cache memory limit = 67108864
EOF

all="caps mon = \"allow *\"
    caps osd = \"allow *\"
    caps mds = \"allow *\"
    caps mgr = \"allow *\""
for name in mon. client.admin osd.0 mds.a; do
    printf '[%s]\n    key = %s\n    %s\n' "$name" "$key" "$all"
done >/etc/ceph/keyring

monmaptool --create --fsid 6b706174-6368-6c61-622d-636c75737465 \
    --addv a "[v2:$LAB_SERVER:3300,v1:$LAB_SERVER:6789]" /run/ceph/monmap >/dev/null
ceph-mon --mkfs -i a --monmap /run/ceph/monmap
ceph-mon -i a

# One process for all commands: starting "ceph" takes seconds in an emulated guest.
cat >/run/ceph/steps.py <<'EOF'
import json
import subprocess
import sys
import time

import rados

UUID = "6b706174-6368-6c61-622d-6f7364303030"
BEGAN = time.monotonic()
cluster = rados.Rados(conffile="/etc/ceph/ceph.conf")
cluster.connect()


def ask(prefix, **words):
    status, out, said = cluster.mon_command(json.dumps({"prefix": prefix, "format": "json", **words}), b"")
    if status:
        raise SystemExit(f"ceph {prefix}: {said or status}")
    return json.loads(out) if out.strip() else None


def wait(what, done):
    # The preparation's own deadline ends it, which counts what the host gave the guest; a clock in here does not.
    print(f"waits for: {what}", file=sys.stderr, flush=True)
    while not done():
        time.sleep(0.2)
    print(f"{what}: {time.monotonic() - BEGAN:.1f} s", flush=True)


def active():
    states = [entry["state"] for entry in ask("fs dump")["filesystems"][0]["mdsmap"]["info"].values()]
    return states == ["up:active"]


ask("osd new", uuid=UUID, id=0)
subprocess.run(["ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", UUID, "--no-mon-config"], check=True)
subprocess.run(["ceph-osd", "-i", "0"], check=True, stdout=subprocess.DEVNULL)
for pool in ("rbd", "fs-meta", "fs-data"):
    ask("osd pool create", pool=pool, pg_num=4)
ask("osd pool application enable", pool="rbd", app="rbd")
ask("fs new", fs_name="fs", metadata="fs-meta", data="fs-data")
subprocess.run(["ceph-mds", "-i", "a"], check=True, stdout=subprocess.DEVNULL)
wait("OSD up", lambda: ask("osd dump")["osds"][0]["up"])
wait("MDS active", active)

import rbd  # noqa: E402 - after the waiting, which it need not prolong

with cluster.open_ioctx("rbd") as pool:
    # Layering alone: what every kernel's client can do.
    rbd.RBD().create(pool, "disk", int(sys.argv[1]) << 20, old_format=False, features=1)
print(f"image made: {time.monotonic() - BEGAN:.1f} s")
EOF
python3 /run/ceph/steps.py "$disk_mib"

ip link set "$LAB_DEV" up
ip address delete "$LAB_SERVER/32" dev lo
