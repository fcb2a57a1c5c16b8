#!/bin/bash
case $LAB_VERS in
3) top=/srv/export options=vers=3,proto=tcp,nolock,mountproto=tcp ;;
*) top= options=vers=$LAB_VERS,proto=tcp ;;
esac
exec "$LAB_LIB/xfstests.sh" nfs "$LAB_SERVER:$top/test" "$LAB_SERVER:$top/scratch" "$options"
