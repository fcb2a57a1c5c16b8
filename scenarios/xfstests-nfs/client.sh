#!/bin/bash
# Users and folders that the tests want, and where the file systems are.
for user in fsgqa fsgqa2 123456-fsgqa; do
    id=$((id + 1))
    echo "$user:x:$((5000 + id)):$((5000 + id))::/tmp:/bin/bash" >>/etc/passwd
    echo "$user:x:$((5000 + id)):" >>/etc/group
done
mkdir -p /mnt/test /mnt/scratch
case $LAB_VERS in
3) top=/srv/export options=vers=3,proto=tcp,nolock,mountproto=tcp ;;
*) top= options=vers=$LAB_VERS,proto=tcp ;;
esac
cat >/lab/suites/xfstests/local.config <<END
export FSTYP=nfs
export TEST_DEV=$LAB_SERVER:$top/test TEST_DIR=/mnt/test
export SCRATCH_DEV=$LAB_SERVER:$top/scratch SCRATCH_MNT=/mnt/scratch
export NFS_MOUNT_OPTIONS="-o $options" TEST_FS_MOUNT_OPTS="-o $options"
export RESULT_BASE=/tmp/results
END
