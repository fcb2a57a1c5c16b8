#!/bin/sh
# kbuild's CHECK: runs sparse on one source and keeps what it prints beside the compiler's words, as OBJECT.sparse.
# Kbuild names the object in the dependency file that the compiler writes, DIR/.NAME.o.d.

depfile=''
for word do
	case $word in
	-Wp,-MMD,* | -Wp,-MD,*) depfile=${word##*,} ;;
	esac
done
[ -n "$depfile" ] || exit 0
name=${depfile##*/.}
object=${depfile%/*}/${name%.d}
record=$KPATCHLAB_RECORDS/$(printf '%s' "$object" | tr / %)
sparse "$@" >"$record.check" 2>&1
mv "$record.check" "$record.sparse"
