"""Stored runs are read with the types that they should have, whoever wrote them."""

import dataclasses
import json
import os
import time

import pytest

from kpatchlab.errors import LabError, UserError
from kpatchlab.guest.qmp import LINE_MAX, Qmp
from kpatchlab.jsonable import from_json, to_json
from kpatchlab.model import Case, JobResult, Outcome, Run
from kpatchlab.report import FORMATS
from kpatchlab.report.view import View
from kpatchlab.store.run_dir import load_header, load_run
from kpatchlab.store.store import Store
from tests import labdir
from tests.sample_run import job, sample


@pytest.mark.parametrize(
    "change",
    [
        {"cases": 5}, {"cases": {}}, {"cases": "abc"}, {"cases": [5]}, {"cases": [None]}, {"params": []},
        {"params": {"a": 1}}, {"job": 5}, {"job": None}, {"repeat": "1"}, {"repeat": True}, {"repeat": 1.5},
        {"repeat": 2**64}, {"duration_s": "1"}, {"duration_s": True},
        {"reported": 1}, {"outcome": "good"}, {"outcome": []}, {"placement": {"main": None}},
        {"metrics": [{"name": "a", "value": "1", "unit": "s", "direction": "lower"}]}, {"because": [["job", "job"]]},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_wrong_type_is_refused(change):
    data = to_json(sample().jobs[0]) | change
    with pytest.raises((TypeError, ValueError)):
        from_json(JobResult, data)


@pytest.mark.parametrize("field", ["job", "message", "stdout_tail"])
def test_half_a_pair_of_surrogates_is_no_text(field):
    """JSON has it as an escape; neither UTF-8 nor the database of all runs takes it."""
    data = to_json(sample().jobs[0]) | {field: json.loads('"a\\ud800\\u00e9"'), "params": {"\ud800": "\udfff"}}
    read = from_json(JobResult, data)
    assert (getattr(read, field), read.params) == ("a?\u00e9", {"?": "?"})


def test_run_with_a_wrong_type_is_a_line_for_every_verb(tmp_path, call, monkeypatch):
    labdir.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KPATCHLAB_CACHE", str(tmp_path / "cache"))
    store = Store(tmp_path / "results")
    run_dir = store.new_run("x")
    run_dir.close()
    labdir.write(run_dir.path / "jobs/a.json", json.dumps(to_json(sample().jobs[0]) | {"cases": 5}))
    for words in (["report"], ["compare", "last", "last"], ["report", "--format", "html"]):
        status, _, err = call(*words)
        assert status == 3
        assert err.count("\n") == 2, err
        assert "a.json: a int where a list belongs" in err
    status, out, _ = call("list", "runs")
    assert (status, out.count("unreadable")) == (0, 1)
    assert call("plan")[0] == 0
    assert call("doctor", "--store")[0] == 3


@pytest.mark.parametrize("text", ["Infinity", "-Infinity", "NaN", "1e999"])
def test_time_that_is_no_number_breaks_nothing_for_good(tmp_path, call, monkeypatch, text):
    labdir.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KPATCHLAB_CACHE", str(tmp_path / "cache"))
    store = Store(tmp_path / "results")
    with store.new_run("x") as run_dir:
        name = run_dir.id
        done = to_json(sample().jobs[0])
    done["cases"][0]["duration_s"] = done["duration_s"] = 77.25
    labdir.write(store.root / name / "jobs/a.json", json.dumps(done).replace("77.25", text))
    header = json.loads((store.root / name / "run.json").read_text()) | {"duration_s": 77.25, "complete": True}
    labdir.write(store.root / name / "run.json", json.dumps(header).replace("77.25", text))
    assert load_run(store.root / name).duration_s == 0.0
    for words in (["report"], ["report", "--format", "json"], ["list", "runs"], ["list", "runs", "--json"], ["plan"]):
        status, out, err = call(*words)
        assert status in {0, 1}, err
        if "json" in words[-1]:
            json.loads(out, parse_constant=pytest.fail)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{}", "5", '{"schema": 1e999}', '{"schema": "1"}', "", "\0", '{"id": 5}']
)
def test_header_that_is_none_is_a_line(tmp_path, text):
    labdir.write(tmp_path / "run.json", text)
    for read in (load_header, load_run):
        with pytest.raises(LabError, match="cannot read"):
            read(tmp_path)


def test_run_that_names_another_folder_is_not_gone_on_with(tmp_path):
    store = Store(tmp_path / "results")
    with store.new_run("x") as run_dir:
        name = run_dir.id
    path = store.root / name / "run.json"
    for other in ("../../x", "a/b", "", "."):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"id": other}))
        with pytest.raises(LabError, match="its id is no name of a folder"):
            store.open_run(name)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id": "elsewhere"}))
    with pytest.raises(UserError, match="says that it is run elsewhere"):
        store.open_run(name)
    assert not (store.root / "elsewhere").exists()


def test_part_of_a_run_that_is_no_file_is_a_line(tmp_path):
    with Store(tmp_path).new_run("x") as run_dir:
        (run_dir.path / "jobs").mkdir()
        os.mkfifo(run_dir.path / "jobs/a.json")
        with pytest.raises(LabError, match="a fifo, not a regular file"):
            load_run(run_dir.path)


def test_reports_of_very_many_failing_checks_take_no_longer_than_there_are(tmp_path):
    def took(count):
        cases = tuple(Case(f"c{number}", Outcome.FAIL) for number in range(count))
        one = dataclasses.replace(job("s", "with", {}, outcome=Outcome.FAIL), cases=cases)
        run = Run(
            id="r",
            title="t",
            started="",
            duration_s=0.0,
            complete=True,
            base="with",
            columns=("with",),
            kernels=(),
            builds=(),
            jobs=(one,),
        )
        begin = time.process_time()
        FORMATS["text"].render(View(run, tmp_path))
        return time.process_time() - begin

    assert took(8000) < 6 * took(2000) + 0.5


class Wire:
    """Stands for QEMU's socket."""

    def sendall(self, data):
        pass


@pytest.mark.parametrize(
    "line",
    [
        '{"id": [1], "return": 1}',
        '{"id": {}, "error": {}}',
        '{"id": 99}',
        '{"id": true}',
        "[" * 50_000,
        "5",
        "null",
        '"x"',
        "\xff",
    ],
)
def test_qemus_odd_answers_are_passed_over(line):
    qmp = Qmp(Wire())
    asked = qmp.send("stop")
    assert qmp.feed(line.encode() + b"\n") == []
    qmp.feed(b'{"id": 2, "return": {"a": 1}}\n')
    assert asked.result(0) == {"a": 1}


@pytest.mark.parametrize("error", ['"x"', "null", "[]", '{"desc": 5}', '{"desc": "\\u001b[31mno"}'])
def test_qemus_refusal_of_any_form_is_a_line(error):
    qmp = Qmp(Wire())
    asked = qmp.send("stop")
    qmp.feed(b'{"id": 2, "error": %s}\n' % error.encode())
    assert "QEMU refuses: " in str(asked.exception(0))
    assert "\x1b" not in str(asked.exception(0))


def test_line_of_qemu_without_end_takes_bounded_memory_and_time():
    qmp = Qmp(Wire())
    begin = time.process_time()
    for _ in range(20_000):
        qmp.feed(b"x" * 200)
    assert len(qmp._buffer) <= LINE_MAX
    assert time.process_time() - begin < 5
    assert qmp.feed(b'\n{"event": "STOP"}\n{"ev') == [{"event": "STOP"}]
    assert qmp.feed(b'ent": "RESUME"}\n') == [{"event": "RESUME"}]
