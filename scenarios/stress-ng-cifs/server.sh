#!/bin/sh
exec "$LAB_LIB/ksmbd-server.sh"
