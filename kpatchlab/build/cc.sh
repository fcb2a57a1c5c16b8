#!/bin/sh
# The C compiler of a lab build: a module that does not compile costs that module, not the kernel.
#
# Environment: KPATCHLAB_CC, the compiler ("ccache gcc", words split on purpose); KPATCHLAB_FAILURES, a directory
# that takes one file for each object that failed: object, source, module and kind on four lines, then the
# compiler's output. An object of a module (-DMODULE) that fails is replaced by an empty one, so that make goes on;
# `kpatchlab.build.failures` takes the module out of the tree afterwards. Built-in code fails as ever.
# KPATCHLAB_COVER, where set: a file that names sources of the tree, one a line, which are compiled for gcov.

compiler=${KPATCHLAB_CC:-gcc}

compile='' object='' source='' module='' name='' depfile='' before=''
for word do
	case $before in
	-o) object=$word ;;
	esac
	case $word in
	-c) compile=1 ;;
	-DMODULE) module=1 ;;
	-DKBUILD_MODNAME=*) name=${word#*=} ;;
	-Wp,-MMD,* | -Wp,-MD,*) depfile=${word##*,} ;;
	*.c | *.S) source=$word ;;
	esac
	before=$word
done
if [ -z "$compile" ] || [ -z "$name" ] || [ -z "$KPATCHLAB_FAILURES" ]; then
	# shellcheck disable=SC2086
	exec $compiler "$@"
fi

# The kernel's own CFLAGS_GCOV (Makefile); objects lie in a folder of the tree, so sources begin with ../
if [ -n "$KPATCHLAB_COVER" ] && grep -qxF -e "${source#../}" "$KPATCHLAB_COVER"; then
	set -- "$@" -fprofile-arcs -ftest-coverage -fno-tree-loop-im
fi

exec 3>&1
# shellcheck disable=SC2086
output=$($compiler "$@" 2>&1 >&3 3>&-)
status=$?
if [ "$status" -eq 0 ]; then
	[ -z "$output" ] || printf '%s\n' "$output" >&2
	exit 0
fi

# What the host did to the compiler is not the source's fault: a full disk, a process that the kernel killed for lack
# of memory. The host is asked, since an #error can have any words; they only say where to look.
full() {
	# available blocks and their size
	room=$(stat -f -c '%a %S' "$1" 2>/dev/null) && [ $((${room% *} * ${room#* })) -lt 268435456 ]
}
case $output in
*'No space left on device'* | *'quota exceeded'*)
	if full . || full /tmp; then
		printf '%s\n' "$output" >&2
		exit "$status"
	fi
	;;
*'Cannot allocate memory'* | *'memory exhausted'* | *'ignal terminated program'*)
	killed=$(sed -n 's/^oom_kill //p' /proc/vmstat)
	if [ "${killed:-0}" -gt "${KPATCHLAB_OOM_KILLS:-${killed:-0}}" ]; then
		printf '%s\n' "$output" >&2
		exit "$status"
	fi
	;;
esac
[ "$status" -lt 128 ] || exit "$status"

kind=builtin
[ -z "$module" ] || kind=module
record=$KPATCHLAB_FAILURES/$(printf '%s' "$object" | tr / %)
printf '%s\n' "$object" "$source" "$name" "$kind" "$output" >"$record" || exit "$status"
if [ "$kind" = builtin ]; then
	printf '%s\n' "$output" >&2
	exit "$status"
fi

# Code generation and debug flags stay, so that linker, objtool and pahole take the stub for one of theirs.
for word do
	shift
	case $word in
	-fplugin* | -fprofile* | -fsanitize*) ;;
	-m* | -f* | -g* | --target=*) set -- "$@" "$word" ;;
	esac
done
# shellcheck disable=SC2086
echo 'static const char license[] __attribute__((used, section(".modinfo"), aligned(1))) = "license=GPL";' |
	$compiler "$@" -x c -c -o "$object" - || exit "$status"
[ -z "$depfile" ] || printf '%s: %s\n' "$object" "$source" >"$depfile"
echo "  STUB    $object"
exit 0
