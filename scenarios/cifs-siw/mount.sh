#!/bin/sh
# Requests of half a MiB: soft-iWARP registers 256 pages at most, and the client's own limit, 1 MiB, makes 257
# pages of an unaligned buffer; scenario cifs-siw-odd is about that.
LAB_OPTIONS=rsize=524288,wsize=524288 exec "$LAB_LIB/cifs-mount.sh"
