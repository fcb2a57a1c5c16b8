#!/bin/sh
# What is asked for goes to the server as it is.
LAB_CACHE=none exec "$LAB_LIB/cifs-mount.sh"
