"""Reads as much of Kconfig as it takes to say why a symbol did not come out as asked.

Not a Kconfig engine: no defaults, ranges or `select` resolution. It collects, for each symbol, where it is defined,
with which prompt, and what it depends on (its own `depends on` and every `if` and `menu` around it), and holds
those expressions against a finished .config. What it cannot judge, a `$(...)` macro for instance, counts as met.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kpatchlab.files import read_within

_TOKEN = re.compile(r"\s*(&&|\|\||!=|<=|>=|[()=<>!]|\"[^\"]*\"|'[^']*'|[A-Za-z0-9_$.-]+)")
_LEVEL = {"n": 0, "m": 1, "y": 2}
MOST_DEEP = 40
"""How deep files are in one another, and blocks in a file; those of a kernel are 6. What is deeper is not looked at."""
FILE_BYTES = 4 << 20
OPENS = frozenset({"EXPERT", "COMPILE_TEST"})
"""Symbols that show others, which an allnoconfig then switches off though they are on by default: printk, futexes."""
NO_SUCH = "no such symbol in this tree"
"""The reason of a miss that no setting of other symbols mends."""
_PROMPTED = re.compile(r'(?:bool|tristate|string|int|hex|prompt)\s+["\'].*?["\'](?:\s+if\s+(.*))?$')


@dataclass(slots=True)
class Definition:
    """One `config SYMBOL` block; `depends` are ANDed, `selects` are (symbol, condition)."""

    place: str
    depends: list[str]
    prompt: bool = False
    tristate: bool = False
    prompt_if: str = ""
    choice: bool = False
    selects: list[tuple[str, str]] = field(default_factory=list)


class Kconfig:
    """The symbols of one tree.

    Args:
        tree: top of the kernel tree.
        srcarch: the architecture's directory below arch/, as kbuild's SRCARCH.
    """

    def __init__(self, tree: Path, srcarch: str) -> None:
        self._tree = tree
        self._srcarch = srcarch
        self.symbols: dict[str, list[Definition]] = {}
        self._seen: set[str] = set()
        self._read("Kconfig", [], in_choice=False, depth=0)

    def selectors(self, symbol: str, values: Mapping[str, str]) -> list[str]:
        """Return the enabled symbols that select `symbol`."""
        return sorted(
            name
            for name, definitions in self.symbols.items()
            if values.get(name, "n") != "n"
            and any(
                target == symbol and level(condition, values)
                for definition in definitions
                for target, condition in definition.selects
            )
        )

    def with_dependencies(self, wanted: Mapping[str, str], asked: Collection[str]) -> dict[str, str]:
        """Return what to ask for beyond `asked`, so that symbols come out as wanted: they, and what they depend on.

        A dependency counts where it is a single symbol: of `A || B` nobody can tell which one is meant. One that cannot
        be asked for is followed to those that it depends on itself. What this tree has not is left out, and so are the
        symbols of `OPENS`.

        >>> Kconfig(Path("/nowhere"), "x86").with_dependencies({"GONE": "y"}, ())
        {}
        """
        found: dict[str, str] = {}
        seen = {*asked, *OPENS}
        todo = list(wanted.items())
        while todo:
            symbol, value = todo.pop(0)
            definitions = self.symbols.get(symbol, ())
            if symbol in seen or not definitions:
                continue
            seen.add(symbol)
            definition = next((one for one in definitions if one.prompt), definitions[0])
            if definition.choice and symbol not in wanted:  # one member of a choice takes its place from another
                continue
            if definition.prompt:
                found[symbol] = value
            for other in (term for text in definition.depends for term in _split_and(text)):
                module = value == "m" and any(one.tristate for one in self.symbols.get(other, ()))
                todo.append((other, "m" if module else "y"))
        return found

    def why(self, symbol: str, asked: str, values: Mapping[str, str]) -> str:
        """Return why `symbol` is not `asked` in a configuration, in words; `values` has what is not n."""
        definitions = self.symbols.get(symbol)
        if not definitions:
            return NO_SUCH
        got = values.get(symbol, "n")
        if _LEVEL.get(got, 0) > _LEVEL.get(asked, 2):
            by = self.selectors(symbol, values)
            return f"selected by {', '.join(by[:4])}" if by else "forced on by its default or by virtme-ng's base"
        reasons = []
        for definition in definitions:
            wanted = asked if definition.tristate else "m"  # for a bool, Kconfig takes a dependency that is m for y
            unmet = [term for text in definition.depends for term in unmet_terms(text, values, wanted)]
            if unmet:
                reasons.append("depends on " + ", ".join(dict.fromkeys(unmet)))
            elif not definition.prompt:
                reasons.append("has no prompt: only other symbols can turn it on")
            elif definition.prompt_if and not level(definition.prompt_if, values):
                reasons.append("can be asked for only if " + ", ".join(unmet_terms(definition.prompt_if, values, "m")))
            elif definition.choice:
                reasons.append("another member of its choice is set")
            elif asked == "m" and not definition.tristate:
                reasons.append("cannot be a module")
        return "; or ".join(dict.fromkeys(reasons)) or f"its dependencies are met ({definitions[0].place})"

    def _read(self, name: str, outer: list[str], *, in_choice: bool, depth: int) -> None:
        """Read a file, once, and those that it names."""
        own = os.path.normpath(name)
        data = read_within(self._tree, name, FILE_BYTES) if own not in self._seen and depth < MOST_DEEP else None
        self._seen.add(own)
        if data is None:
            return
        text = data.decode("utf-8", "replace")
        blocks: list[tuple[str, list[str]]] = []  # (keyword, its conditions), innermost last
        current: Definition | None = None
        conditions: list[str] | None = None  # where a `depends on` goes
        deeper = 0  # blocks that are not looked at

        def around() -> list[str]:
            return outer + [text for _, texts in blocks for text in texts]

        for number, line in _statements(text):
            word, _, rest = line.partition(" ")
            rest = rest.strip()
            if word in {"config", "menuconfig"}:
                choice = in_choice or any(keyword == "choice" for keyword, _ in blocks)
                current = Definition(f"{name}:{number}", around(), choice=choice)
                conditions = current.depends
                self.symbols.setdefault(rest, []).append(current)
            elif word in {"menu", "choice", "if"}:
                if len(blocks) == MOST_DEEP:
                    deeper += 1
                else:
                    blocks.append((word, [rest] if word == "if" else []))
                conditions, current = blocks[-1][1], None
            elif word in {"endmenu", "endchoice", "endif"}:
                if deeper:
                    deeper -= 1
                elif blocks:
                    blocks.pop()
                conditions = current = None
            elif word in {"comment", "mainmenu"}:
                conditions, current = [], None
            elif word == "depends" and conditions is not None:
                conditions.append(rest.removeprefix("on").strip())
            elif word in {"source", "orsource", "rsource", "osource"}:
                target = rest.strip("\"'").replace("$(SRCARCH)", self._srcarch).replace("$SRCARCH", self._srcarch)
                choice = in_choice or any(keyword == "choice" for keyword, _ in blocks)
                self._read(target, around(), in_choice=choice, depth=depth + 1)
            elif current:
                _attribute(current, word, rest, line)


def _attribute(current: Definition, word: str, rest: str, line: str) -> None:
    if word == "select":
        target, _, condition = rest.partition(" if ")
        current.selects.append((target.strip(), condition))
        return
    current.tristate |= word in {"tristate", "def_tristate"}
    if match := _PROMPTED.match(line):
        current.prompt = True
        current.prompt_if = match[1] or ""


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, statement): no comments, no help texts, continued lines joined, one blank between words."""
    help_indent = -1  # -2: the help text's own indent is not known yet
    joined, begin = list[str](), 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.expandtabs()
        indent = len(line) - len(line.lstrip())
        if help_indent != -1 and line.strip():
            if help_indent == -2:
                help_indent = indent or -1
            if help_indent != -1 and indent >= help_indent:
                continue
            help_indent = -1
        elif help_indent != -1:
            continue
        begin = begin if joined else number
        joined.append(line.strip())
        if joined[-1].endswith("\\"):
            joined[-1] = joined[-1][:-1]
            continue
        statement = " ".join(" ".join(joined).split())
        joined.clear()
        if statement in {"help", "---help---"}:
            help_indent = -2
        elif statement and not statement.startswith("#"):
            yield begin, re.sub(r'\s#[^"]*$', "", statement)


def level(text: str, values: Mapping[str, str]) -> int:
    """Return what an expression comes to: 0 no, 1 module, 2 yes; an empty or unreadable one is met.

    >>> level("NET && (INET || !FOO)", {"NET": "y", "INET": "m"})
    2
    """
    if not text.strip():
        return 2
    try:
        return _Reader(text, values).whole()
    except (ValueError, IndexError, RecursionError):
        return 2


def unmet_terms(text: str, values: Mapping[str, str], asked: str) -> list[str]:
    """Return the parts of an expression, split at its outermost &&, that keep a symbol from being `asked`.

    >>> unmet_terms("NET && (INET=y || FOO) && BAR", {"NET": "y", "BAR": "m"}, "y")
    ['(INET=y || FOO) (INET=n, FOO=n)', 'BAR=m']
    """
    wanted = _LEVEL.get(asked, 1)
    found = []
    for term in _split_and(text):
        have = level(term, values)
        if have >= wanted:
            continue
        names = list(dict.fromkeys(re.findall(r"\b[A-Z][A-Z0-9_]*\b", term)))
        if [term.strip("!() ")] == names and "!" not in term:
            found.append(f"{names[0]}={values.get(names[0], 'n')}")
        else:
            found.append(f"{term} ({', '.join(f'{name}={values.get(name, chr(110))}' for name in names)})")
    return found


def _split_and(text: str) -> list[str]:
    parts, depth, begin = [], 0, 0
    for index, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0 and text.startswith("&&", index):
            parts.append(text[begin:index])
            begin = index + 2
        if depth == 0 and text.startswith("||", index):
            return [text.strip()]  # an OR on the outside: one term
    return [part.strip() for part in [*parts, text[begin:]] if part.strip()]


class _Reader:
    """Recursive descent over one expression."""

    def __init__(self, text: str, values: Mapping[str, str]) -> None:
        text = re.sub(r"\$\((?:[^()]|\([^()]*\))*\)", "y", text)  # a macro: taken for met
        self._tokens = _TOKEN.findall(text)[::-1]  # the next one is the last
        self._values = values

    def whole(self) -> int:
        result = self._or()
        if self._tokens:
            raise ValueError(self._tokens[-1])
        return result

    def _or(self) -> int:
        result = self._and()
        while self._tokens and self._tokens[-1] == "||":
            self._tokens.pop()
            result = max(result, self._and())
        return result

    def _and(self) -> int:
        result = self._term()
        while self._tokens and self._tokens[-1] == "&&":
            self._tokens.pop()
            result = min(result, self._term())
        return result

    def _term(self) -> int:
        word = self._tokens.pop()
        if word == "!":
            return 2 - self._term()
        if word == "(":
            result = self._or()
            self._tokens.pop()
            return result
        if self._tokens and self._tokens[-1] in {"=", "!=", "<", ">", "<=", ">="}:
            operator = self._tokens.pop()
            return 2 if _compare(self._value(word), operator, self._value(self._tokens.pop())) else 0
        return _LEVEL.get(self._value(word), 0)

    def _value(self, token: str) -> str:
        if token[0] in "\"'":
            return token[1:-1]
        if token in _LEVEL or token[0].isdigit():
            return token
        return self._values.get(token, "n").strip('"')


def _compare(left: str, operator: str, right: str) -> bool:
    if operator in {"=", "!="}:
        return (left == right) == (operator == "=")
    a, b = map(_number, (left, right))
    return {"<": a < b, ">": a > b, "<=": a <= b, ">=": a >= b}[operator]


def _number(text: str) -> int:
    """Return a symbol's number as Kconfig compares it; what is none, or longer than one, counts as 0."""
    match = re.fullmatch(r"(0[xX])?([0-9a-fA-F]{1,16})", text)
    if not match or not (match[1] or match[2].isdecimal()):
        return 0
    return int(match[2], 16 if match[1] else 10)
