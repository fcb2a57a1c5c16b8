#!/bin/sh
# The server's own look at what the client wrote.
exec python3 "$LAB_LIB/blockcheck.py" verify "$LAB_TMP/iscsi-backing" 1 2
