#!/bin/sh
. "$LAB_LIB/ktap.sh"
ktap_plan 3
ktap_ok "it runs"
ktap_check "a command that succeeds" true
ktap_skip "something this kernel lacks" "there is no such thing"
ktap_metric answer 42 things higher
echo "free text for standard error" >&2
echo "kept" >"$LAB_ATTACH/kept.txt"
