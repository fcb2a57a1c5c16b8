#!/bin/sh
export LAB_SERVER=127.0.0.1  # both ends are in this guest
disk=$(python3 "$LAB_LIB/nvme_host.py" connect) && exec /lab/programs/benchio/benchio "$disk"
