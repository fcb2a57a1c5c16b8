#!/bin/sh
LAB_VERS=4.2 exec "$LAB_LIB/nfs-server.sh"
