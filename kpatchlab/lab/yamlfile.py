"""YAML files of the user, with line numbers: read, checked against pydantic models, every error at once.

Scalars are not guessed at. Every plain scalar is handed to the model as the text that stands in the file and
the model's field says what it is: `4.2`, `3.10`, `010` and `on` stay what they are where a field wants text,
and `120` or `yes` become a number or a boolean where it wants that. (YAML 1.1, which PyYAML follows, would
make 4.2, 3.1, 8 and True of them.) Only an empty value, `~` and `null` are told apart: no value at all.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, model_validator

from kpatchlab.errors import UserError
from kpatchlab.files import read_input
from kpatchlab.textclean import counted

try:
    from yaml import CSafeLoader as _Loader
except ImportError:  # PyYAML built without libyaml: some ten times slower, otherwise the same
    from yaml import SafeLoader as _Loader

MAX_BYTES = 512 << 10
"""Of one file; the largest that come with the lab have some KiB."""

MAX_NODES = 50_000
"""Values in one file, aliases spelled out: a bound on what a nest of aliases can expand to."""

MAX_ITEMS = 2000
"""Of one list or mapping."""

MAX_PROBLEMS = 100
"""Errors of one file that are told; how many more there are is the last line."""

MESSAGE_CHARS = 1000

_SHOWN = 200
"""Characters of a value or a key that a message quotes."""

MAX_DEPTH = 50
"""Lists and mappings inside one another."""

_SAFE_LENGTH = 10_000
"""Characters that cannot nest deeply enough to overflow libyaml's stack, which ends the process: 20,000 levels
are well, 100,000 are not (PyYAML 6.0.3)."""

_TAG = "tag:yaml.org,2002:"
_SCALARS = {_TAG + kind for kind in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value")}
_CONTROL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Loc = Sequence[str | int]
"""Where in a file: keys and indices from its top."""

M = TypeVar("M", bound=BaseModel)


def suggest(word: str, names: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" with the name nearest to `word`, or "" where none is near."""
    if len(word) > _SHOWN:
        return ""  # finding what is near takes as long as both have characters, multiplied
    lower = {name.lower(): name for name in itertools.islice(names, MAX_ITEMS)}
    near = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.6)
    return f"; did you mean '{lower[near[0]]}'?" if near else ""


class FileModel(BaseModel):
    """Base of every model of a file: frozen, without unknown keys.

    Validation notes which class took which mapping in the context's "models", so that an unknown key can be
    answered with the nearest key that the class does have.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _note(cls, data: Any, info: ValidationInfo) -> Any:
        if info.context is not None:
            info.context["models"][id(data)] = cls
        return data


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One error in one file; `line` counts from 1 and is 0 where no line is to blame."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" if self.line else f"{self.file}: {self.message}"


@dataclass(slots=True)
class Problems:
    """The errors found so far, in all files; paths are shown relative to `root`."""

    root: Path
    found: set[Problem] = field(default_factory=set)
    _counts: Counter[str] = field(default_factory=Counter)

    def shown(self, path: Path) -> str:
        """Return `path` as messages show it."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def add(self, path: Path, line: int, message: str) -> None:
        """Note one error."""
        problem = Problem(self.shown(path), line, _short(message, MESSAGE_CHARS))
        if problem not in self.found:
            self._counts[problem.file] += 1
            if not self.full(path):
                self.found.add(problem)

    def full(self, path: Path) -> bool:
        """Whether a file has more errors than are told."""
        return self._counts[self.shown(path)] > MAX_PROBLEMS

    def add_more(self, path: Path, count: int) -> None:
        """Note how many more errors a file has, that are not told."""
        self._counts[self.shown(path)] += count

    def lines(self) -> tuple[str, ...]:
        """Return one line per error, by file and line; of a file with very many the first ones, and how many more."""
        more = {file: count - MAX_PROBLEMS for file, count in self._counts.items() if count > MAX_PROBLEMS}
        found = sorted(self.found)
        lines = []
        for number, problem in enumerate(found):
            lines.append(str(problem))
            if problem.file in more and (number + 1 == len(found) or found[number + 1].file != problem.file):
                lines.append(f"{problem.file}: and {more[problem.file]} more")
        return tuple(lines)

    def raise_if_any(self) -> None:
        """Raise what was found.

        Raises:
            UserError: with one line of `details` per error.
        """
        if self.found:
            files, errors = len({problem.file for problem in self.found}), sum(self._counts.values())
            raise UserError(f"{counted(errors, 'error')} in {counted(files, 'file')}", details=self.lines())


@dataclass(slots=True)
class Document:
    """One file as read: its values, all scalars as text, and where each of them stands."""

    path: Path
    node: yaml.Node
    data: Any
    problems: Problems

    def add(self, loc: Loc, message: str) -> None:
        """Note an error about the value at `loc`."""
        if self.problems.full(self.path):
            self.problems.add_more(self.path, 1)
            return
        line, words = self._find(loc)
        where = ""
        for word in words:
            short = f"[{word}]" if isinstance(word, int) else _short(word)
            where += short if isinstance(word, int) or not where else f".{short}"
        self.problems.add(self.path, line, f"{where}: {message}" if where else message)

    def _find(self, loc: Loc) -> tuple[int, list[str | int]]:
        """Return the line of `loc` and its words, without those that pydantic adds for members of unions."""
        node, line, words = self.node, self.node.start_mark.line + 1, list[str | int]()
        for index, word in enumerate(loc):
            if isinstance(node, yaml.SequenceNode) and isinstance(word, int) and word < len(node.value):
                node = node.value[word]
                line = node.start_mark.line + 1
            elif isinstance(node, yaml.MappingNode) and not _is_tag(node, word):
                pairs = [(key, value) for key, value in node.value if key.value == word]
                if pairs:
                    node = pairs[0][1]
                    line = pairs[0][0].start_mark.line + 1
                elif index + 1 < len(loc):
                    continue
            else:
                continue
            words.append(word)
        return line, words

    def parse(self, model: type[M]) -> M | None:
        """Return the file's value as `model`, or None with every error noted."""
        context: dict[str, Any] = {"models": {}}
        try:
            return model.model_validate(self.data, context=context)
        except ValidationError as error:
            found = error.errors(include_url=False)
            for item in found[:MAX_PROBLEMS]:
                loc, message = _explain(dict(item), context["models"], self.data)
                self.add(loc, message)
            self.problems.add_more(self.path, max(0, len(found) - MAX_PROBLEMS))
        return None


def _is_tag(node: yaml.MappingNode, word: str | int) -> bool:
    """Whether `word` is none of the file's, but what pydantic adds to a location.

    That is "[key]" for an error in a key, the value of `type` for a union told apart by it, and the tags of
    our own unions, which all begin with "<".
    """
    if word == "[key]" or (isinstance(word, str) and word.startswith("<")):
        return True
    return any(key.value == "type" and value.value == word for key, value in node.value)


def load(path: Path, model: type[M], problems: Problems | None = None) -> M | None:
    """Read one file as `model`.

    Args:
        problems: takes the errors, and None is returned where there are any.

    Raises:
        UserError: the file has errors and `problems` is None.
    """
    own = problems or Problems(path.parent)
    document = read(path, own)
    value = document.parse(model) if document else None
    if problems is None:
        own.raise_if_any()
    return value


def read(path: Path, problems: Problems) -> Document | None:
    """Read one file without a model; None where it is no YAML mapping, with its errors noted."""
    text = _text(path, problems)
    if text is None:
        return None
    if bad := _CONTROL.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        problems.add(path, line, f"the character U+{ord(bad[0]):04X} is not allowed in YAML")
        return None
    try:
        if len(text) > _SAFE_LENGTH and (line := _too_deep(text)):
            problems.add(path, line, _DEEP)
            return None
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        problems.add(path, *_syntax(error, text))
        return None
    if node is None or node.tag == _TAG + "null":
        problems.add(path, 0, "the file is empty")
        return None
    if not isinstance(node, yaml.MappingNode):
        problems.add(path, node.start_mark.line + 1, "must hold a mapping ('key: value' lines)")
        return None
    builder = _Builder(path, problems)
    data = builder.build(node)
    return Document(path, node, data, problems) if builder.whole else None


def _text(path: Path, problems: Problems) -> str | None:
    try:
        raw = read_input(path, MAX_BYTES)
    except UserError as error:
        why = error.message.removeprefix(f"{path}: ")
        problems.add(path, 0, "no such file" if not path.exists() else f"cannot be read: {why}")
        return None
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problems.add(path, line, f"byte 0x{raw[error.start]:02x} is not UTF-8 text")
        return None


_DEEP = f"lists and mappings nested too deeply, more than {MAX_DEPTH}"
_OWN_LIMIT = "maximum nesting depth"
"""In what libyaml says from 1000 levels on (in PyYAML's wheels from 6.0.4): its scanner looks ahead, so that this error
can come before the events that `_too_deep` counts."""


def _too_deep(text: str) -> int:
    """Return the line where nesting goes too deep, or 0; other than composing, this takes no stack."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            return int(event.start_mark.line) + 1
    return 0


def _syntax(error: yaml.MarkedYAMLError, text: str) -> tuple[int, str]:
    mark = error.problem_mark or error.context_mark
    number = mark.line + 1 if mark else 0
    if _OWN_LIMIT in (error.problem or ""):
        return number, _DEEP
    lines = text.split("\n")
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return number, "a tab in the indentation; YAML takes spaces only"
    context = f" {error.context}" if error.context else ""
    return number, f"not valid YAML: {error.problem}{context}"


class _Builder:
    """Turns nodes into dicts, lists and text; `whole` is False once something had to be left out."""

    def __init__(self, path: Path, problems: Problems) -> None:
        self.path, self.problems = path, problems
        self.whole = True
        self.left = MAX_NODES
        self.open: set[int] = set()

    def bad(self, node: yaml.Node, message: str) -> None:
        self.whole = False
        self.problems.add(self.path, node.start_mark.line + 1, message)

    def build(self, node: yaml.Node) -> Any:
        """Return the value of `node`."""
        self.left -= 1
        if self.left == 0:
            self.bad(node, f"more than {MAX_NODES} values, aliases spelled out")
        if self.left <= 0:
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if len(node.value) > MAX_ITEMS and len({_key(item) for item in node.value}) > MAX_ITEMS:
            self.bad(node, f"more than {MAX_ITEMS} entries")
            return None
        if node.tag not in {_TAG + "map", _TAG + "seq"}:
            self.bad(node, f"the tag {_tag_name(node.tag)} is not supported")
            return None
        if id(node) in self.open:
            self.bad(node, "an alias stands for something that contains it")
            return None
        if len(self.open) >= MAX_DEPTH:
            self.bad(node, _DEEP)
            return None
        self.open.add(id(node))
        if isinstance(node, yaml.MappingNode):
            value: Any = self._mapping(node)
        else:
            value = [self.build(item) for item in node.value]
        self.open.discard(id(node))
        return value

    def _scalar(self, node: yaml.ScalarNode) -> str | None:
        if node.tag not in _SCALARS:
            self.bad(node, f"the tag {_tag_name(node.tag)} is not supported")
        return None if node.tag == _TAG + "null" else str(node.value)

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        lines: dict[str, int] = {}
        again: dict[str, tuple[int, int]] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.bad(key, "a key must be text, not a list or a mapping")
            elif key.tag == _TAG + "merge":
                for source in reversed(value.value if isinstance(value, yaml.SequenceNode) else [value]):
                    if isinstance(source, yaml.MappingNode):
                        merged.update(self.build(source) or {})
                    else:
                        self.bad(source, "'<<' takes a mapping, or a list of mappings")
            elif key.value in lines:
                line, count = again.get(key.value, (key.start_mark.line + 1, 1))
                again[key.value] = (line, count + 1)  # the first one counts, and is checked
            else:
                lines[key.value] = key.start_mark.line + 1
                own[key.value] = self.build(value)
        for word, (line, count) in again.items():
            often = "twice" if count == 2 else f"{count} times"
            self.problems.add(
                self.path, line, f"the key '{_short(word)}' is there {often} (first on line {lines[word]})"
            )
        return merged | own


def _key(item: Any) -> Any:
    """Return what tells an entry of a list or a mapping from another: those of a key that is there twice count once."""
    return item[0].value if isinstance(item, tuple) and isinstance(item[0], yaml.ScalarNode) else id(item)


def _short(text: str, limit: int = _SHOWN) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _tag_name(tag: str) -> str:
    return "!!" + tag.removeprefix(_TAG) if tag.startswith(_TAG) else tag


# What pydantic calls an error -> what a reader of the file is told. {value}, {kind} and pydantic's own context
# can be used.
_MESSAGES = {
    "missing": "is missing",
    "string_type": "must be text, not {kind}",
    "int_type": "must be a whole number, not {kind}",
    "int_parsing": "{value} is not a whole number",
    "int_from_float": "{value} is not a whole number",
    "float_type": "must be a number, not {kind}",
    "float_parsing": "{value} is not a number",
    "finite_number": "{value} is not a finite number",
    "bool_type": "must be true or false, not {kind}",
    "bool_parsing": "{value} is neither true nor false",
    "dict_type": "must be a mapping ('key: value' lines), not {kind}",
    "model_type": "must be a mapping ('key: value' lines), not {kind}",
    "model_attributes_type": "must be a mapping ('key: value' lines), not {kind}",
    "list_type": "must be a list, not {kind}",
    "tuple_type": "must be a list, not {kind}",
    "greater_than_equal": "{value} is less than {ge:g}",
    "greater_than": "{value} is not more than {gt:g}",
    "less_than_equal": "{value} is more than {le:g}",
    "too_short": "must have at least {min_length}, and has {actual_length}",
    "too_long": "must have at most {max_length}, and has {actual_length}",
    "string_too_short": "must not be empty",
    "string_too_long": "is longer than {max_length} characters",
    "string_pattern_mismatch": "{value} is not of the form {pattern}",
}


def _explain(item: dict[str, Any], models: dict[int, type[FileModel]], data: Any) -> tuple[Loc, str]:
    """Return where and what to say of one error as `ValidationError.errors` gives it."""
    loc, kind, value, context = list(item["loc"]), item["type"], item["input"], item.get("ctx", {})
    if kind == "extra_forbidden":
        owner = _owner(data, loc, models)
        names = list(owner.model_fields) if owner else []
        listed = f"; there are {', '.join(names)}" if names else ""
        return loc, f"there is no such key{suggest(str(loc[-1]), names) or listed}"
    if kind == "union_tag_invalid":
        tags = re.findall(r"'([^']*)'", context["expected_tags"])
        noun = next((word for word in reversed(loc) if isinstance(word, str)), "")
        article = "an" if noun[:1] in set("aeiou") else "a"
        more = suggest(context["tag"], tags) or f"; there are {', '.join(tags)}"
        return [*loc, "type"], f"'{_short(context['tag'])}' is not {article} {noun} type{more}"
    if kind == "union_tag_not_found":
        if not isinstance(value, dict):
            return loc, _MESSAGES["model_type"].format(kind=_kind(value))
        return [*loc, "type"], "is missing"
    if kind == "literal_error":
        names = re.findall(r"'([^']*)'", context["expected"])
        more = suggest(str(value), names) if isinstance(value, str) else ""
        return loc, f"{_quoted(value)} is not one of {', '.join(names)}{more}"
    if kind == "value_error":
        return loc, _short(str(context["error"]))
    if kind in _MESSAGES:
        return loc, _MESSAGES[kind].format(**context, value=_quoted(value), kind=_kind(value))
    return loc, str(item["msg"])


def _owner(data: Any, loc: Loc, models: dict[int, type[FileModel]]) -> type[FileModel] | None:
    """Return the class that refused the key at the end of `loc`."""
    for word in loc[:-1]:
        known = word in data and data.get("type") != word if isinstance(data, dict) else isinstance(data, list)
        data = data[word] if known else data
    return models.get(id(data))


def _quoted(value: Any) -> str:
    return f"'{_short(str(value))}'" if isinstance(value, (str, int, float)) else _kind(value)


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", tuple: "a list", str: "text", type(None): "nothing"}
    return names.get(type(value), "a number")
