# Sourced by the findings: an empty folder that goes away again, a Python of its own, and a comparison.
# shellcheck shell=sh
set -eu
FOLDER=$(mktemp -d)
trap 'rm -rf "$FOLDER"' EXIT
NAME=$(basename "$0" .sh)
cd "$FOLDER"

install_python() { # packages, each with ==VERSION; sets PYTHON
    python3 -m venv python
    PYTHON="$FOLDER/python/bin/python"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "$@" 2>log || { cat log >&2 && exit 2; }
}

expect() { # a file, and on standard input what is in it as long as the finding holds
    if diff - "$1"; then
        echo "$NAME: still so"
    else
        echo "$NAME: it behaves otherwise now; see the differences above" >&2
        exit 1
    fi
}
