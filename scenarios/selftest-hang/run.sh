#!/bin/sh
. "$LAB_LIB/ktap.sh"
ktap_plan 2
ktap_ok "before the hang"
echo HARDLOCKUP >/sys/kernel/debug/provoke-crash/DIRECT
ktap_ok "after the hang"
