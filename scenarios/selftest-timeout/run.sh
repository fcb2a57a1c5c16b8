#!/bin/sh
. "$LAB_LIB/ktap.sh"
ktap_plan 2
ktap_ok "before the wait"
sleep 86400
ktap_ok "after the wait"
