#!/bin/sh
. "$LAB_LIB/ktap.sh"
ktap_plan 3
ktap_ok "the first holds"
ktap_not_ok "the second does not" "41 instead of 42"
ktap_ok "the third holds"
