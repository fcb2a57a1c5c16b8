#!/bin/sh
# bubblewrap 0.8.0 (Debian 12). Its manual says of --die-with-parent: "Ensures child process (COMMAND) dies when bwrap's
# parent dies." It dies when the thread ends that started bwrap, while its process lives on. One would expect it to live:
# a parent is a process. (prctl(2) has it under PR_SET_PDEATHSIG: "the parent" is the thread that created the child.)
# A program that starts commands from short-lived threads, as pools do, loses them. Needs user namespaces.
. "$(dirname "$0")/common.sh"

apt-get download -qq bubblewrap=0.8.0-2+deb12u1 >log 2>&1 || { cat log >&2 && exit 2; }
dpkg-deb --extract bubblewrap_*.deb package

cat >start.py <<'PY'
import subprocess, sys, threading, time

def started(*options):
    found = []
    words = ["package/usr/bin/bwrap", "--ro-bind", "/", "/", *options, "sleep", "60"]

    def start():
        found.append(subprocess.Popen(words))
        time.sleep(2)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    time.sleep(2)
    ended = found[0].poll()
    found[0].kill()
    return "lives" if ended is None else f"ended with {ended}"

print("version", subprocess.run(["package/usr/bin/bwrap", "--version"], capture_output=True, text=True).stdout.strip())
print("the thread that started it has ended, the process has not:", started())
print("the same with --die-with-parent:", started("--die-with-parent"))
PY
python3 start.py >said

expect said <<'SAID'
version bubblewrap 0.8.0
the thread that started it has ended, the process has not: lives
the same with --die-with-parent: ended with -9
SAID
