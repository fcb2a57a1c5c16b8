#!/bin/sh
exec /lab/programs/benchio/benchio /mnt/share/figures
