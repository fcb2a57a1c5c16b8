#!/bin/sh
# junitparser 5.0.3: to read a suite's `time` rewrites its counts, and a test that did not run counts as passed.
#
# A report whose suite says `tests="9" failures="2"` and has no `time` (which is optional) gives 9 and 2 until somebody
# reads `suite.time`. From then on it gives what the elements below add up to. So a report of which a part is missing
# looks whole. And what googletest writes for a disabled test (status="notrun") is `is_passed`, not `is_skipped`.
# One would expect that reading changes nothing, and that a test which did not run did not pass.
. "$(dirname "$0")/common.sh"
install_python junitparser==5.0.3

cat >report.xml <<'END'
<testsuites><testsuite name="net" tests="9" failures="2">
<testcase name="send" classname="tls"/>
<testcase name="DISABLED_rekey" classname="tls" status="notrun" result="suppressed"/>
</testsuite></testsuites>
END
cat >read.py <<'END'
import junitparser

(suite,) = junitparser.JUnitXml.fromfile("report.xml")
print("before:", suite.tests, "tests,", suite.failures, "failures")
suite.time
print("after:", suite.tests, "tests,", suite.failures, "failures")
for case in suite:
    print(case.name, "passed" if case.is_passed else "skipped" if case.is_skipped else "failed")
END
"$PYTHON" read.py >output

expect output <<'END'
before: 9 tests, 2 failures
after: 2 tests, 0 failures
send passed
DISABLED_rekey passed
END
