# Printing KTAP from a shell script:  . "$LAB_LIB/ktap.sh"
# shellcheck shell=sh

_ktap_number=0
_ktap_failed=0

# ktap_plan COUNT: must come first.
ktap_plan() {
    printf 'KTAP version 1\n1..%d\n' "$1"
}

# ktap_ok NAME
ktap_ok() {
    _ktap_number=$((_ktap_number + 1))
    printf 'ok %d - %s\n' "$_ktap_number" "$1"
}

# ktap_not_ok NAME [REASON]: the reason goes before the verdict, as a diagnostic line.
ktap_not_ok() {
    _ktap_number=$((_ktap_number + 1))
    _ktap_failed=$((_ktap_failed + 1))
    [ -z "${2:-}" ] || printf '%s\n' "$2" | sed 's/^/# /'
    printf 'not ok %d - %s\n' "$_ktap_number" "$1"
}

# ktap_skip NAME REASON
ktap_skip() {
    _ktap_number=$((_ktap_number + 1))
    printf 'ok %d - %s # SKIP %s\n' "$_ktap_number" "$1" "$2"
}

# ktap_check NAME COMMAND...: ok when the command succeeds; its output explains when it does not.
ktap_check() {
    _ktap_name=$1
    shift
    if _ktap_text=$("$@" 2>&1); then
        ktap_ok "$_ktap_name"
    else
        ktap_not_ok "$_ktap_name" "$* ended with status $?: $_ktap_text"
    fi
}

# ktap_metric NAME VALUE UNIT higher|lower
ktap_metric() {
    printf 'metric %s %s %s %s\n' "$1" "$2" "$3" "$4"
}
