#!/bin/sh
exec "$LAB_LIB/sg-link.sh"
