#!/bin/sh
# tap.py 3.2.1: a failed test whose remark begins with "skip" is a skip, and a failure in a subtest is nowhere.
#
# The figures that kselftest's programs print behind a name (`# skipped_frames=2`) are no directive. tap.py compares only
# how the word begins, so `not ok` becomes a skip. Subtests (TAP 14, KTAP) are lines that it does not know: of a suite
# whose parent says `ok` although a test in it failed, only the parent is left. And the name of a test that kselftest.h
# skips (`ok 3 # SKIP name`) is lost.
. "$(dirname "$0")/common.sh"
install_python tap.py==3.2.1 more-itertools==10.8.0 PyYAML==6.0.3

cat >report.tap <<'END'
TAP version 14
1..3
not ok 1 io # skipped_frames=2
    # Subtest: suite
    1..1
    not ok 1 - verifier
ok 2 suite
ok 3 # SKIP name
END
cat >read.py <<'END'
import tap.parser

for line in tap.parser.Parser().parse_file("report.tap"):
    if line.category == "test":
        print(line.number, repr(line.description), "skip" if line.skip else "ok" if line.ok else "not ok")
    else:
        print(line.category)
END
"$PYTHON" read.py >output

expect output <<'END'
version
plan
1 'io' skip
unknown
unknown
unknown
2 'suite' ok
3 '' skip
END
