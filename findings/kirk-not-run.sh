#!/bin/sh
# kirk 4.2.0, LTP's runner: it ends with 0 although tests failed, and calls a test that never ran not applicable.
#
# When the time of a suite (--suite-timeout) is up, the test that was cut off and all that never started get the status
# "conf" and the exit status 32 in the JSON report: what a test says that this kernel has no support for it. Their log is
# empty and they took no time, which is all that tells them from such a test.
. "$(dirname "$0")/common.sh"
install_python kirk==4.2.0

mkdir -p ltp/runtest ltp/testcases/bin
printf 'fails t 1\ncut_off sleep 60\nnever_ran t 0\n' >ltp/runtest/demo
printf '#!/bin/sh\nexit "$1"\n' >ltp/testcases/bin/t
chmod +x ltp/testcases/bin/t
export LTPROOT="$PWD/ltp" PATH="$PWD/ltp/testcases/bin:$PATH"
"$PYTHON" -c 'from libkirk.main import run; run()' --run-suite demo --suite-timeout 3 --json-report report.json \
    --tmp-dir . >log 2>&1 && status=0 || status=$?
cat >read.py <<'END'
import json

for result in json.load(open("report.json"))["results"]:
    print(result["test_fqn"], result["status"], result["test"]["retval"], repr(result["test"]["log"]))
END
{ echo "exit status $status" && "$PYTHON" read.py; } >output

expect output <<'END'
exit status 0
fails fail ['1'] ''
cut_off conf ['32'] ''
never_ran conf ['32'] ''
END
