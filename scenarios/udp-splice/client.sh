#!/bin/sh
# The link to the server, and a veth pair into a network namespace of this guest.
set -eu
"$LAB_LIB/sg-link.sh"
exec "$LAB_LIB/far-netns.sh"
