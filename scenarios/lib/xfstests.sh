#!/bin/bash
# Runs xfstests' quick tests on file systems of another guest, each in a run of its own: the suite has no time limit for a
# test, and keeps an old report where there is no such test. What it prints is one report of all of theirs.
#   xfstests.sh FSTYP TEST_DEV SCRATCH_DEV OPTIONS
fstyp=$1 test_dev=$2 scratch_dev=$3 options=$4
BUDGET_S=$(awk -v scale="${LAB_SCALE:-1}" 'BEGIN { print int(1500 * scale) }')
TEST_S=$(awk -v scale="${LAB_SCALE:-1}" 'BEGIN { print int(300 * scale) }')
cd /lab/suites/xfstests || exit

# Users that the tests want.
id=5000
for user in fsgqa fsgqa2 123456-fsgqa; do
    id=$((id + 1))
    echo "$user:x:$id:$id::/tmp:/bin/bash" >>/etc/passwd
    echo "$user:x:$id:" >>/etc/group
done
mkdir -p /mnt/test /mnt/scratch
cat >local.config <<END
export FSTYP=$fstyp TEST_DEV=$test_dev TEST_DIR=/mnt/test SCRATCH_DEV=$scratch_dev SCRATCH_MNT=/mnt/scratch
export NFS_MOUNT_OPTIONS="-o $options" CIFS_MOUNT_OPTIONS="-o $options" CEPHFS_MOUNT_OPTIONS="-o $options"
export TEST_FS_MOUNT_OPTS="-o $options" RESULT_BASE=/tmp/results
END

# All quick tests of what any file system has, and of this one, without those that ask for a block device.
mapfile -t tests < <(
    grep -lE '^_begin_fstest .*\bquick\b' tests/generic/[0-9][0-9][0-9] "tests/$fstyp"/[0-9][0-9][0-9] 2>/dev/null |
        xargs grep -LE '_require_(block_device|dm_|scratch_(nocheck|dev_pool|shutdown|xfs)|xfs_|log_|metadata_j|flakey|loop|logdev)' |
        sed 's,^tests/,,'
)
printf '# asked: %s\n' "${tests[@]}"
broken=()
[ -z "${LAB_BREAK:-}" ] || broken=(strace -f -qq -o /dev/null -e inject=pread64,pwrite64:error=EIO)
echo '<testsuites>'
for test in "${tests[@]}"; do
    if [ "$SECONDS" -ge "$BUDGET_S" ]; then
        late=yes
        break
    fi
    began=$SECONDS
    rm -rf /tmp/results
    timeout -k 10 "$TEST_S" "${broken[@]}" ./check -R xunit-quiet "$test" </dev/null >&2
    status=$?
    if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then # 137: it did not heed the first signal
        echo "<testsuite name='xfstests'><testcase name='$test'><failure message='no end within $TEST_S s'/></testcase></testsuite>"
    elif [ -f /tmp/results/result.xml ]; then
        grep -v '^<?xml' /tmp/results/result.xml
    fi
    echo "$test: $((SECONDS - began)) s" >&2
done
echo '</testsuites>'
[ -z "${late:-}" ] || echo "# not run: time budget"
