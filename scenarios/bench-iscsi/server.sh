#!/bin/sh
exec python3 "$LAB_LIB/iscsi_target.py"
