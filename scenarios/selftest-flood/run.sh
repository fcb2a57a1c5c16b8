#!/bin/sh
. "$LAB_LIB/ktap.sh"
ktap_plan 2
ktap_ok "before the flood"
yes "free text that nobody asked for, a line of it of 64 characters" | head -c 104857600
echo
ktap_ok "after the flood"
