#!/bin/sh
# Ends the server; one that has died before is a failure of its own.
kill "$(cat server.pid)" || { cat "$LAB_ATTACH/server.log"; exit 1; }
