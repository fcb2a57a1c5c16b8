"""Scenarios that are made: for collections of the kernel's own selftests, with no folder of their own in the lab.

A collection is what `needs: {kselftest: [...]}` takes: a folder below tools/testing/selftests with a Makefile, or
FOLDER/PROGRAM. The word `kselftest:COLLECTION` chooses what runs it, and is the name of the scenario that is made for
one that no folder of the lab is for. So the name is enough to make the scenario again: wherever a job names it, there
it is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from kpatchlab.lab.scenario import COLLECTION, Needs, Role, Scenario, Touches, expand, foreign_tests

PREFIX = "kselftest:"
SELFTESTS = "tools/testing/selftests/"
RUNNER = "scenarios/lib/kselftest.py"
"""Of a lab: what runs a collection in a guest."""
TIMEOUT_S = 600.0
"""As scenarios of selftests have it; the runner ends before."""
MAX_NAME = 100
"""Characters of a collection that is named: a job's id takes its scenario's name whole."""
_HOME = Path(__file__).with_name("selftest")


def made(collection: str, name: str = "", config: Iterable[str] = ()) -> Scenario:
    """Return a scenario that runs a collection, by default the one of the word that names it.

    Args:
        config: symbols that the kernel must have; without them the tests themselves say what they lack.
    """
    return Scenario(
        name=name or PREFIX + collection,
        folder=_HOME,
        description=f"The kernel's own tests {collection} pass.",
        tags=("kselftest",),
        timeout_s=TIMEOUT_S,
        roles={"main": Role(run="run.sh")},
        needs=Needs(config=tuple(config), packages=("python3",), kselftest=(collection,)),
        touches=Touches(files=(f"{SELFTESTS}{collection}",)),
    )


def is_made(scenario: Scenario) -> bool:
    """Whether a scenario was made here, and is in no folder of the lab's."""
    return scenario.folder == _HOME


def collections_of(scenario: Scenario) -> frozenset[str]:
    """Return the collections that a scenario runs, with any of its parameters."""
    if not scenario.needs.kselftest:
        return frozenset()
    tests = {test for params in expand(scenario) for test in foreign_tests(scenario, params)}
    return frozenset(test.partition("/")[2] for test in tests if test.startswith("kselftest/"))


def running(collection: str, scenarios: Mapping[str, Scenario]) -> set[str]:
    """Return the names of the scenarios that run this collection and no other."""
    return {name for name, scenario in scenarios.items() if collections_of(scenario) == {collection}}


def listed(words: str) -> tuple[list[str], str]:
    """Return the collections that are named behind `kselftest:`, commas between them; and what is wrong, or ""."""
    names = words.split(",")
    for name in names:
        if not re.fullmatch(COLLECTION, name) or len(name) > MAX_NAME:
            inner = name.removeprefix(SELFTESTS).strip("/")
            meant = f"; is {PREFIX}{inner} meant?" if inner != name and re.fullmatch(COLLECTION, inner) else ""
            what = f"a folder below {SELFTESTS.rstrip('/')} is, or FOLDER/PROGRAM, as in {PREFIX}net/tls"
            return names, f"'{name}' is no collection of selftests: {what}{meant}"
    return names, ""


def with_named(scenarios: Mapping[str, Scenario], words: Iterable[str]) -> dict[str, Scenario]:
    """Return the scenarios, and beside them those of the collections that words name and that none of them is for."""
    found = dict(scenarios)
    for word in words:
        names, wrong = listed(word.removeprefix(PREFIX)) if word.startswith(PREFIX) else ([], "")
        for name in [] if wrong else names:
            if not running(name, found):
                found[PREFIX + name] = made(name)
    return found


def unrunnable(names: Collection[str], root: Path) -> str:
    """Say why the lab in the directory `root` cannot run those of these scenarios that are made; "" where it can."""
    named = next((name for name in names if name.startswith(PREFIX)), "")
    return f"the lab has no {RUNNER}, which runs {named}" if named and not (root / RUNNER).is_file() else ""
