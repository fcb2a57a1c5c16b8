"""Scenarios: one folder each, `scenarios/NAME/` with scenario.yaml and scripts; no Python of the lab's own."""

from __future__ import annotations

import itertools
import math
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from kpatchlab.errors import UserError
from kpatchlab.files import read_input
from kpatchlab.lab.bounded import Task, path_of, work_off
from kpatchlab.lab.recipes import NAME_PATTERN, Name, Needed, Text, check_symbol
from kpatchlab.lab.yamlfile import Document, FileModel, Loc, Problems, read, suggest

FILE = "scenario.yaml"
GUEST_FOLDER = "/lab/scenario"
GUEST_LIB = "/lab/lib"
GuestFile = tuple[str, bytes, int]
"""A file that is put into a guest: absolute path, bytes, mode."""
RESERVED = frozenset({"role", "server", "client", "dev", "lib", "attach", "tmp", "scale", "break", "mode", "emulated"})
"""Parameters that cannot be: their LAB_... variables have a meaning already."""

MAX_COMBINATIONS = 1000
"""Combinations of one scenario's parameters, those that are left out included."""
MAX_FILE_BYTES = 64 << 20
"""Of one file that goes into a guest."""
MAX_FILES = 10_000

_PARAMETER = r"^[a-z][a-z0-9_]*$"
_CONDITION = r"^$|^([\w-]+:)?[\w.$]+$"
_LEFT_BEHIND = re.compile(r"(^|/)(__pycache__|\.[^/]*)(/|$)|(~|\.pyc|\.swp|\.orig|\.rej)$")


def _parameter(name: str) -> str:
    if not re.fullmatch(_PARAMETER, name):
        raise ValueError(f"the name of a parameter is lower-case letters, digits and _, not '{name}'")
    if name in RESERVED:
        raise ValueError(f"'{name}' cannot be a parameter: LAB_{name.upper()} has a meaning of its own")
    return name


def _values(values: tuple[str, ...]) -> tuple[str, ...]:
    if twice := next((value for value, count in Counter(values).items() if count > 1), None):
        raise ValueError(f"'{twice}' is there twice")
    for value in values:
        if not value.isprintable():
            raise ValueError(f"{value!r} has characters that cannot be printed")
    return values


Parameter = Annotated[str, AfterValidator(_parameter)]
COLLECTION = r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*"
"""A folder below tools/testing/selftests, or FOLDER/PROGRAM."""
Collection = Annotated[str, Field(pattern=rf"^(\$[a-z][a-z0-9_]*|{COLLECTION})$")]
"""A collection of the kernel's selftests, or `$name` for the value of a parameter."""


def _alternatives(text: str) -> str:
    for name in text.split(OR):
        check_symbol(name)
    return text


OR = "|"
Symbols = Annotated[str, AfterValidator(_alternatives)]
"""A configuration symbol, or several with `|` between them of which one is enough."""
Values = Annotated[tuple[Text, ...], Field(min_length=1), AfterValidator(_values)]


class Prints(StrEnum):
    """The form of what a script prints: see `evidence.printed`."""

    KTAP = "ktap"
    JUNIT = "junit"
    LTP = "ltp"
    BLKTESTS = "blktests"


class Role(FileModel):
    """What one guest of a scenario does; scripts are files of the scenario's folder, executable, with a #! line."""

    setup: str = Field(
        default="", description="script that prepares the guest; roles are set up in the order of the file"
    )
    run: str = Field(default="", description="script that makes the checks and prints results; exactly one role has it")
    prints: Prints = Field(
        default=Prints.KTAP,
        description="what `run` prints: KTAP, or the results of a suite in a form of its own, which the lab reads",
    )
    finish: str = Field(default="", description="script that runs after the checks, also after failed ones")
    prepare: tuple[Name, ...] = Field(
        default=(), description="scripts shared by scenarios, run before `setup`: `scenarios/lib/prepare/NAME.sh`"
    )
    memory_mib: int | None = Field(
        default=None, ge=64, description="memory of this guest in MiB, instead of the machine's"
    )

    def scripts(self) -> Iterator[tuple[str, str]]:
        """Yield (key, file name) of the scripts of its own."""
        return ((key, name) for key in ("setup", "run", "finish") if (name := getattr(self, key)))


class Needs(FileModel):
    """What kernel and root must have for the scenario to mean anything."""

    config: tuple[Symbols, ...] = Field(
        default=(),
        description="configuration symbols that must be y or m; else the job is skipped, with that reason. Of `A|B` "
        "one is enough: symbols come and go",
    )
    modules: tuple[Name, ...] = Field(
        default=(), description="modules to load before anything else; one that did not build makes the job BLOCKED"
    )
    symbols: tuple[Needed, ...] = Field(
        default=(),
        description="symbols that the kernel's image must have, of `a|b` one; else the job is skipped. Debian's own "
        "kernels cannot tell",
    )
    packages: tuple[Name, ...] = Field(
        default=(), description="Debian packages that the root must have; else the job is skipped"
    )
    kselftest: tuple[Collection, ...] = Field(
        default=(),
        description="selftests to build from each kernel's own tree and put into its guest, below /lab/kselftest: "
        "folders of tools/testing/selftests, or FOLDER/PROGRAM; `$name` is the value of a parameter",
    )
    suites: tuple[Name, ...] = Field(
        default=(),
        description="test suites of others to build and put into each guest, below /lab/suites: recipes in `suites/`",
    )
    programs: tuple[Name, ...] = Field(
        default=(),
        description="programs in C: the lab compiles scenarios/lib/NAME.c on the host, statically, and puts it into "
        "each guest as /lab/programs/NAME/NAME",
    )

    def symbols_of_config(self) -> frozenset[str]:
        """Return every configuration symbol that it names, alternatives too."""
        return frozenset(symbol for wanted in self.config for symbol in wanted.split(OR))


class Touches(FileModel):
    """What the scenario is about; for people, and to pick scenarios for a series."""

    functions: tuple[Needed, ...] = Field(default=(), description="kernel functions that it runs")
    files: tuple[Needed, ...] = Field(default=(), description="source files of the kernel that have these functions")


class Reach(FileModel):
    """Proof that a kernel function ran, or did not, while the `run` script did: a case `reach: FUNCTION`."""

    role: str = Field(default="", description="the role whose kernel it is about; empty: every role")
    function: Needed = Field(description="name of the function")
    min: int = Field(default=1, ge=0, description="it must run at least this often; 0 if `max` is given")
    max: int | None = Field(default=None, ge=0, description="it must run at most this often; 0: not at all")
    if_symbol: str = Field(
        default="",
        pattern=_CONDITION,
        description="only on a kernel that has this symbol; `MODULE:SYMBOL`: only where the module has it, or calls it",
    )
    unless_symbol: str = Field(
        default="", pattern=_CONDITION, description="only on a kernel that lacks this symbol; else as `if_symbol`"
    )
    when: dict[str, Text] = Field(default={}, description="only with these values of parameters")

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.max is not None and "min" not in self.model_fields_set:
            object.__setattr__(self, "min", 0)  # frozen for everybody else
        if self.max is not None and self.max < self.min:
            raise ValueError(f"at least {self.min} and at most {self.max} cannot both hold")
        return self

    def applies(self, role: str, params: Mapping[str, str]) -> bool:
        """Whether it is asked of `role` with these parameters; symbols are the kernel's affair."""
        return self.role in {"", role} and all(params.get(key) == value for key, value in self.when.items())


class ScenarioFile(FileModel):
    """A scenario as its file has it."""

    description: Needed = Field(description="one line: what is true if the scenario passes")
    tags: tuple[Name, ...] = Field(default=(), description="words to choose the scenario by, as in `tag:splice`")
    systems: tuple[Name, ...] = Field(
        default=(), description="systems of the kernel that the scenario tests: rows of `scenarios/systems.yaml`"
    )
    timeout_s: float = Field(
        default=120.0, gt=0, le=86400, description="seconds that each script may take on a guest without KVM"
    )
    rootfs: str = Field(default="", description="root file system; empty: the lab's default")
    machine: str = Field(default="", description="machine; empty: the lab's default")
    cold: bool = Field(default=False, description="true: boot new guests instead of forking a booted one")
    cmdline: str = Field(default="", description="words to add to the kernel's command line; needs `cold: true`")
    roles: dict[Name, Role] = Field(description="one role of any name, or the two roles client and server")
    parameters: dict[Parameter, Values] = Field(default={}, description="name -> values; every combination is run")
    exclude: tuple[dict[str, Text], ...] = Field(default=(), description="combinations of parameters to leave out")
    needs: Needs = Field(default=Needs(), description="what the kernel and the root must have")
    touches: Touches = Field(default=Touches(), description="what the scenario is about")
    reach: tuple[Reach, ...] = Field(default=(), description="functions that must have run, or must not")
    expect_splat: bool = Field(
        default=False, description="true: a splat in the kernel's log is wanted; for the lab's self-tests"
    )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        count = math.prod(map(len, self.parameters.values()))
        if count > MAX_COMBINATIONS:
            raise ValueError(f"the parameters have {count:,} combinations, more than {MAX_COMBINATIONS:,}")
        return self

    @model_validator(mode="after")
    def _cold_has_cmdline(self) -> Self:
        if self.cmdline and not self.cold:
            raise ValueError("cmdline needs cold: true, since a forked guest has booted already")
        return self


class Scenario(ScenarioFile):
    """A scenario with its name (that of its folder) and its folder (absolute)."""

    name: str
    folder: Path

    def file(self) -> ScenarioFile:
        """Return what its file says, without where that is."""
        return ScenarioFile.model_construct(**{key: getattr(self, key) for key in ScenarioFile.model_fields})


def load_scenario(folder: Path, problems: Problems) -> tuple[Scenario, Document] | None:
    """Read one scenario's folder; None where it cannot be used at all. What is wrong goes to `problems`."""
    document = read(folder / FILE, problems)
    file = document.parse(ScenarioFile) if document else None
    if not document or not file:
        return None
    if not re.fullmatch(NAME_PATTERN, folder.name):
        problems.add(folder, 0, "the name of a scenario's folder is letters, digits, '.', '_' and '-'")
    scenario = Scenario.model_construct(**{key: getattr(file, key) for key in ScenarioFile.model_fields},
                                        name=folder.name, folder=folder)  # fmt: skip
    _check_roles(scenario, document)
    _check_parameters(scenario, document)
    return scenario, document


def _check_roles(scenario: Scenario, document: Document) -> None:
    roles = scenario.roles
    if len(roles) != 1 and set(roles) != {"client", "server"}:
        document.add(["roles"], f"one role, or the two roles client and server, not: {', '.join(roles) or 'none'}")
    running = [name for name, role in roles.items() if role.run]
    if roles and len(running) != 1:
        document.add(["roles"], f"exactly one role has `run`; here: {', '.join(running) or 'none'}")
    lib = scenario.folder.parent / "lib"
    for name, role in roles.items():
        for key, script in role.scripts():
            _check_script(scenario, document, ["roles", name, key], script)
        for index, word in enumerate(role.prepare):
            path = lib / "prepare" / f"{word}.sh"
            if not os.path.isfile(path):
                there = suggest(word, [other.stem for other in path.parent.glob("*.sh")])
                document.add(["roles", name, "prepare", index], f"there is no scenarios/lib/prepare/{word}.sh{there}")
    for index, reach in enumerate(scenario.reach):
        if reach.role and reach.role not in roles:
            document.add(["reach", index, "role"], f"there is no role '{reach.role}'{suggest(reach.role, roles)}")


def _check_script(scenario: Scenario, document: Document, loc: list[str | int], script: str) -> None:
    path = next((p for p in (scenario.folder / script, scenario.folder / f"{script}.j2") if os.path.exists(p)), None)
    if path is None:
        names = [name.removesuffix(".j2") for name, _ in own_files(scenario.folder)]
        document.add(loc, f"there is no file '{script}' in scenarios/{scenario.name}{suggest(script, names)}")
    elif not os.access(path, os.X_OK):
        document.add(loc, f"scenarios/{scenario.name}/{path.name} is not executable (chmod +x)")


def _check_parameters(scenario: Scenario, document: Document) -> None:
    parameters = scenario.parameters
    pairs: list[tuple[Loc, dict[str, str]]] = [
        (["exclude", index], choice) for index, choice in enumerate(scenario.exclude)
    ]
    pairs += [(["reach", index, "when"], reach.when) for index, reach in enumerate(scenario.reach)]
    for loc, choice in pairs:
        for key, value in choice.items():
            if key not in parameters:
                document.add([*loc, key], f"there is no parameter '{key}'{suggest(key, parameters)}")
            elif value not in parameters[key]:
                there = suggest(value, parameters[key]) or f"; there are {', '.join(parameters[key])}"
                document.add([*loc, key], f"'{value}' is not a value of '{key}'{there}")
    for index, word in enumerate(scenario.needs.kselftest):
        if word.startswith("$") and word[1:] not in parameters:
            there = suggest(word[1:], parameters)
            document.add(["needs", "kselftest", index], f"there is no parameter '{word[1:]}'{there}")
    if not expand(scenario):
        document.add(["exclude"], "leaves no combination of parameters to run")


def expand(scenario: ScenarioFile) -> list[dict[str, str]]:
    """Return every combination of parameters that is run, in the file's order; [{}] where there are none."""
    names = list(scenario.parameters)
    every = (dict(zip(names, values, strict=True)) for values in itertools.product(*scenario.parameters.values()))
    return [params for params in every if not any(rule and rule.items() <= params.items() for rule in scenario.exclude)]


def foreign_tests(scenario: ScenarioFile, params: Mapping[str, str]) -> tuple[str, ...]:
    """Return the tests of others that a scenario needs with these parameters: folders below /lab in the guest."""
    words = [params[word[1:]] if word.startswith("$") else word for word in scenario.needs.kselftest]
    found = [f"kselftest/{word}" for word in words] + [f"suites/{name}" for name in scenario.needs.suites]
    return tuple(dict.fromkeys(found + [f"programs/{name}" for name in scenario.needs.programs]))


def scenario_files(scenario: Scenario, params: Mapping[str, str]) -> list[GuestFile]:
    """Return what a scenario puts into its guests: every file of its folder but scenario.yaml.

    `NAME.j2` is rendered and becomes NAME; templates see `params` and each parameter by its own name, and can include
    each other. Hidden files and what editors and Python leave behind stay out.

    Raises:
        UserError: a file cannot be read, or a template is wrong.
    """
    files: list[GuestFile] = []
    own = own_files(scenario.folder)
    templates = [name for name, _ in own if name.endswith(".j2")]
    try:
        rendered = dict(zip(templates, render_templates(scenario, [(name, params) for name in templates]), strict=True))
    except TemplateProblem as error:
        raise UserError(str(error), hint=f"templates see: {', '.join(['params', *params])}") from None
    for name, path in own:
        if name in rendered:
            text = rendered[name]
            files.append((f"{GUEST_FOLDER}/{name.removesuffix('.j2')}", text.encode(), _mode(path)))
        elif name != FILE:
            files.append((f"{GUEST_FOLDER}/{name}", _bytes(path), _mode(path)))
    return files


def library_files(lab_root: Path) -> list[GuestFile]:
    """Return what every scenario puts into its guests: the files of `scenarios/lib`.

    Raises:
        UserError: a file cannot be read.
    """
    files = own_files(lab_root / "scenarios" / "lib")
    return [(f"{GUEST_LIB}/{name}", _bytes(path), _mode(path)) for name, path in files]


def _bytes(path: Path) -> bytes:
    return read_input(path, MAX_FILE_BYTES, "a scenario puts all files of its folder into its guests")


def _mode(path: Path) -> int:
    return 0o755 if os.access(path, os.X_OK) else 0o644


def own_files(folder: Path) -> list[tuple[str, Path]]:
    """Return (relative name, path) of the files below `folder` that belong to it, by name.

    Raises:
        UserError: there are more than any scenario needs, or one is a link out of the lab's scenarios:
            the host's files are not for guests.
    """
    found = []
    home = next((place for place in (folder, *folder.parents) if place.name == "scenarios"), folder).resolve()
    for top, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _LEFT_BEHIND.search(name)]
        for name in names:
            path = Path(top, name)
            if not _LEFT_BEHIND.search(name):
                if not path.resolve().is_relative_to(home):
                    raise UserError(f"{path}: leads out of the lab's scenarios, to {path.resolve()}")
                found.append((str(path.relative_to(folder)), path))
            if len(found) > MAX_FILES:
                raise UserError(f"{folder} has more than {MAX_FILES:,} files", hint="all of them go into its guests")
    return sorted(found)


class TemplateProblem(Exception):
    """A template is wrong; `path` and `line` say where, `reason` what."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        super().__init__(f"{path}:{line}: {reason}")
        self.path, self.line, self.reason = path, line, reason


def render_templates(scenario: Scenario, wanted: Sequence[tuple[str, Mapping[str, str]]]) -> list[str]:
    """Return templates of a scenario's folder, rendered: the name of each with its parameters; see `bounded`.

    Raises:
        TemplateProblem: the first that has a syntax error, uses a name that there is not, or takes too much.
    """
    folders = (str(scenario.folder), str(scenario.folder.parent / "lib"))
    answers = work_off([Task("render", name, folders, params) for name, params in wanted]) if wanted else []
    for answer, (name, _) in zip(answers, wanted, strict=True):
        if answer.error:
            raise TemplateProblem(path_of(answer, scenario.folder / name), answer.line, answer.error)
    return [answer.text for answer in answers]


_SCHEMA = "kpatchlab/schemas/scenario.schema.json"
"""Where a clone has what editors check a scenario.yaml by; a lab elsewhere has none."""
_LIBRARY = "scenarios/lib/ktap.sh"

_TEMPLATE = """\
description: Data written to the path under test arrives whole.
tags: []
timeout_s: 60
roles:
  main: {run: run.sh}
# touches: {files: [net/unix/af_unix.c]}    # of the kernel: `run --touching FILE` and `--changed` choose by it
# parameters: {size: ["4096", "65537"]}     # every combination is run; a script finds it in LAB_SIZE
# needs: {config: [UNIX], modules: []}
# reach:
#   - {function: unix_stream_sendmsg}       # proof that the code under test ran
"""
_SCRIPT = """\
#!/bin/sh
# Checks are printed as KTAP on standard output; standard error is free text.
set -eu
tmp=${LAB_TMP:-/tmp}
%s
ktap_plan 1

# 1 MiB + 13 bytes: the last page is not a whole one.
head -c 1048589 /dev/urandom >"$tmp/sent"
cat "$tmp/sent" | cat >"$tmp/received"      # the path under test goes here
[ -z "${LAB_BREAK:-}" ] || printf x >>"$tmp/received"      # `run --break` sends something wrong
ktap_check "data arrives whole" cmp "$tmp/sent" "$tmp/received"
rm -f "$tmp/sent" "$tmp/received"
"""
_SOURCED = '. "$LAB_LIB/ktap.sh"'
_INLINE = """\
number=0
ktap_plan() { printf 'KTAP version 1\\n1..%d\\n' "$1"; }
ktap_check() {      # NAME COMMAND...
    number=$((number + 1)) name=$1
    shift
    if said=$("$@" 2>&1); then
        printf 'ok %d - %s\\n' "$number" "$name"
    else
        printf '# %s\\nnot ok %d - %s\\n' "$said" "$number" "$name"
    fi
}"""


def _laid_out(lab_root: Path) -> dict[str, str]:
    """Return the files of a new scenario: name -> text; what a lab lacks they do without."""
    schema = f"# yaml-language-server: $schema=../../{_SCHEMA}\n" if (lab_root / _SCHEMA).is_file() else ""
    functions = _SOURCED if (lab_root / _LIBRARY).is_file() else _INLINE
    return {FILE: schema + _TEMPLATE, "run.sh": _SCRIPT % functions}


def new(lab_root: Path, name: str) -> Path:
    """Lay out a scenario that runs and passes as it is; returns its folder.

    Raises:
        UserError: the name cannot be one, is taken, or the folder cannot be made.
    """
    if not re.fullmatch(NAME_PATTERN, name) or len(name) > 64 or name == "lib":
        raise UserError(f"'{name}' cannot be the name of a scenario", hint="letters, digits, '.', '_' and '-'")
    folder = lab_root / "scenarios" / name
    if folder.exists():
        raise UserError(f"the scenario '{name}' is there already: {folder}", hint="choose another name")
    try:
        folder.parent.mkdir(exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
        try:
            work.chmod(0o755)
            for file, text in _laid_out(lab_root).items():
                (work / file).write_text(text)
                (work / file).chmod(0o755 if file.endswith(".sh") else 0o644)
            work.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror}") from None
    return folder
