#!/bin/sh
set -eu
./lossy-link.sh
exec python3 ./server.py
