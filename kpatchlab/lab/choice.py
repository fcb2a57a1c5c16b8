"""Choosing scenarios by words: names, globs, `tag:`, `system:`, `touching:`, `kselftest:`; each with `!` leaves out."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence

from kpatchlab.lab import selftests
from kpatchlab.lab.scenario import Scenario
from kpatchlab.lab.systems import System, touches
from kpatchlab.lab.yamlfile import suggest

Kind = Callable[[str, Mapping[str, Scenario], Mapping[str, System]], set[str]]


def _tagged(word: str, scenarios: Mapping[str, Scenario], systems: Mapping[str, System]) -> set[str]:  # noqa: ARG001
    return {name for name, scenario in scenarios.items() if word in scenario.tags}


def _of_system(word: str, scenarios: Mapping[str, Scenario], systems: Mapping[str, System]) -> set[str]:  # noqa: ARG001
    return {name for name, scenario in scenarios.items() if word in scenario.systems}


def _touching(word: str, scenarios: Mapping[str, Scenario], systems: Mapping[str, System]) -> set[str]:
    return {name for name, scenario in scenarios.items() if touches(scenario, systems, word)}


def _running(word: str, scenarios: Mapping[str, Scenario], systems: Mapping[str, System]) -> set[str]:  # noqa: ARG001
    return set[str]().union(*(selftests.running(name, scenarios) for name in selftests.listed(word)[0]))


KINDS: dict[str, Kind] = {"tag": _tagged, "system": _of_system, "touching": _touching, "kselftest": _running}
"""What may stand before a colon -> how scenarios are found by what stands behind it."""


def select(
    scenarios: Mapping[str, Scenario], systems: Mapping[str, System], words: Sequence[str]
) -> tuple[tuple[str, ...], dict[int, str]]:
    """Return the names that `words` choose, sorted, and the errors: index of the word -> message.

    A word that matches nothing is an error, except `*`, and except one that leaves out and looks like nothing
    that there is: a lab may leave out what it does not have. `kselftest:` also chooses what `selftests.made` makes.
    """
    scenarios = selftests.with_named(scenarios, words)
    chosen = set(scenarios) if words and all(word.startswith("!") for word in words) else set[str]()
    errors = {}
    for index, whole in enumerate(words):
        word = whole.removeprefix("!")
        kind, colon, bare = word.partition(":")
        known = bool(colon) and kind in KINDS
        if kind == "kselftest" and colon and (wrong := selftests.listed(bare)[1]):
            errors[index] = wrong
            continue
        names = KINDS[kind](bare, scenarios, systems) if known else set(fnmatch.filter(scenarios, word))
        if not names and word != "*":
            near = suggest(bare if known else word, _there(kind if known else "", scenarios, systems))
            if near or word == whole:
                errors[index] = _nothing(kind if known else "", bare if known else word) + near
        chosen = chosen | names if word == whole else chosen - names
    return tuple(sorted(chosen)), errors


def _nothing(kind: str, word: str) -> str:
    if kind == "touching":
        return f"no scenario touches '{word}'"
    return f"there is no {kind or 'scenario'} '{word}'" + (" with a scenario" if kind == "system" else "")


def _there(kind: str, scenarios: Mapping[str, Scenario], systems: Mapping[str, System]) -> Iterable[str]:
    """Return what a word of a kind could have been."""
    every = scenarios.values()
    tags = sorted({tag for scenario in every for tag in scenario.tags})
    if kind == "tag":
        return tags
    if kind == "system":
        return sorted({name for scenario in every for name in scenario.systems})
    if kind == "touching":
        own = {file for scenario in every for file in scenario.touches.files}
        return sorted(own | {file for system in systems.values() for file in system.files})
    return [*scenarios, *(f"tag:{tag}" for tag in tags)]
