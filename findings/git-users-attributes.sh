#!/bin/sh
# git 2.39.5: with every file of configuration turned off, a user's attributes still change what a diff says.
#
# GIT_CONFIG_GLOBAL=/dev/null and GIT_CONFIG_NOSYSTEM=1 are what git's manual names for a run without configuration. The
# default of core.attributesFile, $XDG_CONFIG_HOME/git/attributes or ~/.config/git/attributes, is read all the same, and
# `*.c -diff` there makes every patch of C files a binary one. It takes core.attributesFile=/dev/null as well.
. "$(dirname "$0")/common.sh"

export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 XDG_CONFIG_HOME="$FOLDER/config"
mkdir -p config/git && echo '*.c -diff' >config/git/attributes
git init --quiet repository
echo one >repository/a.c && git -C repository add a.c
echo two >repository/a.c
{
    git -C repository diff | tail -n 1
    git -C repository -c core.attributesFile=/dev/null diff | tail -n 1
} >output

expect output <<'END'
Binary files a/a.c and b/a.c differ
+two
END
