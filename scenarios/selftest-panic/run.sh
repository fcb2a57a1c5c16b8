#!/bin/sh
. "$LAB_LIB/ktap.sh"
ktap_plan 2
ktap_ok "before the panic"
echo 1 >/proc/sys/kernel/sysrq
echo c >/proc/sysrq-trigger
ktap_ok "after the panic"
