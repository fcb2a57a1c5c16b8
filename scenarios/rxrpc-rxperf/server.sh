#!/bin/sh
# The server is the module itself; it only has to be there.
grep -q '^rxperf ' /proc/modules || [ -d /sys/module/rxperf ] || { echo "rxperf is not loaded"; exit 1; }
