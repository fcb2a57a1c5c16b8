"""Files of a lab that take for ever, or all memory, to read: one line each, within seconds."""

import itertools
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kpatchlab.errors import UserError
from kpatchlab.evidence import junit
from kpatchlab.lab import bounded, load
from kpatchlab.lab.bounded import Task, work_off
from kpatchlab.lab.scenario import MAX_COMBINATIONS, load_scenario, scenario_files
from kpatchlab.lab.yamlfile import MAX_PROBLEMS, Problems
from kpatchlab.plan.jobs import make_plan
from tests import labdir

PROJECT = Path(__file__).parent.parent
SCENARIO = "description: d\nroles: {main: {run: run.sh}}\n"


@pytest.fixture
def root(tmp_path):
    return labdir.make(tmp_path).parent


def check(root):
    """Run `check` as a process of its own: (status, lines of its errors, processor seconds, MiB at most)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = (
        # not ru_maxrss: that of a process begins with its parent's, also after exec
        "import re, sys\nfrom kpatchlab.cli import main\ntry:\n    main(['check', '--lab', sys.argv[1]])\n"
        "finally:\n    print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) >> 10)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(root / "lab.yaml")],
        env={**os.environ, "PYTHONPATH": str(PROJECT)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr.splitlines(), took, int(done.stdout.split()[-1])


def sparse(path, size):
    with path.open("wb") as handle:
        handle.truncate(size)


def template(text):
    return {"scenarios/solo/x.conf.j2": text}


FILES = {
    "50 MB": ({"lab.yaml": "# " + "x" * (50 << 20)}, "larger than"),
    "duplicate keys": ({"lab.yaml": "kernels: {a: b}\n" + "repeat: 1\n" * 50_000}, "is there 50000 times"),
    "duplicates of many": ({"lab.yaml": "".join(f"k{i}: 1\nk{i}: 2\n" for i in range(17_000))}, "more than"),
    "unknown keys": ({"lab.yaml": "".join(f"k{i}: 1\n" for i in range(1999))}, "there is no such key"),
    "long key": ({"lab.yaml": "? " + "k" * 300_000 + "\n: 1\nkernels: {a: b}\n"}, "there is no such key"),
    "long name": ({"lab.yaml": "kernels: {a: " + "b" * 100_000 + "}\n"}, "there is no recipe"),
    "name with a NUL": ({"lab.yaml": 'kernels: {a: "b\\0"}\n'}, "there is no recipe"),
    "long path": (
        {"lab.yaml": "kernels: {a: {source: {type: dir, path: " + "b" * 9000 + "}, config: [" + "c" * 9000 + "]}}\n"},
        "there is no file",
    ),
    "nest": ({"lab.yaml": "a: " + "[" * 200_000}, "nested too deeply"),
    "aliases": (
        {"lab.yaml": "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
         + "".join(f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n" for a, b in itertools.pairwise("abcdefghijk"))},
        "aliases spelled out",
    ),
    "merges": ({"lab.yaml": "a: &a {x: 1}\nb:\n" + "  <<: *a\n" * 30_000}, "more than"),
    "parameters": (
        {"scenarios/solo/scenario.yaml": SCENARIO + "parameters:\n"
         + "".join(f"  p{i}: [{', '.join(map(str, range(10)))}]\n" for i in range(12))},
        "combinations, more than",
    ),
    "values": (
        {"scenarios/solo/scenario.yaml": SCENARIO + f"parameters: {{p: [{', '.join(map(str, range(1900)))}]}}\n"},
        "combinations, more than",
    ),
    "template without end": (
        template("{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}"), "did not end",
    ),
    "template of much": (template("{{ 'x' * 5000000000 }}"), "memory"),
    "template of much text": (template("{% for i in range(30000) %}{{ 'x' * 1000 }}{% endfor %}"), "MiB of text"),
    "template of a number": (template("{{ 3 ** 999999999 }}"), "did not end"),
    "template of a format": (template("{{ '%999999999d' | format(1) }}"), "memory"),
    "template that reaches out": (
        template("{{ ''.__class__.__mro__[1].__subclasses__() }}"), "access to attribute '__class__'",
    ),
    "template that starts programs": (
        template("{{ cycler.__init__.__globals__.os.popen('touch pwned').read() }}"), "access to attribute '__init__'",
    ),
    "template that changes": (template("{{ params.update({'a': 1}) }}"), "is unsafe"),
    "template in itself": (template("{% include 'x.conf.j2' %}"), "includes itself"),
    "Python that nests": (
        {"scenarios/solo/x.py": "#!/usr/bin/python3\n" + "(" * 100_000}, "not valid Python",
    ),
    "Python that recurs": (
        {"scenarios/solo/x.py": "#!/usr/bin/python3\nx = " + "-" * 900_000 + "1\n"}, "x.py",
    ),
    "long script": ({"scenarios/solo/x.sh": "#!/bin/sh\n" + ": x\n" * 400_000}, "more than 1 MiB"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_hostile_file_is_a_line_and_costs_little(root, name):
    files, said = FILES[name]
    for path, text in files.items():
        labdir.write(root / path, text, 0o755)
    status, lines, took, memory = check(root)
    assert status == 2
    assert any(said in line for line in lines), lines
    assert len(lines) <= MAX_PROBLEMS + 5
    assert max(map(len, lines)) < 2000
    assert took < 2.0 + 1.5, "the program's own start on a busy host, and 2 s"
    assert memory < 300
    assert not (root / "pwned").exists()


@pytest.mark.parametrize(
    "place", ["lab.yaml", "kernels/old.yaml", "scenarios/solo/scenario.yaml", "scenarios/solo/run.sh"]
)
@pytest.mark.parametrize("kind", ["fifo", "device", "sparse"])
def test_file_that_does_not_end_is_a_line(root, place, kind):
    path = root / place
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        sparse(path, 1 << 40)
    status, lines, took, memory = check(root)
    assert status == 2
    assert [line for line in lines if place in line], lines
    assert took < 3.5
    assert memory < 300


def test_include_of_what_does_not_end_is_a_line(root):
    labdir.write(root / "scenarios/solo/x.j2", "{% include 'fifo' %}")
    os.mkfifo(root / "scenarios/lib/fifo")
    status, lines, _, _ = check(root)
    assert status == 2
    assert any("no regular file" in line for line in lines)


def test_files_of_a_scenario_that_a_run_takes_are_bounded_too(root):
    labdir.write(
        root / "scenarios/solo/x.j2", "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}"
    )
    found = load_scenario(root / "scenarios/solo", Problems(root))
    begin = time.monotonic()
    with pytest.raises(UserError, match="did not end within 1 s"):
        scenario_files(found[0], {})
    assert time.monotonic() - begin < 20
    (root / "scenarios/solo/x.j2").unlink()
    (root / "scenarios/solo/data").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"a device, not a regular file|leads out of the lab"):
        scenario_files(found[0], {})


def test_task_that_ends_its_process_is_told_and_the_others_go_on():
    deep = Task("compile", "deep", text="(" * 90 + "x" + ")" * 90)
    tasks = [
        Task("compile", "a", text="x = 1\n"), Task("compile", "b", text="x = (\n"),
        Task("compile", "c", text="x = " + "[" * 50 + "0" * 5_000_000), deep,
    ]  # fmt: skip
    found = work_off(tasks)
    assert [bool(answer.error) for answer in found] == [False, True, True, False]
    assert found[1].line == 1
    assert work_off([]) == []


def test_tasks_that_all_end_their_process_are_not_tried_for_ever(monkeypatch):
    tried = []
    monkeypatch.setattr(bounded, "_child", lambda tasks, _: (tried.append(len(tasks)), ([], "no end"))[1])
    found = work_off([Task("compile", "x")] * 50)
    assert len(found) == 50
    assert all(answer.error for answer in found)
    assert len(tried) == 5


def test_templates_that_end_late_again_and_again_take_seconds_in_all(root):
    numbers = ", ".join(map(str, range(20)))
    labdir.write(root / "scenarios/solo/scenario.yaml", SCENARIO + f"parameters: {{a: [{numbers}], b: [{numbers}]}}\n")
    text = "{% for i in range(60000) %}{% for j in range(40) %}{% endfor %}{% endfor %}"
    labdir.write(root / "scenarios/solo/x.conf.j2", text)
    status, lines, took, _ = check(root)
    assert status == 2
    assert any("of processor time" in line for line in lines), lines
    assert took < 12


def test_number_of_jobs_is_bounded(root):
    labdir.write(
        root / "scenarios/solo/scenario.yaml",
        SCENARIO + f"parameters: {{p: [{', '.join(map(str, range(MAX_COMBINATIONS)))}]}}\n",
    )
    lab = load.load(root / "lab.yaml", ["solo"])
    begin = time.monotonic()
    with pytest.raises(UserError, match="more than 100,000 jobs"):
        make_plan(lab, repeat=1000)
    assert time.monotonic() - begin < 5


def test_check_runs_nothing_of_a_scenario(root, monkeypatch):
    labdir.write(root / "env.sh", f"touch {root}/pwned\n")
    monkeypatch.setenv("BASH_ENV", str(root / "env.sh"))
    monkeypatch.setenv("ENV", str(root / "env.sh"))
    for name, text in {
        "a.sh": "#!/bin/sh\ntouch pwned\n", "b.sh": "#!/bin/bash\ntouch pwned\n",
        "c.py": "#!/usr/bin/python3\nopen('pwned', 'w')\n", "sitecustomize.py": "open('pwned', 'w')\n",
        "jinja2.py": "open('pwned', 'w')\n", "x.j2": "{{ 1 + 1 }}",
    }.items():  # fmt: skip
        labdir.write(root / "scenarios/solo" / name, text, 0o755)
    monkeypatch.chdir(root / "scenarios/solo")
    assert check(root)[0] == 0
    assert not list(root.rglob("pwned"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_entities_of_a_junit_file_are_refused_before_they_expand(encoding):
    declared = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 9))
    head = f'<?xml version="1.0" encoding="{encoding}"?>'
    inner = '<testsuite name="s"><testcase name="&{};"/></testsuite>'
    begin = time.process_time()
    for name in ("a8", "a0"):
        text = f'{head}<!DOCTYPE t [<!ENTITY a0 "x">{declared}]>{inner.format(name)}'
        with pytest.raises(UserError, match="declares entities of its own"):
            junit.read(text.encode(encoding), "x")
    assert time.process_time() - begin < 1
    plain = f"{head}<!DOCTYPE t>{inner.format('lt')}"
    assert junit.read(plain.encode(encoding), "x")[0].cases[0].name == "<"


def test_deep_junit_file_is_read():
    deep = b"<testsuite name='a'>" * 50_000 + b"<testcase name='x'/>" + b"</testsuite>" * 50_000
    assert [case.name for suite in junit.read(deep, "x") for case in suite.cases] == ["x"]
