#!/bin/sh
set -eu
export LAB_SERVER=127.0.0.1  # both ends are in this guest
python3 "$LAB_LIB/iscsi_target.py"
exec "$LAB_LIB/iscsi-initiator.sh"
