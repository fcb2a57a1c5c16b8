"""The rows of the matrix: a run's systems, and below each the scenarios that test it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kpatchlab.model import Outcome, Run, Verdict
from kpatchlab.verdict.values import VERDICT_ORDER, Comparison, Group, worst


@dataclass(frozen=True, slots=True)
class SystemPart:
    """A system with its part of the run.

    Attributes:
        name: "" for what belongs to no system.
        groups: scenarios that are shown here.
        elsewhere: its scenarios that are shown with an earlier system, which they test too.
    """

    name: str
    title: str
    groups: tuple[Group, ...]
    elsewhere: tuple[str, ...] = ()

    @property
    def loud(self) -> bool:
        """Whether there is anything to look at."""
        return any(not row.quiet for group in self.groups for row in group.rows)

    def outcome(self, column: str) -> tuple[Outcome, bool] | None:
        """Return the worst outcome in this column, and whether a check is flaky, as `Group.outcome`; None: nothing ran.

        It is "skip" only where nothing else ran.
        """
        found = [outcome for group in self.groups if (outcome := group.outcome(column))]
        ran = [outcome for outcome in found if outcome[0] is not Outcome.SKIP] or found
        return (worst(outcome for outcome, _ in ran), any(flaky for _, flaky in ran)) if ran else None

    def count(self, column: str) -> tuple[int, int]:
        """Return how many of this column's checks pass, and how many apply."""
        counts = [group.count(column) for group in self.groups]
        return sum(good for good, _ in counts), sum(total for _, total in counts)

    def verdict(self, column: str) -> Verdict | None:
        """Return the verdict that matters most in this column."""
        found = {group.verdict(column) for group in self.groups}
        return next((verdict for verdict in VERDICT_ORDER if verdict in found), None)


def systems(run: Run, comparison: Comparison) -> tuple[list[SystemPart], list[str]]:
    """Return the systems with their scenarios, each scenario once, and the titles of systems of which nothing ran.

    What belongs to no system comes last, under the name "".
    """
    by_name: dict[str, list[Group]] = {}
    for group in comparison.groups:
        by_name.setdefault(group.scenario, []).append(group)
    ran = set(by_name)
    found, missing = [], []
    for facts in run.systems:
        mine = [name for name in dict.fromkeys(facts.scenarios) if name in ran]
        groups = [group for name in mine for group in by_name.pop(name, ())]
        elsewhere = tuple(name for name in mine if not any(group.scenario == name for group in groups))
        if mine:
            found.append(SystemPart(facts.name, facts.title, tuple(groups), elsewhere))
        else:
            missing.append(facts.title or facts.name)
    if rest := tuple(group for groups in by_name.values() for group in groups):
        found.append(SystemPart("", "", rest))
    return found, missing


def shown_columns(comparison: Comparison, again: str) -> Sequence[str]:
    """Return the matrix's columns: a column that ends with `again` only where something in it is not SAME."""
    return [
        column
        for column in comparison.columns
        if not column.endswith(again) or any(v is not Verdict.SAME for v in comparison.by_column.get(column, {}))
    ]
