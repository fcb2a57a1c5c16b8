import re

from kpatchlab.textclean import iter_lines, one_line, printable, shown


def test_printable():
    assert printable(b"a\x1b[1;31mred\x1b[0m\r\nb\x00\x07\xff\tc\x1b]0;title\x07d") == "ared\nb\ufffd\tcd"
    assert printable("x\u202egnp.exe\ud800\ufffe") == "xgnp.exe"
    assert printable(b"10%\r20%\r\n") == "10%\n20%\n"


def test_printable_is_valid_xml():
    allowed = re.compile("[\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")
    assert allowed.fullmatch(printable("".join(map(chr, range(0x3000))) + "\ufffe\uffff\U0001f600"))
    assert allowed.fullmatch(printable(bytes(range(256)) * 3))


def test_one_line():
    assert one_line(b" a \n\n b\t c ") == "a b c"
    assert one_line("x" * 400, 10) == "x" * 9 + "…"


def test_shown():
    assert shown(b"\x7fELF\x02\x01\x01" + bytes(100)) == "[107 bytes, binary]"
    assert shown("naïve\n".encode()) == "naïve\n"
    assert shown(b"a" * 50 + b"b" * 50, 20) == "a" * 10 + "\n[... 80 bytes cut ...]\n" + "b" * 10


def test_iter_lines():
    assert list(iter_lines(b"ab\n\nc", 9)) == [b"ab", b"", b"c"]
    assert list(iter_lines(b"abcdef\ng\n", 3)) == [b"abc", b"g"]
