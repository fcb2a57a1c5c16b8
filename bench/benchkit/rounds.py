"""Figures that were taken side by side: rounds of A B A B, spread, and a last line for programs."""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figures:
    """The values of one case, a round each, without the warm-up's."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        return f"{min(self.values):9.3f} {self.median:9.3f} {max(self.values):9.3f}"


def parser(doc: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the script's docstring as its help, and `--rounds`."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds, help="rounds that count, after one that does not")
    return made


def interleaved(cases: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Figures]:
    """Call every case once a round, in turn, so that whatever else the host does hits all of them alike.

    Returns:
        What the cases returned, without the first round, which fills caches.
    """
    values: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, case in cases.items():
            say(f"{'warm-up' if number == 0 else f'round {number} of {rounds}'}: {name}")
            value = case()
            if number:
                values[name].append(value)
    return {name: Figures(tuple(taken)) for name, taken in values.items()}


def run(main: Callable[[], None]) -> None:
    """Call a script's `main`; what the lab has to complain about is one line and a hint, as everywhere."""
    from kpatchlab.cli.main import show_error
    from kpatchlab.errors import LabError

    try:
        main()
    except LabError as error:
        show_error(error)
        sys.exit(error.exit_code)


def children_s() -> float:
    """Return the processor time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def say(text: str) -> None:
    """Tell how far it is, on standard error."""
    print(f"{text}  (load {os.getloadavg()[0]:.1f})", file=sys.stderr, flush=True)


def show(figures: Mapping[str, Figures], unit: str = "s") -> None:
    """Print the table of figures."""
    width = max([24, *map(len, figures)])
    print(f"{'':{width}} {'min':>9} {'median':>9} {'max':>9}   [{unit}]")
    for name, taken in figures.items():
        print(f"{name:{width}} {taken}")


def last_line(**pairs: float | str | None) -> None:
    """Print the last line: key=value pairs; "-" stands for what was not measured."""
    words = {k: "-" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in pairs.items()}
    print(" ".join(f"{key}={word}" for key, word in words.items()), flush=True)
