#!/bin/sh
. "$LAB_LIB/ktap.sh"
ktap_plan 2
ktap_ok "before the signal"
kill -KILL $$
