#!/bin/sh
# Disconnects, also after checks that were cut short.
exec python3 "$LAB_LIB/nvme_host.py" disconnect
