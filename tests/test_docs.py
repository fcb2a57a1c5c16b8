"""The documents are held by what they speak of: links lead somewhere, files are there, command lines can be parsed."""

import pkgutil
import re
import shlex
from pathlib import Path

import click
import pytest

from kpatchlab.cli import main
from kpatchlab.cli.app import cli

PROJECT = Path(__file__).parent.parent
DOCS = [
    path.relative_to(PROJECT).as_posix()
    for pattern in ("*.md", "docs/*.md", "bench/*.md", "results/*.md")
    for path in sorted(PROJECT.glob(pattern))
]
FOLDERS = {"bench", "contrib", "docs", "kernels", "kpatchlab", "rootfs", "scenarios", "tests", "tools"}
BLOCK = re.compile(r"^( *)```.*?^\1```$|^ {4,}\S[^\n]*$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:git bisect run +)?(?:\./lab|kpatchlab) (?P<words>.*)")
MAP = "docs/architecture.md"
ROOMS = {path.name for path in (PROJECT / "kpatchlab").iterdir() if path.is_dir()}
PLACEHOLDER = re.compile(r"[A-Z]{2,}")


def read(name):
    return (PROJECT / name).read_text()


def prose(name):
    """The text of a document without its blocks of code."""
    return BLOCK.sub("", read(name))


def anchors(name):
    """The anchors that a forge makes of a document's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(name), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def quoted(name):
    return re.findall(r"`([^`\n]+)`", prose(name))


def commands(name):
    """The words of each command line of the program: in blocks, and in backticks; without what explains it."""
    blocks = [line for block in BLOCK.finditer(read(name)) for line in block[0].splitlines()]
    for text in [*blocks, *quoted(name)]:
        for part in re.split(r" && | [|>] ", text):
            if found := COMMAND.fullmatch(part.strip()):
                yield shlex.split(re.split(r" {3,}", found["words"])[0], comments=True)


@pytest.fixture(scope="module")
def group():
    """The program's group with all verbs in it."""
    with pytest.raises(SystemExit):
        main(["--version"])  # which adds them
    return cli


def parse(group, words):
    """Parse a command line as the program does, and run nothing.

    Raises:
        click.UsageError: a verb, an option or a choice that there is not.
    """
    context = click.Context(group, info_name="kpatchlab")
    _, rest, _ = group.make_parser(context).parse_args(words)
    if not rest:
        return
    _, verb, rest = group.resolve_command(context, rest)
    inner = click.Context(verb, parent=context, info_name=verb.name)
    given, left, _ = verb.make_parser(inner).parse_args(rest)
    assert not left, f"too many arguments: {left}"
    for parameter in verb.params:
        value = given.get(parameter.name)
        if isinstance(parameter.type, click.Choice | click.IntRange) and isinstance(value, str):
            if not PLACEHOLDER.search(value):
                parameter.type.convert(value, parameter, inner)
        elif parameter.required:
            assert value, f"{parameter.name} is missing"


@pytest.mark.parametrize("name", DOCS)
def test_links_lead_somewhere(name):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(name)):
        if re.match(r"https?://|mailto:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (PROJECT / name).parent / file if file else PROJECT / name
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.relative_to(PROJECT)), link


@pytest.mark.parametrize("name", DOCS)
def test_files_that_are_named_are_there(name):
    for words in quoted(name):
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)+", words) and words.split("/")[0] in FOLDERS:
            assert PLACEHOLDER.search(words) or (PROJECT / words).exists(), words


def test_modules_that_are_named_are_there():
    for words in quoted(MAP):
        if re.fullmatch(r"\w+/\w+", words) and words.split("/")[0] in ROOMS:
            assert (PROJECT / "kpatchlab" / f"{words}.py").exists(), words
    for room, text in re.findall(r"^\| `(\w+)/` \| (.*) \|$", read(MAP), re.MULTILINE):
        for word in re.findall(r"`([a-z_]+)`", text):
            place = PROJECT / "kpatchlab" / room / word
            assert place.is_dir() or place.with_suffix(".py").exists(), f"{room}/{word}"


def test_functions_of_the_flow_are_there():
    found = re.findall(r"\b(?:\w+\.)+\w+", "\n".join(block[0] for block in BLOCK.finditer(read(MAP))))
    names = [name for name in found if name.split(".")[0] in ROOMS and not name.endswith(".yaml")]
    assert len(names) > 5
    for name in names:
        assert pkgutil.resolve_name(f"kpatchlab.{name}"), name


@pytest.mark.parametrize("name", DOCS)
def test_command_lines_can_be_parsed(name, group):
    for words in commands(name):
        verb = next((word for word in words if not word.startswith("-")), "")
        if verb == "bench":  # taken by ./lab itself, as test is
            assert PLACEHOLDER.search(words[1]) or (PROJECT / "bench" / f"{words[1]}.py").exists(), words
        elif verb != "test":
            try:
                parse(group, words)
            except click.UsageError as error:
                pytest.fail(f"{shlex.join(words)}: {error.message}")


def test_readme_names_every_verb(group):
    rows = re.findall(r"^\| (`.*?) \|", read("README.md"), re.MULTILINE)
    named = [word for row in rows for word in re.findall(r"`([a-z-]+)[^`]*`", row)]
    assert sorted(named) == sorted(group.list_commands(click.Context(group)))


def test_there_is_something_to_parse():
    assert sum(len(list(commands(name))) for name in DOCS) > 60
