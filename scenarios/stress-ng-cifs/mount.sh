#!/bin/sh
exec "$LAB_LIB/cifs-mount.sh"
