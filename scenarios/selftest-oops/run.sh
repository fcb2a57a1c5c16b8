#!/bin/sh
# The oops kills whoever asked for it: a child, so that all checks below are ok. The kernel log says otherwise.
. "$LAB_LIB/ktap.sh"
ktap_plan 2
ktap_ok "before the oops"
(echo EXCEPTION >/sys/kernel/debug/provoke-crash/DIRECT)
ktap_ok "after the oops"
