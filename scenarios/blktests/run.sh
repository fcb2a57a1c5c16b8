#!/bin/bash
# Runs blktests' tests of one group, each in a run of its own: one that hangs or is killed leaves no result.
BUDGET_S=$(awk -v scale="${LAB_SCALE:-1}" 'BEGIN { print int(1300 * scale) }')
TEST_S=$(awk -v scale="${LAB_SCALE:-1}" 'BEGIN { print int(180 * scale) }')
cd /lab/suites/blktests || exit

group=${LAB_GROUP%%-*}
export TMPDIR=/mnt/images NVMET_TRTYPES=${LAB_GROUP#*-} NVMET_BLKDEV_TYPES="device file"
# What an emulated processor does in the time that a test may take.
export NVME_IMG_SIZE=64M NVME_NUM_ITER=20 QUICK_RUN=1 TIMEOUT=30

if [ -n "${LAB_BREAK:-}" ]; then # what makes devices makes none
    mkdir -p /tmp/broken
    printf '#!/bin/sh\nexit 1\n' >/tmp/broken/losetup
    chmod +x /tmp/broken/losetup
    cp /tmp/broken/losetup /tmp/broken/nvme
    export PATH=/tmp/broken:$PATH
fi

# Tests of a disk that is there are not listed without one.
mapfile -t tests < <(cd tests && grep -lE '^test\(\)' "$group"/[0-9][0-9][0-9])
printf '# asked: %s\n' "${tests[@]}"
for test in "${tests[@]}"; do
    if [ "$SECONDS" -ge "$BUDGET_S" ]; then
        echo "# not run: time budget"
        break
    fi
    began=$SECONDS
    timeout -k 10 "$TEST_S" ./check "$test" </dev/null 2>&1
    echo "$test: $((SECONDS - began)) s" >&2
done
