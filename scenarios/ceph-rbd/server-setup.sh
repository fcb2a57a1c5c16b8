#!/bin/sh
exec timeout "$(awk -v scale="${LAB_SCALE:-1}" 'BEGIN { print int(120 * scale) }')" python3 server.py make
