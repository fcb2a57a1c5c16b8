#!/bin/sh
# The C compiler of a look at warnings: keeps what it prints for each object, for as long as the object stands.
#
# Environment: KPATCHLAB_CC, the compiler ("ccache gcc", words split on purpose); KPATCHLAB_RECORDS, a directory that
# takes OBJECT.warnings (slashes are %), and OBJECT.failed where it did not compile. Make compiles an object again
# exactly when what it is made of has changed, so these files are together what a clean build would print.

compiler=${KPATCHLAB_CC:-gcc}

compile='' object='' name='' before=''
for word do
	case $before in
	-o) object=$word ;;
	esac
	case $word in
	-c) compile=1 ;;
	-DKBUILD_MODNAME=*) name=1 ;;
	esac
	before=$word
done
if [ -z "$compile" ] || [ -z "$name" ]; then
	# shellcheck disable=SC2086
	exec $compiler "$@"
fi

# CONFIG_WERROR would make errors of the extra warnings that are looked for.
for word do
	shift
	[ "$word" = -Werror ] || set -- "$@" "$word"
done

record=$KPATCHLAB_RECORDS/$(printf '%s' "$object" | tr / %)
rm -f "$record.sparse" # what was said of another text
exec 3>&1
# shellcheck disable=SC2086
output=$($compiler "$@" 2>&1 >&3 3>&-)
status=$?
kind=failed
[ "$status" -ne 0 ] || kind=warnings
if [ "$status" -lt 128 ]; then
	printf '%s\n' "$output" >"$record.new" && mv "$record.new" "$record.$kind" || exit 1
fi
if [ "$status" -eq 0 ]; then rm -f "$record.failed"; else rm -f "$record.warnings"; fi
[ -z "$output" ] || printf '%s\n' "$output" >&2
exit "$status"
