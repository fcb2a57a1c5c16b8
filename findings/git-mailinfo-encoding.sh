#!/bin/sh
# git 2.39.5: `git mailinfo --encoding=UTF-8` decodes nothing, where `-u` does.
#
# Its manual calls --encoding similar to -u, with the charset that is named instead of i18n.commitEncoding or UTF-8. With
# it, author, subject and message stay in the mail's own charset.
. "$(dirname "$0")/common.sh"

export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
cat >mail <<'END'
From: =?iso-8859-1?q?J=F6rg?= <joerg@example.com>
Subject: one
MIME-Version: 1.0
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: quoted-printable

gr=F6=DFer
END
for option in -u --encoding=UTF-8; do
    git mailinfo "$option" message patch <mail >info
    echo "$option"
    { grep -a Author info && cat message; } | od -An -c | tr -s ' '
done >output

expect output <<'END'
-u
 A u t h o r : J 303 266 r g \n g r
 303 266 303 237 e r \n
--encoding=UTF-8
 A u t h o r : J 366 r g \n g r 366
 337 e r \n
END
