#!/bin/sh
# Takes the resource away, also after checks that were cut short.
exec drbdsetup down lab
