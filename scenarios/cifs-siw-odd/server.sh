#!/bin/sh
# Shares a tmpfs; nothing in it.
set -eu
"$LAB_LIB/ksmbd-server.sh"
