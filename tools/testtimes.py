"""Where the minutes of a test run went, file by file, from the JUnit file that pytest wrote.

`python tools/testtimes.py RUN.xml` prints the table; with the name of a tier (quick, all, long) behind it the table in
docs/testing.md is written anew:

    ./lab test --long -- --junitxml build/long.xml
    python tools/testtimes.py build/long.xml long
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

DOCS = Path(__file__).parents[1] / "docs/testing.md"
TIERS = ("quick", "all", "long")
SMALL_S = 5.0
"""Files below this share a line."""


@dataclass(frozen=True, slots=True)
class File:
    """The tests of a file together: how many, how many of them failed, and seconds of wall time on their worker."""

    name: str
    tests: int
    bad: int
    seconds: float


def files(root: ET.Element) -> list[File]:
    """Return the files of a run, those that took longest first."""
    cases: dict[str, list[ET.Element]] = defaultdict(list)
    for case in root.iter("testcase"):
        cases[case.get("classname", "").replace(".", "/") + ".py"].append(case)
    found = [
        File(name, len(own), sum(_is_bad(case) for case in own), sum(float(case.get("time", 0)) for case in own))
        for name, own in cases.items()
    ]
    return sorted(found, key=lambda file: -file.seconds)


def _is_bad(case: ET.Element) -> bool:
    return case.find("failure") is not None or case.find("error") is not None


def table(root: ET.Element) -> Iterator[str]:
    """Yield the lines of the run's table, and below it what its tests recorded."""
    suites = list(root.iter("testsuite"))
    wall = sum(float(suite.get("time", 0)) for suite in suites)
    every = files(root)
    small = [file for file in every if file.seconds < SMALL_S]
    rows = [file for file in every if file.seconds >= SMALL_S]
    if small:
        name = f"{len(small)} files of less than {SMALL_S:g} s each"
        rows.append(File(name, sum(f.tests for f in small), sum(f.bad for f in small), sum(f.seconds for f in small)))
    day = suites[0].get("timestamp", "")[:10] if suites else ""
    tests, bad = sum(file.tests for file in every), sum(file.bad for file in every)
    yield f"{tests} tests in {wall / 60:.1f} minutes on {day}, {bad} failed."
    yield ""
    yield "| file | tests | failed | seconds on its worker |"
    yield "| --- | ---: | ---: | ---: |"
    yield from (f"| {file.name} | {file.tests} | {file.bad} | {file.seconds:.0f} |" for file in rows)
    if said := [item.get("value", "") for item in root.iter("property") if item.get("name") == "said"]:
        yield ""
        yield from (f"    {line}" for line in said)


def main() -> None:
    """Print the table, or write it into the page."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("run", type=Path, help="what `--junitxml` wrote")
    options.add_argument("tier", nargs="?", choices=TIERS, help="whose table in docs/testing.md is written")
    given = options.parse_args()
    text = "\n".join(table(ET.parse(given.run).getroot()))  # noqa: S314 - pytest's own file
    if given.tier is None:
        print(text)
        return
    begin, end = f"<!-- last run of {given.tier} -->\n", "\n<!-- end -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    DOCS.write_text(pattern.sub(lambda _: begin + text + end, DOCS.read_text()))


if __name__ == "__main__":
    main()
