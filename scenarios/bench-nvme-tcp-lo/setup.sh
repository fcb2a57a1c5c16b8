#!/bin/sh
export LAB_SERVER=127.0.0.1  # both ends are in this guest
exec python3 "$LAB_LIB/nvme_target.py"
