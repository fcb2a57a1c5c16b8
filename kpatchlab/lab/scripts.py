"""Cheap checks of what scenarios are made of besides YAML: shell and Python scripts, and templates."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from kpatchlab import proc
from kpatchlab.errors import UserError
from kpatchlab.files import read_input
from kpatchlab.lab.bounded import Task, work_off
from kpatchlab.lab.scenario import (
    FILE,
    MAX_FILE_BYTES,
    Scenario,
    TemplateProblem,
    expand,
    own_files,
    render_templates,
)
from kpatchlab.lab.yamlfile import Problems

_TIMEOUT_S = 2.0
MAX_SCRIPT_BYTES = 1 << 20
"""Of what is parsed; other files of a scenario are data."""
_SHELLS = {"sh": "sh", "dash": "sh", "bash": "bash"}


def check_scripts(folder: Path, scenarios: Mapping[str, Scenario], problems: Problems) -> None:
    """Note what is wrong with the files of all scenarios and of `lib`; `folder` is the lab's scenarios directory.

    Scripts are parsed, never run. Templates are rendered once for every combination of parameters, and what
    the first one gives is parsed as well.
    """
    for path in sorted(folder.glob("[!._]*")):
        if path.is_dir() and path.name != "lib" and not (path / FILE).exists():
            problems.add(path, 0, f"there is no {FILE}")
    python: list[tuple[Path, bytes]] = []
    for _, path in _own_files(folder / "lib", problems):
        if path.suffix != ".j2" and (data := _bytes(path, problems)) is not None:
            _check_bytes(path, data, problems, python, program="prepare" in path.parts)
    for scenario in scenarios.values():
        programs = {script for role in scenario.roles.values() for _, script in role.scripts()}
        for name, path in _own_files(scenario.folder, problems):
            if (data := _bytes(path, problems)) is None:
                continue
            try:
                data = _rendered(scenario, name) if name.endswith(".j2") else data
            except TemplateProblem as error:
                problems.add(error.path, error.line, error.reason)
            else:
                _check_bytes(path, data, problems, python, program=name.removesuffix(".j2") in programs)
    tasks = [Task("compile", str(path), text=data.decode("utf-8", "surrogateescape")) for path, data in python]
    for (path, _), answer in zip(python, work_off(tasks), strict=True):
        if answer.error:
            problems.add(path, answer.line, answer.error)


def _own_files(folder: Path, problems: Problems) -> list[tuple[str, Path]]:
    try:
        return own_files(folder)
    except UserError as error:
        problems.add(folder, 0, error.message)
        return []


def _bytes(path: Path, problems: Problems) -> bytes | None:
    """Return a file that is to be parsed, b"" for one that is data; None where it cannot be read, or is too long."""
    try:
        data = read_input(path, MAX_FILE_BYTES)
    except UserError as error:
        problems.add(path, 0, error.message.removeprefix(f"{path}: "))
        return None
    if len(data) <= MAX_SCRIPT_BYTES:
        return data
    if data.startswith(b"#!") or path.suffix in {".sh", ".py", ".j2"}:
        problems.add(path, 0, f"a script of more than {MAX_SCRIPT_BYTES >> 20} MiB")
        return None
    return b""


def _rendered(scenario: Scenario, name: str) -> bytes:
    return render_templates(scenario, [(name, params) for params in expand(scenario) or [{}]])[0].encode()


def _check_bytes(
    path: Path, data: bytes, problems: Problems, python: list[tuple[Path, bytes]], *, program: bool
) -> None:
    """Parse one script by its #! line, or by its name where it has none; those in Python are put aside."""
    first = data.split(b"\n", 1)[0].decode("utf-8", "replace")
    words = re.findall(r"[^\s/]+", first.removeprefix("#!")) if first.startswith("#!") else []
    if program and not words and not data.startswith(b"\x7fELF"):
        problems.add(path, 1, "has no #! line, so that a guest cannot run it")
    if first.startswith("#!") and first.endswith("\r"):
        problems.add(path, 1, "its lines end in CR LF: the guest would not find the interpreter")
        return
    name = path.name.removesuffix(".j2")
    shell = next((_SHELLS[word] for word in words if word in _SHELLS), "sh" if name.endswith(".sh") else "")
    if any(word.startswith("python") for word in words) or (not words and name.endswith(".py")):
        python.append((path, data))
    elif shell and shutil.which(shell):
        _check_shell(path, data, shell, problems)


def _check_shell(path: Path, data: bytes, shell: str, problems: Problems) -> None:
    env = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"}  # above all no BASH_ENV, which bash would run
    result = proc.run([shell, "-n"], input_bytes=data, timeout_s=_TIMEOUT_S, check=False, env=env)
    if result.timed_out:
        problems.add(path, 0, f"{shell} -n did not end within {_TIMEOUT_S:g} s")
    elif result.status < 0:
        problems.add(path, 0, f"not valid {shell}: it breaks the shell (signal {-result.status})")
    elif result.status:
        # bash: "bash: line 3: syntax error ...", dash: "sh: 3: Syntax error: ..."
        first = (result.stderr.splitlines() or ["0: no output"])[0]
        found = re.search(r"(\d+): (.*)", first)
        line, message = (int(found[1]), found[2]) if found else (0, first)
        problems.add(path, line, f"not valid {shell}: {message}")
