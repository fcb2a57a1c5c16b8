#!/bin/sh
# Must never pass: one number is reported three ways, a plan comes twice, and one more check than planned.
cat <<'KTAP'
KTAP version 1
1..3
ok 1 - sound
not ok 1 - sound
ok 1 - sound
1..2
ok 2 - job
ok 3 - reach: unix_stream_sendpage
    ok 1 - nested deeper
ok 7 - nobody planned this one
metric bent NaN MiB/s higher
metric bent 1 MiB/s sideways
KTAP
