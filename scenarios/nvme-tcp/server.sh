#!/bin/sh
exec python3 "$LAB_LIB/nvme_target.py"
