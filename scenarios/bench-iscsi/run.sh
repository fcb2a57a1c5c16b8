#!/bin/sh
disk=$(python3 "$LAB_LIB/iscsi_initiator.py") && exec /lab/programs/benchio/benchio "$disk"
