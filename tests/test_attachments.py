"""What a scenario leaves for this host, and what a guest that is not to be trusted makes of it."""

import io
import subprocess
import tarfile
import time

import pytest

from kpatchlab.run import attachments


def tar(*members, form=tarfile.GNU_FORMAT):
    """Return a tar of (name, bytes or type, changes of its header)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, content, *changes in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes) and len(content) != 1:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            else:
                member.type = content
                for key, value in (changes[0] if changes else {}).items():
                    setattr(member, key, value)
                archive.addfile(member)
    return stream.getvalue()


@pytest.fixture
def unpacked(tmp_path):
    """Return a function that unpacks a tar; returns the files that are there, and the lines on those that are not."""

    def unpack(data):
        names, left_out = attachments.unpack(data, tmp_path, "main")
        assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(names)
        return set(names), "\n".join(left_out)

    return unpack


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_files_are_taken_in_every_form_of_tar(unpacked, tmp_path, form):
    long = "/".join(["x" * 60, "y" * 60, "file.txt"])
    there, note = unpacked(tar(("./a.txt", b"hello"), ("./deep/er/b", b""), (long, b"z" * 2000), form=form))
    assert (there, note) == ({"attach-main/a.txt", "attach-main/deep/er/b", f"attach-main/{long}"}, "")
    assert (tmp_path / "attach-main" / long).read_bytes() == b"z" * 2000
    assert (tmp_path / "attach-main/a.txt").read_bytes() == b"hello"


def test_what_the_tar_of_this_host_writes_is_read(unpacked, tmp_path):
    source = tmp_path.parent / "source"
    (source / "d").mkdir(parents=True)
    (source / "d/f").write_bytes(b"1")
    (source / ("n" * 200)).write_bytes(b"22")
    for form in ("gnu", "posix", "ustar"):
        data = subprocess.run(["tar", "-C", source, "-c", f"--format={form}", "."], capture_output=True, check=False)
        assert data.stdout
    there, note = unpacked(subprocess.run(["tar", "-C", source, "-c", "."], capture_output=True, check=True).stdout)
    assert "attach-main/d/f" in there
    assert (len(there), note) == (2, "")


ODD = {
    "climbs": (tar(("../../evil", b"x" * 3), ("good", b"yes")), "leads out"),
    "absolute": (tar(("/etc/passwd", b"x" * 3), ("good", b"yes")), ""),
    "file, then below it": (tar(("a", b"123"), ("a/b", b"456"), ("good", b"yes")), "taken by another file"),
    "below it, then file": (tar(("a/b", b"123"), ("a", b"456"), ("good", b"yes")), "taken by another file"),
    "twice": (tar(("a", b"123"), ("a", b"456"), ("good", b"yes")), "taken by another file"),
    "long": (tar(("n" * 5000, b"123"), ("good", b"yes")), ""),
    "deep": (tar(("d/" * 500 + "x", b"123"), ("good", b"yes")), "deeper than"),
    "NUL": (tar(("a", b"123", {}), ("good", b"yes")).replace(b"a\0\0\0", b"\0a\0\0", 1), ""),
    "links": (tar(("l", tarfile.SYMTYPE, {"linkname": "/etc/passwd"}), ("good", b"yes")), "no regular file"),
    "hard links": (tar(("l", tarfile.LNKTYPE, {"linkname": "good"}), ("good", b"yes")), "no regular file"),
    "devices": (tar(("d", tarfile.CHRTYPE), ("f", tarfile.FIFOTYPE), ("good", b"yes")), "no regular file"),
    "controls": (tar(("\x1b]0;owned\x07\n<b>", b"123"), ("good", b"yes")), ""),
    "sparse": (tar(("good", b"yes"), ("s", tarfile.GNUTYPE_SPARSE)), "a sparse file"),
    "garbage": (tar(("good", b"yes"))[:1024] + b"\xff" * 4096, "no number"),
    "cut": (tar(("good", b"yes"), ("more", b"x" * 4000))[:3000], "cut off"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_cannot_be_taken_is_named_and_costs_nothing_else(unpacked, tmp_path, case):
    data, why = ODD[case]
    there, note = unpacked(data)
    assert why in note
    assert (tmp_path / "attach-main/good").read_bytes() == b"yes"
    assert all(name.isprintable() and name.isascii() for name in there)
    assert not list(tmp_path.parent.glob("evil"))


def test_a_pax_header_cannot_lie_its_way_out(unpacked):
    member = tarfile.TarInfo("a")
    member.pax_headers = {"path": "x\0y"}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member)
        member = tarfile.TarInfo("b")
        member.pax_headers = {"size": "9" * 19}
        archive.addfile(member)
    there, note = unpacked(stream.getvalue())
    assert there == set()
    assert "a NUL in its name" in note
    assert "longer than it can be" in note


def test_bytes_and_number_are_bounded(unpacked, tmp_path, monkeypatch):
    monkeypatch.setattr(attachments, "BYTES", 10_000)
    monkeypatch.setattr(attachments, "FILES", 5)
    there, note = unpacked(tar(*((f"f{n}", bytes(3000)) for n in range(20))))
    assert len(there) == 3
    assert "MiB in all" in note
    many, left_out = attachments.unpack(tar(*((f"g{n}", b"") for n in range(100))), tmp_path / "other", "main")
    assert len(many) == 5
    assert "more than 5 files" in left_out[0]
    assert len(left_out) == attachments.NOTES + 1


@pytest.mark.parametrize("kind", ["files", "headers", "digits"])
def test_a_large_tar_takes_seconds_whatever_is_in_it(tmp_path, kind):
    block = {
        "files": tar(("f", b""))[:512],
        "headers": tar(("f", tarfile.XGLTYPE))[:512],
        "digits": tar(("f", b"9" * 511)),
    }[kind]
    block = block[: len(block) // 512 * 512].rstrip(b"\0").ljust(1024 if kind == "digits" else 512, b"\0")
    began = time.process_time()
    attachments.unpack(block * ((16 << 20) // len(block)), tmp_path, "main")
    assert time.process_time() - began < 10
    assert len(list(tmp_path.rglob("*"))) < 1100
