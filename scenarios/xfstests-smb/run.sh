#!/bin/sh
share=//$LAB_SERVER/share
exec "$LAB_LIB/xfstests.sh" cifs "$share/test" "$share/scratch" username=lab,password=lab,vers=3.1.1,noperm,nobrl,mfsymlinks
