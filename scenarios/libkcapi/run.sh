#!/bin/bash
# Runs functions of libkcapi's test.sh, one result for each of its tests; what there was no time for is skipped.
SUITE=/lab/suites/libkcapi
BUDGET_S=$(awk -v scale="${LAB_SCALE:-1}" 'BEGIN { print int(180 * scale) }')

# libtest.sh looks for itself, and for the program, where the running script is.
ln -s "$SUITE/libtest.sh" libtest.sh
if [ -n "${LAB_BREAK:-}" ]; then
    # The first half byte of every text is another one: what comes out must not be what the vectors say.
    cat >kcapi <<'EOF'
#!/bin/bash
words=()
for word; do
    case $before in
    -p | -q) case $word in 0*) word=1${word#0} ;; [1-9a-f]*) word=0${word#?} ;; esac ;;
    esac
    before=$word
    words+=("$word")
done
exec /lab/suites/libkcapi/kcapi "${words[@]}"
EOF
    chmod +x kcapi
else
    ln -s "$SUITE/kcapi" kcapi
fi

# All of test.sh but the tests themselves: vectors and functions.
sed '/^check_memory_soft || exit 1/,$d' "$SUITE/test.sh" >functions.sh
export KCAPI_TEST_LOCAL=0
. ./functions.sh 2>/dev/null
DIRNAME=.

count=0
result=
report() { # "ok" or "not ok", the name, a directive
    count=$((count + 1))
    echo "$1 $count - ${2//#/ } ${3:-}"
}
# Instead of libtest.sh's coloured lines. What a failed test prints after its line belongs to it.
echo_pass() { report ok "$*"; }
# shellcheck disable=SC2154 # `result` is what the function of test.sh got
echo_fail() {
    case $result in # cut to the length of the right result
    Allocati*) report ok "$*" "# SKIP this kernel has no such cipher" ;;
    *) report "not ok" "$*" ;;
    esac
}
echo_deact() { report ok "$*" "# SKIP by libkcapi itself"; }

part() { # one function of test.sh with its arguments
    if [ "$SECONDS" -ge "$BUDGET_S" ]; then
        report ok "$*" "# SKIP time budget"
        return
    fi
    "$@" 2>&1
    echo "$* until ${SECONDS} s" >&2
}

# The memory that one socket may pin, or else streams are left out; a test of its own raises it likewise.
[ "$(cat /proc/sys/net/core/optmem_max)" -ge 20480 ] || echo 20480 >/proc/sys/net/core/optmem_max

echo "KTAP version 1"
SECONDS=0
# All that test.sh has of these kinds, splice first. -s: as a stream of several sendmsg, -v: by vmsplice and splice,
# -m: from an aligned buffer, -g: asynchronous where the cipher is, -u: with the associated data in front. The first
# figure is kcapi's own for the kind: 1 and 9 skcipher, 2 and 10 aead, 3 hash; 9 and 10 are asynchronous.
case $LAB_KIND in
hash)
    part hashfunc
    part hashfunc -s
    for how in -v -s ""; do part multipletest_hash 3 $how; done
    ;;
skcipher)
    for aligned in X -m; do
        for how in -v -s X; do part symfunc 1 $how $aligned; done
    done
    part symfunc 1 -j
    for how in -v -s X; do part multipletest_sym 1 $how; done
    for aligned in X -m; do
        for how in -v -s X; do
            part symfunc 9 $how $aligned
            part symfunc 9 $how $aligned -g
        done
    done
    for how in -v -s X; do part multipletest_sym 9 $how; done
    ;;
aead)
    for aligned in X -m; do
        for how in -v -s X; do part aeadfunc 2 $how $aligned; done
    done
    for how in -v -s X; do part multipletest_aead 2 $how; done
    for aligned in X -m; do
        for how in -v -s X; do
            part aeadfunc 10 $how $aligned
            part aeadfunc 10 $how $aligned -g
            part aeadfunc 2 $how $aligned X -u
        done
    done
    for how in -v -s X; do part multipletest_aead 10 $how; done
    ;;
esac
echo "1..$count"
