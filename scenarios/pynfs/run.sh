#!/bin/bash
# Runs all of pynfs for one version, and prints its report.
BUDGET_S=$(awk -v scale="${LAB_SCALE:-1}" 'BEGIN { print int(1300 * scale) }')
cd "/lab/suites/pynfs/nfs$LAB_VERS" || exit
case $LAB_VERS in
4.0) words=(--maketree) ;;
4.1) words=(--maketree --minorversion=1) ;;
esac
[ -z "${LAB_BREAK:-}" ] || words+=(--debug_fail) # its own way to make checks fail
timeout -s INT -k 30 "$BUDGET_S" python3 testserver.py "${words[@]}" --xml=/tmp/report.xml "$LAB_SERVER:/" all >&2
cat /tmp/report.xml
