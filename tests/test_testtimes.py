"""The table of where a run's minutes went."""

from xml.etree import ElementTree as ET

from tools.testtimes import DOCS, TIERS, table

RUN = """\
<testsuites><testsuite name="pytest" time="90.5" timestamp="2026-01-02T03:04:05">
<testcase classname="tests.test_a" name="one" time="61.5"><properties><property name="said" value="6/6"/></properties>
</testcase>
<testcase classname="tests.test_a" name="two" time="3"><failure message="no"/></testcase>
<testcase classname="tests.test_b" name="three" time="1"/>
<testcase classname="tests.test_c" name="four" time="0.5"><skipped/></testcase>
</testsuite></testsuites>
"""


def test_files_are_told_by_time_and_the_small_ones_together():
    assert list(table(ET.fromstring(RUN))) == [
        "4 tests in 1.5 minutes on 2026-01-02, 1 failed.",
        "",
        "| file | tests | failed | seconds on its worker |",
        "| --- | ---: | ---: | ---: |",
        "| tests/test_a.py | 2 | 1 | 64 |",
        "| 2 files of less than 5 s each | 2 | 0 | 2 |",
        "",
        "    6/6",
    ]


def test_the_page_has_a_place_for_each_tier():
    text = DOCS.read_text()
    assert [f"<!-- last run of {tier} -->\n" in text for tier in TIERS] == [True] * len(TIERS)
