#!/bin/sh
exec "$LAB_LIB/iscsi-initiator-end.sh"
