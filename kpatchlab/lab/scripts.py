"""Cheap checks of what scenarios are made of besides YAML: shell and Python scripts, and templates."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

from kpatchlab import proc
from kpatchlab.lab.scenario import FILE, Scenario, TemplateProblem, expand, own_files, render_template
from kpatchlab.lab.yamlfile import Problems

_TIMEOUT_S = 10.0
_SHELLS = {"sh": "sh", "dash": "sh", "bash": "bash"}


def check_scripts(folder: Path, scenarios: Mapping[str, Scenario], problems: Problems) -> None:
    """Note what is wrong with the files of all scenarios and of `lib`; `folder` is the lab's scenarios directory.

    Scripts are parsed, never run. Templates are rendered once for every combination of parameters, and what
    the first one gives is parsed as well.
    """
    for path in sorted(folder.glob("[!._]*")):
        if path.is_dir() and path.name != "lib" and not (path / FILE).exists():
            problems.add(path, 0, f"there is no {FILE}")
    for _, path in own_files(folder / "lib"):
        if path.suffix != ".j2":
            _check_bytes(path, path.read_bytes(), problems, program="prepare" in path.parts)
    for scenario in scenarios.values():
        programs = {script for role in scenario.roles.values() for _, script in role.scripts()}
        for name, path in own_files(scenario.folder):
            try:
                data = _rendered(scenario, name) if name.endswith(".j2") else path.read_bytes()
            except TemplateProblem as error:
                problems.add(error.path, error.line, error.reason)
            except OSError as error:
                problems.add(path, 0, f"cannot be read: {error.strerror}")
            else:
                _check_bytes(path, data, problems, program=name.removesuffix(".j2") in programs)


def _rendered(scenario: Scenario, name: str) -> bytes:
    texts = [render_template(scenario, name, params) for params in expand(scenario) or [{}]]
    return texts[0].encode()


def _check_bytes(path: Path, data: bytes, problems: Problems, *, program: bool) -> None:
    """Parse one script by its #! line, or by its name where it has none."""
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
        _check_python(path, data, problems)
    elif shell and shutil.which(shell):
        _check_shell(path, data, shell, problems)


def _check_python(path: Path, data: bytes, problems: Problems) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(data, str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        problems.add(path, error.lineno or 0, f"not valid Python: {error.msg}")
    except ValueError as error:  # null bytes
        problems.add(path, 0, f"not valid Python: {error}")


def _check_shell(path: Path, data: bytes, shell: str, problems: Problems) -> None:
    result = proc.run([shell, "-n"], input_bytes=data, timeout_s=_TIMEOUT_S, check=False)
    if result.status:
        # bash: "bash: line 3: syntax error ...", dash: "sh: 3: Syntax error: ..."
        first = (result.stderr.splitlines() or ["0: no output"])[0]
        found = re.search(r"(\d+): (.*)", first)
        line, message = (int(found[1]), found[2]) if found else (0, first)
        problems.add(path, line, f"not valid {shell}: {message}")
