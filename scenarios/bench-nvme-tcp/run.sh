#!/bin/sh
disk=$(python3 "$LAB_LIB/nvme_host.py" connect) && exec /lab/programs/benchio/benchio "$disk"
