#!/bin/sh
# The server's own look at what the client wrote.
cd /srv/export && sha256sum --quiet --check SHA256SUMS
