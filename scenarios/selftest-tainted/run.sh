#!/bin/sh
# Must never pass: bit 9 of the taint says that the kernel issued a warning.
. "$LAB_LIB/ktap.sh"
ktap_plan 1
echo 512 >/proc/sys/kernel/tainted
ktap_ok "went on"
