"""JUnit: what Jenkins' schema allows (its elements and attributes, checked by hand here), and what it says."""

import dataclasses
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from sample_run import C, P, job, large, sample

from kpatchlab.model import Outcome, Splat
from kpatchlab.report import FORMATS
from kpatchlab.report.view import View
from kpatchlab.textclean import printable

# junit-10.xsd of Jenkins' xUnit plugin: element -> (attributes it needs, attributes it may have, children).
SCHEMA = {
    "testsuites": (set(), {"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors"},
        {"time", "skipped", "timestamp", "hostname", "id", "package", "file", "log", "url"},
        {"properties", "testcase", "system-out", "system-err"},
    ),
    "properties": (set(), set(), {"property"}),
    "property": ({"name", "value"}, set(), set()),
    "testcase": ({"name"}, {"time", "classname"}, {"skipped", "error", "failure", "system-out", "system-err"}),
    "failure": (set(), {"type", "message"}, set()),
    "error": (set(), {"type", "message"}, set()),
    "skipped": (set(), {"type", "message"}, set()),
    "system-out": (set(), set(), set()),
    "system-err": (set(), set(), set()),
}


def junit(run):
    return ET.fromstring(FORMATS["junit"].render(View(run, Path())))


def check(element):
    needs, may, children = SCHEMA[element.tag]
    assert needs <= set(element.attrib) <= needs | may, element.tag
    if "time" in element.attrib:
        assert re.fullmatch(r"\d+(\.\d*)?", element.get("time"))
    for child in element:
        assert child.tag in children, f"{child.tag} in {element.tag}"
        check(child)


@pytest.mark.parametrize(
    "run", [sample(), large(8, 100), dataclasses.replace(sample(), jobs=(), builds=(), columns=())]
)
def test_schema(run):
    root = junit(run)
    check(root)
    for suite in root:
        cases = suite.findall("testcase")
        assert int(suite.get("tests")) == len(cases)
        assert int(suite.get("failures")) == len(suite.findall("testcase/failure"))
        assert int(suite.get("skipped")) == len(suite.findall("testcase/skipped"))


def test_no_two_cases_share_an_identity():
    """GitLab keys cases by class name and name: two columns must not fall together."""
    found = [(case.get("classname"), case.get("name")) for case in junit(sample()).iter("testcase")]
    assert len(found) == len(set(found))


def test_suites_and_properties():
    root = junit(sample())
    assert [suite.get("name") for suite in root] == ["build", *sample().columns]
    facts = {p.get("name"): p.get("value") for p in root[2].iter("property")}
    assert facts["with: release"] == "6.3.0-rc2-kpl-splice"
    assert facts["verdict REGRESSED"] == "3"
    assert facts["host accel"] == "tcg"
    assert facts["comparison"].startswith("Same base")
    assert root[1].get("hostname") == "lab1"


def case_of(root, classname, name):
    return next(c for c in root.iter("testcase") if (c.get("classname"), c.get("name")) == (classname, name))


def test_failure_has_the_decoded_splat_first():
    case = case_of(junit(sample()), "with.cifs-ksmbd", "job")
    failure = case.find("failure")
    assert failure.get("type") == "crash"
    assert failure.get("message").startswith("REGRESSED: KASAN: slab-use-after-free in opinfo_put")
    assert failure.text.startswith("BUG: KASAN: slab-use-after-free in opinfo_put (fs/ksmbd/oplock.c:196)")
    assert "to reproduce: kpatchlab run cifs-ksmbd" in failure.text
    assert "console of server (with)" in case.find("system-out").text


def test_build_suite():
    case = case_of(junit(sample()), "build.with", "module siw")
    assert "siw_qp_tx.c:342" in case.find("failure").get("message")
    assert "SMC_LO: asked y" in case_of(junit(sample()), "build.with", "kernel").find("system-out").text


def test_blocked_and_skipped_are_neither_pass_nor_failure():
    root = junit(sample())
    case = case_of(root, "with.nfs.transport=siw,vers=4_2", "job")
    assert case.find("skipped").get("message") == "BLOCKED: module siw did not build"
    assert (
        case_of(root, "with.smc", "job").find("skipped").get("message")
        == "SAME: kernel lacks CONFIG_SMC_LO: skipped on both"
    )


def test_infra_is_an_error():
    run = dataclasses.replace(sample(), jobs=(job("x", "with", {}, outcome=Outcome.INFRA, message="QEMU died"),))
    case = case_of(junit(run), "with.x", "job")
    assert case.find("error").get("type") == "infra"
    assert case.find("failure") is None


def test_hostile_text_stays_xml():
    """A guest's console holds anything: NUL, escapes, half of a surrogate pair, non-characters."""
    nasty = 'a\x00b\x1b[31mred\x1b[0m\ud800\ufffe\x08 ]]> <&" \u2028é'
    splat = Splat("oops", nasty, "0" * 12, nasty)
    made = job("x" + nasty, "with", {"job": (C, nasty, nasty), nasty: P}, splats=(splat,), params={"p": nasty})
    run = dataclasses.replace(sample(), title=nasty, jobs=(made,), host={"hostname": nasty, nasty: nasty})
    check(junit(run))
    assert printable(nasty) == 'abred ]]> <&" é'
    assert printable("a\r\nb") == "a\nb"
