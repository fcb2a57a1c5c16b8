"""A few inputs for every reader of foreign bytes: no traceback, and none that takes seconds.

`./lab bench fuzz` tries many, and tells how time grows with size.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzzing import SLOW_S, TARGETS

IDS = [target.name for target in TARGETS]


@pytest.mark.parametrize("target", TARGETS, ids=IDS)
def test_no_input_is_a_traceback_or_takes_long(target, tmp_path):
    @settings(
        max_examples=60 if target.share >= 10 else 15, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data())
    def tried(data):
        assert target.tried(data.draw(target.inputs), tmp_path) < SLOW_S

    tried()
    for seed in target.seeds:
        target.read(seed, tmp_path)  # what is as it should be is not refused
