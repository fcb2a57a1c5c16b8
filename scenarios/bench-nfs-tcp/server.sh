#!/bin/sh
exec "$LAB_LIB/nfs-server.sh"
