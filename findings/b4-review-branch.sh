#!/bin/sh
# b4 0.16.0, `b4 review`: the last n commits of the branch that it makes for a series of n patches are not these patches.
#
# On top of them is an empty commit that keeps its notes, as JSON in the message. Check commands (b4.review-*-check-cmd)
# get a mail and start at the top of the tree; that the series is FIRST~1..BRANCH~1, with `first-patch-commit` of the
# notes, is all that tells its commits. One would expect a series that "is applied" to end with its last patch.
. "$(dirname "$0")/common.sh"
install_python b4==0.16.0

export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 HOME="$FOLDER"
export GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@example.com GIT_COMMITTER_NAME=A GIT_COMMITTER_EMAIL=a@example.com
git init -q -b main tree
cd tree
for word in base one two; do
    echo "$word" >>file
    git add file
    git commit -q -m "$word"
done
git tag tip
git format-patch -q --stdout --cover-letter --thread --subject-prefix='PATCH v2' HEAD~2 |
    sed 's/\*\*\* SUBJECT HERE \*\*\*/both/' >../series.mbox
git reset -q --hard HEAD~2
git fetch -q . tip # where b4 leaves the commits that it made of the mails
cat >../take.py <<'END'
import email
import mailbox

import b4
import b4.review

series = b4.LoreMailbox()
for message in mailbox.mbox("../series.mbox"):
    series.add_message(email.message_from_bytes(bytes(message), policy=b4.emlpolicy))
both, link = series.get_series(2, codereview_trailers=False), "https://lore.example.org/%s"
b4.review.create_review_branch(".", "b4/review/both", "main", both, link % "x", link)
_, notes = b4.review.load_tracking(".", "b4/review/both")
first = notes["series"]["first-patch-commit"]
_, out = b4.git_run_command(".", ["log", "--format=%s", f"{first}~1..b4/review/both~1"])
print("by the notes:", *out.split())
_, out = b4.git_run_command(".", ["log", "-2", "--format=%s", "b4/review/both"])
_, changed = b4.git_run_command(".", ["diff", "--stat", "b4/review/both~1", "b4/review/both"])
print("the last two:", *out.split())
print("the last one changes:", changed or "nothing")
END
"$PYTHON" ../take.py >../output 2>../log || { cat ../log >&2 && exit 2; }
cd ..

expect output <<'END'
by the notes: two one
the last two: both two
the last one changes: nothing
END
