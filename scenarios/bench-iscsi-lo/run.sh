#!/bin/sh
export LAB_SERVER=127.0.0.1  # both ends are in this guest
disk=$(python3 "$LAB_LIB/iscsi_initiator.py") && exec /lab/programs/benchio/benchio "$disk"
