"""A series patch by patch: does each one apply, build, and bring no new warnings, on top of those before it."""

from kpatchlab.series.judge import Table, judge
from kpatchlab.series.walk import Wanted, walk

__all__ = ["Table", "Wanted", "judge", "walk"]
