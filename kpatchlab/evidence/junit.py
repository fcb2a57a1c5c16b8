"""JUnit XML, as its many writers write it -> suites."""

from __future__ import annotations

import contextlib
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from kpatchlab.errors import UserError
from kpatchlab.evidence.suite import Suite, apart, case_of, problem, seconds
from kpatchlab.model import Case, Outcome
from kpatchlab.textclean import one_line

_SUITES = {"testsuites", "testsuite"}
_RAN = {
    *("run", "ran", "pass", "passed", "ok", "success", "successful", "succeeded"),
    *("complete", "completed", "finished", "done", "executed"),
}
_FAILED = {
    *("fail", "failed", "failure", "error", "errored", "broken", "crash", "crashed", "abort", "aborted"),
    *("timeout", "timedout"),
}
_COUNT = re.compile(r"\s*(\d{1,9})\s*")
_WEIGHT = [Outcome.PASS, Outcome.SKIP, Outcome.INFRA, Outcome.FAIL]
_Said = tuple[Outcome, str, str]
"""Outcome, message, details."""


class _Enough(Exception):
    """As much of a file is read as is asked for."""


def _declares_entities(data: bytes) -> bool:
    """Whether a file makes entities, which expand to much more than it is; expat's own bound begins at 8 MiB.

    Only what is before the root's element is read: there they are declared.
    """
    found = False

    def entity(*_: object) -> None:
        nonlocal found
        found = True
        raise _Enough

    def root(*_: object) -> None:
        raise _Enough

    parser = expat.ParserCreate()
    parser.EntityDeclHandler, parser.StartElementHandler = entity, root
    with contextlib.suppress(_Enough, expat.ExpatError, LookupError, ValueError):  # what is wrong is told later
        parser.Parse(data, True)
    return found


@dataclass(slots=True)
class _Place:
    """A suite's element.

    Attributes:
        bad: cases in it and in the suites below it that neither passed nor were skipped.
    """

    element: ET.Element
    above: _Place | None = None
    cases: dict[str, list[Case]] = field(default_factory=dict)
    bad: int = 0


def read(data: bytes, name: str) -> list[Suite]:
    """Return a suite for each of a file's suites that has cases, outer ones first.

    A case directly below the root counts, too. What a writer's `status` or `result` attribute does not say to have
    run is a skip, and what says to have failed is a failure, with or without an element that says why. A suite that
    failed itself, or counts more failures than it holds, has a case of its own that fails.

    Raises:
        UserError: it is no JUnit file.
    """
    if _declares_entities(data):
        raise UserError(f"{name} declares entities of its own", hint="what they stand for can be of any size")
    try:
        root = ET.fromstring(data)  # noqa: S314 - it has no entities
    except (ET.ParseError, LookupError, ValueError) as error:  # unknown encodings are the latter two
        raise UserError(f"{name} is no JUnit file: {one_line(str(error))}") from None
    if _tag(root) not in _SUITES:
        raise UserError(f"{name} is no JUnit file: its root is <{one_line(_tag(root), 40)}>")
    places = list(_walk(root, name))
    for place in reversed(places):
        counts = (_COUNT.fullmatch(place.element.get(key, "")) for key in ("failures", "errors"))
        told = sum(int(count[1]) for count in counts if count)
        if (missing := told - place.bad) > 0:
            here = next(iter(place.cases), "") or _named(place.element) or name
            place.cases.setdefault(here, []).append(
                problem(f"the suite counts {told} failures and errors, {place.bad} are in it")
            )
            _count(place, missing)
    return [
        Suite(
            one_line(title) or name,
            apart(cases),
            place.element.get("timestamp", ""),
            seconds(place.element.get("time")),
        )
        for place in places
        for title, cases in place.cases.items()
    ]


def _walk(root: ET.Element, default: str) -> Iterator[_Place]:
    """Yield the suites in the order of the file, with their own cases; no recursion, however deep they are."""
    whole = _Place(root)
    todo: list[tuple[ET.Element, _Place]] = [(root, whole)]
    yield whole
    while todo:
        element, place = todo.pop()
        if _tag(element) == "testcase":
            case = _case(element)
            title = _named(place.element) or element.get("classname") or default
            place.cases.setdefault(title, []).append(case)
            if case.outcome not in {Outcome.PASS, Outcome.SKIP}:
                _count(place, 1)
            continue
        if _tag(element) in {"failure", "error"}:
            said = (
                element.get("message") or (element.text or "").strip() or element.get("type") or "it does not say why"
            )
            place.cases.setdefault(_named(place.element) or default, []).append(problem(f"the suite failed: {said}"))
            _count(place, 1)
            continue
        if element is not root and _tag(element) in _SUITES:
            place = _Place(element, place)
            yield place
        todo += [(child, place) for child in reversed(element)]


def _count(place: _Place | None, number: int) -> None:
    while place:
        place.bad += number
        place = place.above


def _tag(element: ET.Element) -> str:
    """Return an element's name without its namespace; "" for comments and instructions."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _named(element: ET.Element) -> str:
    return one_line(element.get("name", ""))


def _case(element: ET.Element) -> Case:
    said = [(Outcome.PASS, "", ""), *_by_children(element), *_by_status(element)]
    outcome = max((found for found, _, _ in said), key=_WEIGHT.index)
    those = [(message, details) for found, message, details in said if found is outcome]
    message = next((message for message, _ in those if message.strip()), "")
    details = next((details for _, details in those if details.strip()), "")
    prefix = f"{element.get('classname')}." if element.get("classname") else ""
    return case_of(f"{prefix}{element.get('name', '')}", outcome, message, details, seconds(element.get("time")))


def _by_children(element: ET.Element) -> Iterator[_Said]:
    for child in element:
        message, text = child.get("message") or child.get("type") or "", child.text or ""
        match _tag(child):
            case "failure":
                yield Outcome.FAIL, message, text
            case "error":
                yield Outcome.INFRA if "infra" in child.get("type", "").lower() else Outcome.FAIL, message, text
            case "skipped" | "disabled" | "notrun":
                yield Outcome.SKIP, message or text, text


def _by_status(element: ET.Element) -> Iterator[_Said]:
    """Yield what attributes say: googletest's `status="notrun"`, CTest's `status="fail"`, and their like."""
    for key in ("status", "result"):
        word = "".join(filter(str.isalnum, element.get(key, "").lower()))
        if word and word not in _RAN:
            yield Outcome.FAIL if word in _FAILED else Outcome.SKIP, f"{key} {element.get(key)}", ""
