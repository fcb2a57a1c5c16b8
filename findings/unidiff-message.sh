#!/bin/sh
# unidiff 0.7.5: a commit message that quotes a diff's header changes a file, though git says it does not.
#
# Two lines `--- a/NAME` and `+++ b/NAME` in the message of a patch from `git format-patch` are a file of the patch, without
# hunks. `git apply` asks for a hunk behind them before it takes them for one. A single `+++ b/NAME` there, as one that
# quotes a diff line by line has it, makes unidiff refuse the whole patch.
. "$(dirname "$0")/common.sh"
install_python unidiff==0.7.5

git init --quiet repository
cd repository
git config user.name A && git config user.email a@example.com
echo one >a.c && git add a.c && git commit --quiet --message base
echo two >a.c
git commit --quiet --all --message 'Change it

The mail before had
--- a/never.c
+++ b/never.c
and nothing behind it.'
git format-patch --quiet --stdout -1 >../patch
cd ..
cat >read.py <<'END'
from unidiff import PatchSet

print("unidiff:", *(file.path for file in PatchSet.from_filename("patch")))
END
{ "$PYTHON" read.py && echo "git: $(git apply --numstat patch | cut -f3)"; } >output

expect output <<'END'
unidiff: never.c a.c
git: a.c
END
