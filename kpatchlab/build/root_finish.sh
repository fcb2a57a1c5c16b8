# mmdebstrap's last hook, run by the host's sh as the root's own root; $1 is the new root.
# Makes it fit to run without an init system, and packs it.
set -eu
root=$1

printf '127.0.0.1 localhost\n::1 localhost\n10.77.0.1 server\n10.77.0.2 client\n' >"$root/etc/hosts"
: >"$root/etc/resolv.conf"
: >"$root/etc/machine-id"
printf 'guest\n' >"$root/etc/hostname"
# No name service but files: a lookup must not wait for a name server that is not there.
printf '%s: files\n' passwd group shadow hosts networks protocols services ethers rpc netgroup >"$root/etc/nsswitch.conf"
mkdir -p "$root/lab" "$root/mnt" "$root/sys" "$root/proc" "$root/dev" "$root/run" "$root/tmp" "$root/lib/modules"
ln -sfn /proc/self/mounts "$root/etc/mtab"

chroot "$root" ldconfig

# What only building the root needed. dpkg's status stays: it says what is installed.
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/cache/debconf/*-old \
    "$root"/var/lib/dpkg/*-old "$root"/var/log/* "$root"/var/cache/ldconfig/aux-cache \
    "$root"/etc/*- "$root"/usr/share/bug "$root"/usr/share/lintian

# -x-1: without extended attributes, which erofs-utils 1.5 would also read from the excluded /proc, and fail.
# A program's capabilities are lost with them; everything in a guest runs as root.
# --preserve-mtime: Python holds its compiled files against their sources' times.
mkfs.erofs -x-1 -zlz4hc --preserve-mtime --exclude-regex='^(proc|sys|dev|tmp|run|etc/apt)/.+' \
    "$root/tmp/root.erofs" "$root" >/dev/null
