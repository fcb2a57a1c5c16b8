#!/bin/bash
# Runs the quick tests, each in a run of its own: the suite has no time limit for a test, and keeps an old report where
# there is no such test. What it prints is one report of all of theirs.
BUDGET_S=$(awk -v scale="${LAB_SCALE:-1}" 'BEGIN { print int(1500 * scale) }')
TEST_S=$(awk -v scale="${LAB_SCALE:-1}" 'BEGIN { print int(120 * scale) }')
cd /lab/suites/xfstests || exit

# All quick tests of what any file system has, and of NFS, without those that ask for a block device.
mapfile -t tests < <(
    grep -lE '^_begin_fstest .*\bquick\b' tests/generic/[0-9][0-9][0-9] tests/nfs/[0-9][0-9][0-9] |
        xargs grep -LE '_require_(block_device|dm_|scratch_(nocheck|dev_pool|shutdown|xfs)|xfs_|log_|metadata_j|flakey|loop|logdev)' |
        sed 's,^tests/,,'
)
printf '# asked: %s\n' "${tests[@]}"
broken=()
[ -z "${LAB_BREAK:-}" ] || broken=(strace -f -qq -o /dev/null -e inject=pread64,pwrite64:error=EIO)
echo '<testsuites>'
for test in "${tests[@]}"; do
    if [ "$SECONDS" -ge "$BUDGET_S" ]; then
        late=time
        break
    fi
    began=$SECONDS
    rm -rf /tmp/results
    timeout -k 10 "$TEST_S" "${broken[@]}" ./check -R xunit-quiet "$test" </dev/null >&2
    if [ $? -eq 124 ]; then
        echo "<testsuite name='xfstests'><testcase name='$test'><failure message='no end within $TEST_S s'/></testcase></testsuite>"
    elif [ -f /tmp/results/result.xml ]; then
        grep -v '^<?xml' /tmp/results/result.xml
    fi
    echo "$test: $((SECONDS - began)) s" >&2
done
echo '</testsuites>'
[ -z "${late:-}" ] || echo "# not run: time budget"
