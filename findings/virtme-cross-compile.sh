#!/bin/sh
# virtme-ng 1.42, `virtme-configkernel --arch arm64`: the kernel is configured with the host's own compiler.
#
# A kernel tree's CROSS_COMPILE is a prefix, as in aarch64-linux-gnu-, which its Makefile puts before gcc. The program
# looks for aarch64-linux-gnu--gcc, with two dashes, and so sets nothing, though a cross compiler is there; the same with
# --cross-compile aarch64-linux-gnu-, the form that the kernel's documentation has. Without the last dash it sets the
# compiler's whole name in place of the prefix. Kconfig asks the compiler what it can do: the configuration is then one
# for another compiler than the one that builds. CROSS_COMPILE=... behind the options is handed on as it is, and works.
. "$(dirname "$0")/common.sh"
install_python virtme-ng==1.42

mkdir bin tree tree/kernel
printf '#!/bin/sh\nexec cc "$@"\n' >bin/aarch64-linux-gnu-gcc
chmod +x bin/aarch64-linux-gnu-gcc
PATH=$PWD/bin:$PATH
# As much of a kernel's tree as the program looks at: a target tells what it is given.
printf '%%:\n\t@echo "CROSS_COMPILE=$(CROSS_COMPILE)"; : >.config\n' >tree/Makefile
cd tree
for words in "" "--cross-compile aarch64-linux-gnu-" "--cross-compile aarch64-linux-gnu" "CROSS_COMPILE=aarch64-linux-gnu-"; do
    # shellcheck disable=SC2086 # several words
    said=$("$FOLDER/python/bin/virtme-configkernel" --arch arm64 --allnoconfig $words 2>../log | grep -m 1 CROSS_COMPILE=)
    echo "${words:-nothing}: $said"
done >../output
cd ..

expect output <<'END'
nothing: CROSS_COMPILE=
--cross-compile aarch64-linux-gnu-: CROSS_COMPILE=
--cross-compile aarch64-linux-gnu: CROSS_COMPILE=aarch64-linux-gnu-gcc
CROSS_COMPILE=aarch64-linux-gnu-: CROSS_COMPILE=aarch64-linux-gnu-
END
