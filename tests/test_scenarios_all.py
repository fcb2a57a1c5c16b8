"""What holds for every scenario of the project, and for its table of systems; nothing is run."""

from pathlib import Path

import pytest

from kpatchlab.lab import load

WHOLE = load.load(Path(__file__).parent.parent / "lab.yaml")
EVERY = [scenario for name, scenario in sorted(WHOLE.scenarios.items()) if not name.startswith("selftest-")]
OWN = [scenario for scenario in EVERY if not {"bench", "suite"} & set(scenario.tags)]
SUITES = [scenario for scenario in EVERY if "suite" in scenario.tags]


@pytest.mark.parametrize("system", WHOLE.systems)
def test_every_system_has_a_scenario(system):
    assert [scenario.name for scenario in OWN if system in scenario.systems]


@pytest.mark.parametrize("scenario", [*OWN, *SUITES], ids=lambda scenario: scenario.name)
def test_every_scenario_says_what_it_is_about(scenario):
    if "others" not in scenario.tags:
        assert scenario.systems
        assert scenario.reach or scenario.systems == ("chelsio-tls",), "what runs must be shown to run"
    assert scenario.touches.files


@pytest.mark.parametrize("scenario", [*OWN, *SUITES], ids=lambda scenario: scenario.name)
def test_reach_asks_for_something_on_both_sides_of_the_series(scenario):
    conditions = [(rule.if_symbol, rule.unless_symbol) for rule in scenario.reach]
    both = any(condition == ("", "") for condition in conditions)
    has = any(rule.if_symbol for rule in scenario.reach)
    lacks = any(rule.unless_symbol for rule in scenario.reach)
    assert not conditions or both or (has and lacks)


def test_the_lab_selects_all_but_its_self_tests_benchmarks_and_suites():
    assert set(WHOLE.selected) == {scenario.name for scenario in OWN}


def test_benchmarks_are_chosen_by_name_or_tag_alone():
    benchmarks = [scenario for scenario in EVERY if scenario not in [*OWN, *SUITES]]
    assert benchmarks
    for scenario in benchmarks:
        assert scenario.name.startswith("bench-")
        assert scenario.systems == scenario.reach == scenario.touches.files == ()
