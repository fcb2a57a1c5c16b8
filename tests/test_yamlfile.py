"""YAML files: what a user's mistakes look like, and that scalars are never guessed at."""

# ruff: noqa: E501 - one mistake and its message are one row
from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from kpatchlab.errors import UserError
from kpatchlab.lab.yamlfile import MAX_NODES, FileModel, Problems, load, suggest


class Disk(FileModel):
    type: Literal["disk"]
    size_mib: int = Field(default=1, ge=1)


class Net(FileModel):
    type: Literal["net"]
    mac: str


class Top(FileModel):
    title: str = ""
    count: int = 0
    ratio: float = 0.0
    flag: bool = False
    kind: Literal["auto", "kvm", "tcg"] = "auto"
    words: tuple[str, ...] = ()
    table: dict[str, tuple[str, ...]] = Field(default={})
    devices: dict[str, Annotated[Disk | Net, Field(discriminator="type")]] = Field(default={})
    several: tuple[Annotated[Disk | Net, Field(discriminator="type")], ...] = ()


def errors(tmp_path: Path, text: str | bytes) -> list[str]:
    path = tmp_path / "f.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    problems = Problems(tmp_path)
    load(path, Top, problems)
    return list(problems.lines())


def value(tmp_path: Path, text: str) -> Top:
    path = tmp_path / "f.yaml"
    path.write_text(text)
    model = load(path, Top)
    assert model
    return model


def test_scalars_stay_what_the_file_says_where_text_is_wanted(tmp_path: Path) -> None:
    plain = "[4.2, 3.10, 010, on, yes, No, 1_000, 1e3, 0x10, 2023-03-16, 12:30:45, =]"
    assert value(tmp_path, f"words: {plain}").words == tuple(plain[1:-1].split(", "))


def test_keys_stay_text(tmp_path: Path) -> None:
    assert value(tmp_path, "table: {on: [a], 3.10: [b], true: [c]}").table == {
        "on": ("a",),
        "3.10": ("b",),
        "true": ("c",),
    }


@pytest.mark.parametrize(
    ("text", "wanted"), [("yes", True), ("on", True), ("true", True), ("no", False), ("off", False)]
)
def test_booleans_in_all_their_spellings(tmp_path: Path, text: str, wanted: bool) -> None:
    assert value(tmp_path, f"flag: {text}").flag is wanted


def test_numbers(tmp_path: Path) -> None:
    got = value(tmp_path, "{count: 12, ratio: 1.5}")
    assert (got.count, got.ratio) == (12, 1.5)


def test_anchors_aliases_and_merges(tmp_path: Path) -> None:
    text = "devices:\n  a: &a {type: disk, size_mib: 3}\n  b: *a\n  c: {<<: *a, size_mib: 4}\n  d: {<<: [*a], type: disk}\n"
    sizes = [device.size_mib for device in value(tmp_path, text).devices.values() if isinstance(device, Disk)]
    assert sizes == [3, 3, 4, 3]


def test_utf8_with_mark_and_crlf(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_bytes(b"\xef\xbb\xbftitle: \xc3\xa4\r\ncount: 3\r\n")
    got = load(tmp_path / "f.yaml", Top)
    assert got
    assert (got.title, got.count) == ("ä", 3)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "f.yaml: the file is empty"),
        ("# only a comment\n", "f.yaml: the file is empty"),
        ("~", "f.yaml: the file is empty"),
        ("- a\n", "f.yaml:1: must hold a mapping ('key: value' lines)"),
        ("just words", "f.yaml:1: must hold a mapping ('key: value' lines)"),
        ("title: a\n---\ntitle: b\n", "f.yaml:2: not valid YAML: but found another document expected a single document in the stream"),
        ("table:\n\ta: [b]\n", "f.yaml:2: a tab in the indentation; YAML takes spaces only"),
        (b"title: a\ncount: \xff\n", "f.yaml:2: byte 0xff is not UTF-8 text"),
        (b"title: a\n\x00", "f.yaml:2: the character U+0000 is not allowed in YAML"),
        ("title: a\ntitle: b\n", "f.yaml:2: the key 'title' is there twice (first on line 1)"),
        ("? [a]\n: b\n", "f.yaml:1: a key must be text, not a list or a mapping"),
        ("title: !!python/name:os.system x\n", "f.yaml:1: the tag !!python/name:os.system is not supported"),
        ("title: !own x\n", "f.yaml:1: the tag !own is not supported"),
        ("words: &a [*a]\n", "f.yaml:1: an alias stands for something that contains it"),
        ("table: {<<: 3}\n", "f.yaml:1: '<<' takes a mapping, or a list of mappings"),
        ("titel: a\n", "f.yaml:1: titel: there is no such key; did you mean 'title'?"),
        ("count: many\n", "f.yaml:1: count: 'many' is not a whole number"),
        ("count: 1.5\n", "f.yaml:1: count: '1.5' is not a whole number"),
        ("count:\n", "f.yaml:1: count: must be a whole number, not nothing"),
        ("ratio: x\n", "f.yaml:1: ratio: 'x' is not a number"),
        ("flag: maybe\n", "f.yaml:1: flag: 'maybe' is neither true nor false"),
        ("title: [a]\n", "f.yaml:1: title: must be text, not a list"),
        ("words: a\n", "f.yaml:1: words: must be a list, not text"),
        ("words:\n  - a\n  -\n", "f.yaml:3: words[1]: must be text, not nothing"),
        ("table: a\n", "f.yaml:1: table: must be a mapping ('key: value' lines), not text"),
        ("kind: kvn\n", "f.yaml:1: kind: 'kvn' is not one of auto, kvm, tcg; did you mean 'kvm'?"),
        ("several:\n  - type: usb\n", "f.yaml:2: several[0].type: 'usb' is not a several type; there are disk, net"),
        ("several:\n  - size_mib: 3\n", "f.yaml:2: several[0].type: is missing"),
        ("several:\n  - disk\n", "f.yaml:2: several[0]: must be a mapping ('key: value' lines), not text"),
        ("several:\n  - type: net\n", "f.yaml:2: several[0].mac: is missing"),
        ("several:\n  - type: disk\n    size: 3\n", "f.yaml:3: several[0].size: there is no such key; did you mean 'size_mib'?"),
        ("several:\n  - type: disk\n    size_mib: 0\n", "f.yaml:3: several[0].size_mib: '0' is less than 1"),
        ("several:\n  - type: disk\n    zzz: 0\n", "f.yaml:3: several[0].zzz: there is no such key; there are type, size_mib"),
    ],
)  # fmt: skip
def test_one_mistake_is_one_short_line(tmp_path: Path, text: str | bytes, wanted: str) -> None:
    assert errors(tmp_path, text) == [wanted]


def test_every_mistake_is_told_with_its_line(tmp_path: Path) -> None:
    text = "titel: x\ncount: many\ncount: 3\nsevral: []\ndevices:\n  a: {type: disk, size_mib: 0}\n  b: {type: net}\n"
    assert [line.split(": ")[0] for line in errors(tmp_path, text)] == [f"f.yaml:{n}" for n in (1, 2, 3, 4, 6, 7)]


def test_syntax_errors_have_their_line(tmp_path: Path) -> None:
    (line,) = errors(tmp_path, "title: a\nwords: [a, b\ncount: 3\n")
    assert line.startswith("f.yaml:3: not valid YAML: ")


def test_a_nest_of_aliases_is_refused_quickly(tmp_path: Path) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    begin = time.monotonic()
    assert any(f"more than {MAX_NODES} values" in line for line in errors(tmp_path, "\n".join(levels)))
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("levels", [100, 4000, 200_000])
def test_deep_nesting_is_an_error_and_no_crash(tmp_path: Path, levels: int) -> None:
    (line,) = errors(tmp_path, "words: " + "[" * levels + "]" * levels)
    assert "nested too deeply" in line


@pytest.mark.parametrize("what", ["missing", "folder"])
def test_files_that_cannot_be_read(tmp_path: Path, what: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError) as caught:
        load(tmp_path / what, Top)
    assert caught.value.message == "1 error in 1 file"
    assert caught.value.details == (
        {"missing": "missing: no such file", "folder": "folder: cannot be read: a directory, not a regular file"}[what],
    )


def test_suggest() -> None:
    assert suggest("debian-surce", ["debian-source", "git"]) == "; did you mean 'debian-source'?"
    assert suggest("zebra", ["debian-source", "git"]) == ""
    assert suggest("UNIX-splice", ["unix-splice"]) == "; did you mean 'unix-splice'?"
