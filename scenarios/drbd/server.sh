#!/bin/sh
set -eu
"$LAB_LIB/sg-link.sh"
exec python3 ./server.py
