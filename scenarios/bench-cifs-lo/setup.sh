#!/bin/sh
set -eu
export LAB_SERVER=127.0.0.1  # both ends are in this guest
"$LAB_LIB/ksmbd-server.sh"
exec "$LAB_LIB/cifs-mount.sh"
