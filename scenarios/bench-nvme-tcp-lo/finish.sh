#!/bin/sh
exec python3 "$LAB_LIB/nvme_host.py" disconnect
