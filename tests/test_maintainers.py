"""MAINTAINERS: whose a file is, by the rules that the file's own head gives."""

import pytest

from kpatchlab.maintainers import concerned, parse, written

TEXT = b"""\
List of maintainers
===================

	M: *Mail* patches to: FullName <address@domain>
	F: *Files* and directories wildcard patterns.

Maintainers List
----------------

AF_UNIX
M:	Kuniyuki Iwashima <kuniyu@example.org> (remark, with a comma)
S:	Maintained
F:	net/unix/
X:	net/unix/odd.c

NETWORKING [GENERAL]
M:	"David S. Miller" <davem@example.org>
R:	Simon Horman <horms@example.org>
L:	netdev@example.org (moderated for non-subscribers)
F:	net/
F:	include/linux/net*
X:	net/bluetooth/

ONE LEVEL
M:	A <a@example.org>
F:	drivers/net/*
F:	drivers/nvme/target
N:	[^a-z]siw(?!x)
N:	(unbalanced

THE REST
M:	Linus Torvalds <torvalds@example.org>
L:	linux-kernel@example.org
F:	*
F:	*/
"""
SECTIONS = parse(TEXT)


def titles(*paths):
    return [section.title for section in concerned(SECTIONS, paths)]


def test_sections():
    assert [section.title for section in SECTIONS] == ["AF_UNIX", "NETWORKING [GENERAL]", "ONE LEVEL", "THE REST"]
    assert SECTIONS[0].maintainers == ("Kuniyuki Iwashima <kuniyu@example.org>",)
    assert SECTIONS[1].lists == ("netdev@example.org",)
    assert SECTIONS[1].reviewers == ("Simon Horman <horms@example.org>",)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("net/unix/af_unix.c", ["AF_UNIX", "NETWORKING [GENERAL]"]),
        ("net/unix", ["AF_UNIX", "NETWORKING [GENERAL]"]),
        ("net/unix/odd.c", ["NETWORKING [GENERAL]"]),
        ("net", ["AF_UNIX", "NETWORKING [GENERAL]"]),
        ("net/bluetooth/l2cap.c", []),
        ("include/linux/netdevice.h", ["NETWORKING [GENERAL]"]),
        ("include/linux/net/deep.h", []),
        ("drivers/net/tun.c", ["ONE LEVEL"]),
        ("drivers/net/ethernet/intel.c", []),
        ("drivers/nvme/target/tcp.c", ["ONE LEVEL"]),
        ("drivers/nvme/target-not.c", []),
        ("drivers/infiniband/sw/siw/siw_qp.c", ["ONE LEVEL"]),
        ("fs/read_write.c", []),
    ],
)
def test_whose_a_file_is(path, wanted):
    assert titles(path) == wanted


def test_parts_of_the_file_read_back():
    parts = concerned(SECTIONS, ["net/unix/af_unix.c"])
    assert parse(written(parts)) == parts


@pytest.mark.parametrize("data", [b"", b"\xff\x00nothing", b"A title\n\nF: x\n", b"F:\n"])
def test_what_is_no_such_file_has_no_sections(data):
    assert parse(data) == ()
