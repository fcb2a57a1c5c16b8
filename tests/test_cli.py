"""The command line as a user meets it: help, errors, exit statuses, output for people and for scripts."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import pytest

from kpatchlab.cli import main, running
from kpatchlab.cli.app import Options, Verbs
from kpatchlab.cli.common import load_lab
from kpatchlab.cli.main import VERBS
from kpatchlab.errors import HostError, UserError
from kpatchlab.host import doctor, host, packages
from kpatchlab.model import Outcome
from kpatchlab.store.store import Store
from tests import labdir

PROJECT = Path(__file__).parent.parent


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A lab directory that is the current one, with a cache of its own."""
    labdir.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KPATCHLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def faked(bench, call, monkeypatch, tmp_path):
    """`call` in a lab whose kernels, roots and guests are fakes; `faked.bench` says what they do."""
    monkeypatch.chdir(bench.root)
    monkeypatch.setenv("KPATCHLAB_CACHE", str(bench.root / "cache"))
    monkeypatch.setattr(host, "Host", lambda *_: bench.host)
    monkeypatch.setattr(packages, "missing", lambda stages: [])
    call.bench = bench
    return call


def program(*words, cwd, env=None, **more):
    """Start the program as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "kpatchlab", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(PROJECT), **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **more,
    )


# --- help


@pytest.mark.parametrize("verb", Verbs.ORDER)
@pytest.mark.parametrize("name", ["kpatchlab", "./lab"])
def test_help_of_every_verb_has_an_example_as_the_user_would_type_it(call, monkeypatch, verb, name):
    monkeypatch.setenv("KPATCHLAB_PROGRAM", name)
    status, out, err = call(verb, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"Usage: {name} {verb}")
    examples = out[out.index("Example") :]
    assert re.search(rf"^ +(eval \"\$\()?{re.escape(name)} ", examples, re.MULTILINE)
    assert ("kpatchlab" in out) is (name == "kpatchlab")
    assert max(map(len, out.splitlines())) <= 100


def test_help_tells_exit_statuses_and_all_verbs(call):
    status, out, _ = call("--help")
    assert status == 0
    for number in (0, 1, 2, 3, 130):
        assert re.search(rf"^  +{number}  ", out, re.MULTILINE)
    assert re.findall(r"^  (\w[\w-]*) {2,}[A-Z]", out, re.MULTILINE)[: len(Verbs.ORDER)] == list(Verbs.ORDER)


def test_help_has_the_verbs_in_groups_and_no_sentence_is_cut_off(call):
    _, out, _ = call("--help")
    assert {verb.name for verb in VERBS} == set(Verbs.ORDER)
    assert len(Verbs.ORDER) == len(set(Verbs.ORDER))
    heads = [line.removesuffix(":") for line in out.splitlines() if line in {f"{title}:" for title in Verbs.GROUPS}]
    assert heads == list(Verbs.GROUPS)
    assert "..." not in out[out.index("Run and look:") : out.index("Example")]
    flat = " ".join(out.split())
    for verb in VERBS:
        assert f"{verb.name} {' '.join(verb.help.split(chr(10) * 2)[0].split())}" in flat


@pytest.mark.parametrize("verb", ["", *Verbs.ORDER])
def test_help_of_every_verb_shows_the_options_of_all(call, verb):
    _, out, _ = call(*verb.split(), "--help")
    shown = out.partition("Options of every verb, before it or behind it:")[2].partition("Example")[0]
    assert re.findall(r"^  (?:-v, )?(--[a-z-]+)", shown, re.MULTILINE)[:6] == [
        "--lab", "--hosts", "--no-install", "--verbose", "--trust", "--debug"
    ]  # fmt: skip
    options = out.partition("Options:")[2]
    assert "Example" in options
    assert not re.search(r"^  \[", options, re.MULTILINE), "arguments are no options"


def test_options_of_every_verb_are_taken_behind_it_and_the_last_counts(here, call):
    (here / "other.yaml").write_text(labdir.LAB.replace("  with: new\n", ""))

    def kernels(*words):
        return [row["name"] for row in json.loads(call(*words)[1])]

    assert kernels("list", "kernels", "--json") == ["without", "with"]
    assert kernels("--lab", "other.yaml", "list", "kernels", "--json") == ["without"]
    assert kernels("list", "kernels", "--json", "--lab", "other.yaml") == ["without"]
    assert kernels("--lab", "lab.yaml", "list", "--lab", "other.yaml", "kernels", "--json") == ["without"]
    assert kernels("--lab", "other.yaml", "list", "--lab=lab.yaml", "kernels", "--json") == ["without", "with"]
    assert call("check", "--lab", "nowhere.yaml")[0] == 2
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        main(["check", "--lab", "nowhere.yaml", "--debug"])


def test_a_choice_is_made_in_the_lab_that_is_named_behind_it(here, call):
    (here / "elsewhere").mkdir()
    labdir.make(here / "elsewhere")
    (here / "elsewhere/scenarios/solo").rename(here / "elsewhere/scenarios/only-there")
    assert call("plan", "only-there", "--json")[0] == 2
    assert call("plan", "only-there", "--json", "--lab", "elsewhere/lab.yaml")[0] == 0


def test_program_with_a_blank_in_its_path_can_be_pasted(here, call, monkeypatch):
    monkeypatch.setenv("KPATCHLAB_PROGRAM", "/home/my labs/lab")
    assert "'/home/my labs/lab' run --resume last" in call("run", "--help")[1]


def test_version(call):
    assert re.fullmatch(r"kpatchlab, version \d+\.\d+\.\d+\n", call("--version")[1])


def test_no_verb_is_usage(call):
    status, out, err = call()
    assert status == 2
    assert "Usage: kpatchlab" in out + err


def test_standard_input_is_read_once_and_handed_to_the_lab(here, monkeypatch):
    options = Options()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a mailbox")))
    assert [load_lab(options).stdin(), load_lab(options).stdin()] == [b"a mailbox", b"a mailbox"]


def test_a_terminal_is_no_series(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    with pytest.raises(UserError, match="that is a terminal"):
        Options().stdin()


def test_start_is_quick(tmp_path):
    """Help must not import what only a run needs."""
    code = (
        "import sys; sys.argv = ['kpatchlab', 'run', '--help']\n"
        "try:\n from kpatchlab.cli import main; main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('pydantic', 'rich', 'jinja2', 'yaml', 'sqlite3') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr.strip() == "[]"


# --- what is wrong, and with which status


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rnu"], "No such command 'rnu'"),
        (["run", "--reapet", "2"], "--repeat"),
        (["run", "--repeat", "0"], "1<=x<=1000"),
        (["run", "--kernel", "wiht"], "there is no kernel 'wiht'; did you mean 'with'?"),
        (["plan", "--kernel", "wiht"], "did you mean 'with'?"),
        (["build", "wiht"], "did you mean 'with'?"),
        (["run", "sole"], "did you mean 'solo'?"),
        (["plan", "sole"], "did you mean 'solo'?"),
        (["run", "tag:splise"], "splice"),
        (["run", "--job", "solo@wiht#1"], "did you mean 'solo@with#1'?"),
        (["run", "--job", "solo@with#1", "duo"], "leave the other choices out"),
        (["run", "--resume", "last"], "no runs in"),
        (["run", "--guest", "qemu"], "vng"),
        (["report"], "no runs in"),
        (["report", "--format", "junti"], "did you mean 'junit'?"),
        (["list", "scenario"], "scenarios"),
        (["new", "scenario", "solo"], "is there already"),
        (["new", "scenario", "../up"], "cannot be the name"),
        (["completion", "tcsh"], "bash"),
        (["shell", "sole"], "did you mean 'solo'?"),
        (["shell", "solo", "--kernel", "wiht"], "did you mean 'with'?"),
        (["shell", "duo", "--role", "cleint"], "did you mean 'client'?"),
        (["shell", "duo", "--param", "vers"], "--param NAME=VALUE"),
        (["shell", "duo", "--param", "vers=9"], "no job on kernel without with these parameters"),
        (["clean", "--max-gib", "few"], "few"),
        (["--lab", "none.yaml", "run"], "none.yaml"),
        (["--lab", "none.yaml", "report"], "none.yaml"),
    ],
)
def test_mistakes_are_status_2_and_say_what_is_near(here, call, monkeypatch, words, said):
    monkeypatch.setattr(packages, "missing", lambda stages: [])
    status, out, err = call(*words)
    assert (status, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
    assert not (here / "results").exists()


@pytest.mark.parametrize("verb", ["run", "plan", "build", "list", "check", "report", "shell", "new scenario x"])
def test_without_a_lab_file(tmp_path, call, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    status, _, err = call(*verb.split())
    assert status == 2
    assert err.splitlines()[0] == f"kpatchlab: no lab.yaml in {tmp_path} or above it"
    assert err.splitlines()[1] == "hint: --lab FILE names the lab"


def test_lab_file_is_found_from_below(here, call, monkeypatch):
    monkeypatch.chdir(here / "scenarios" / "duo")
    assert call("check")[0] == 0


def test_broken_yaml_is_told_with_its_line(here, call):
    (here / "lab.yaml").write_text("title: x\nkernels: {a: old\n")
    status, _, err = call("run")
    assert status == 2
    assert re.search(r"lab\.yaml:\d+:", err)


def test_all_errors_of_all_files_are_told_at_once(here, call):
    (here / "lab.yaml").write_text(labdir.LAB + "rotfs: base\n")
    (here / "scenarios" / "solo" / "scenario.yaml").write_text(labdir.SOLO + "tiemout_s: 3\n")
    status, _, err = call("check")
    assert status == 2
    assert "did you mean 'rootfs'?" in err
    assert "did you mean 'timeout_s'?" in err
    status, out, _ = call("check", "--json")
    assert status == 2
    assert len(json.loads(out)["errors"]) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_lab_file(here, call):
    (here / "lab.yaml").chmod(0)
    assert call("check")[0] == 2


def test_directory_stands_for_its_lab_file(here, call, monkeypatch):
    monkeypatch.chdir("/")
    assert call("--lab", str(here), "check")[0] == 0


def test_missing_packages_stop_a_run_that_may_not_install(here):
    folder = here / "bin"
    folder.mkdir()
    done = program("--no-install", "run", cwd=here, env={"PATH": str(folder)})
    assert done.returncode == 3
    assert re.match(r"kpatchlab: \d+ packages? missing on this host: .*gcc", done.stderr)
    assert re.search(r"^  gcc: ", done.stderr, re.MULTILINE)
    assert "hint: apt-get install" in done.stderr
    assert not (here / "results").exists()


def test_what_only_some_scenarios_need_is_installed_for_them_alone(monkeypatch, capsys):
    installed = []

    def missing(stages):
        return [packages.Missing("clang", "c", ("bpf",))] if "bpf" in stages else []

    def install(lacking, echo):
        installed.extend(item.package for item in lacking)
        raise HostError("cannot install clang")

    monkeypatch.setattr(packages, "missing", missing)
    monkeypatch.setattr(packages, "install", install)
    plan = SimpleNamespace(jobs=[SimpleNamespace(foreign=("kselftest/net/tls", "suites/libkcapi"), roles=())])
    running.start(Options(), plan)
    assert not installed
    plan.jobs.append(SimpleNamespace(foreign=("kselftest/bpf/test_sockmap",), roles=()))
    running.start(Options(no_install=True), plan)
    assert not installed
    running.start(Options(), plan)
    assert installed == ["clang"]
    assert capsys.readouterr().err == "cannot install clang: scenarios that need them are skipped\n"


def test_doctor_names_missing_packages(here, call, monkeypatch):
    lacking = packages.Missing("mmdebstrap", "makes roots", ("image",))
    monkeypatch.setattr(packages, "missing", lambda stages: [lacking])
    status, _, err = call("doctor", "--packages")
    assert status == 3
    assert "mmdebstrap: makes roots" in err


def test_debug_shows_a_traceback(here):
    done = program("--debug", "report", cwd=here)
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "Traceback" not in program("report", cwd=here).stderr


def test_hints_name_the_program_as_it_was_called(here):
    done = program("report", cwd=here, env={"KPATCHLAB_PROGRAM": "./lab"})
    assert "hint: ./lab run makes one" in done.stderr


@pytest.mark.parametrize(
    "words",
    [["list", "scenarios"], ["list", "--json"], pytest.param(["plan"], marks=pytest.mark.mirror), ["--help"]],
)
def test_reader_that_leaves_is_no_error(here, words):
    line = shlex.join([sys.executable, "-m", "kpatchlab", *words])
    env = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        ["bash", "-c", f"{line} | true; exit ${{PIPESTATUS[0]}}"],
        cwd=here, env=env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


# --- run


def test_run_ends_with_0(faked):
    status, out, err = faked("run", "solo")
    assert (status, err) == (0, "")
    assert "results: results/" in out


def test_regression_is_status_1(faked):
    faked.bench.job = lambda inputs: Outcome.FAIL if inputs.spec.column == "with" else Outcome.PASS
    assert faked("run", "solo")[0] == 1


def test_failure_on_one_kernel_is_status_1(faked):
    faked.bench.job = lambda inputs: Outcome.FAIL
    assert faked("run", "solo", "--kernel", "with")[0] == 1


def test_host_error_is_status_3_and_one_line(faked):
    faked.bench.host.problem = HostError("no QEMU", hint="kpatchlab doctor says more")
    status, _, err = faked("run", "solo")
    assert (status, err) == (3, "kpatchlab: no QEMU\nhint: kpatchlab doctor says more\n")


def test_mirror_that_is_away_is_status_3(faked):
    faked.bench.kernel = lambda name, ctx: HostError("the mirror is away")
    status, _, err = faked("run", "solo")
    assert (status, err) == (3, "kpatchlab: the mirror is away\n")


def test_ctrl_c_is_status_130_and_the_run_goes_on(faked):
    def job(inputs):
        if inputs.spec.column == "with":
            os.kill(os.getpid(), signal.SIGINT)
            inputs.here.cancel.wait(10)
            return RuntimeError("guest lost")
        return Outcome.PASS

    faked.bench.job = job
    before = signal.getsignal(signal.SIGINT)
    status, out, err = faked("run", "solo")
    assert status == 130
    line = next(line for line in err.splitlines() if line.startswith("stopping: what is done is kept"))
    assert line.startswith("stopping: what is done is kept; waiting for the end of job ")
    assert line.endswith("job solo@with#1 (once more: at once)"), "the other's job may not have left yet"
    name = Store(faked.bench.store.root).ids()[0]
    assert f"stopped; to go on: kpatchlab run --resume {name}" in err
    assert signal.getsignal(signal.SIGINT) is before
    faked.bench.job = lambda inputs: Outcome.PASS
    status, out, _ = faked("run", "--resume", name)
    assert status == 0
    assert "the jobs are missing" not in out
    assert len(Store(faked.bench.store.root).ids()) == 1


def test_ctrl_c_before_anything_is_status_130(here, call, monkeypatch):
    def missing(stages):
        raise KeyboardInterrupt

    monkeypatch.setattr(packages, "missing", missing)
    assert call("run")[0] == 130


def test_resumed_run_needs_no_other_choice(faked):
    faked("run", "solo")
    status, _, err = faked("run", "duo", "--resume", "last")
    assert status == 2
    assert "--resume says what is run" in err


def test_run_of_one_kernel_is_resumed_as_such(faked):
    faked.bench.job = lambda inputs: RuntimeError("lost")
    faked("run", "solo", "--kernel", "with")
    faked.bench.job = lambda inputs: Outcome.PASS
    assert faked("run", "--resume", "last")[0] == 0
    run, _ = faked.bench.store.load("last")
    assert (run.base, run.columns, len(run.jobs)) == ("with", ("with",), 1)


def test_break_is_0_only_where_every_job_saw_it(faked):
    faked.bench.job = lambda inputs: Outcome.FAIL if inputs.task.broken else Outcome.PASS
    status, out, _ = faked("run", "solo", "--break")
    assert status == 0
    assert "broken on purpose: 2 of 2 jobs saw it" in out
    run, _ = faked.bench.store.load("last")
    assert run.title == "small, broken on purpose"
    assert "run --break --job" in run.jobs[0].reproduce
    faked.bench.job = lambda inputs: Outcome.PASS if inputs.spec.column == "with" else Outcome.FAIL
    status, out, _ = faked("run", "solo", "--break")
    assert status == 1
    assert "cannot fail: solo@with#1" in out
    faked.bench.job = lambda inputs: Outcome.SKIP
    assert faked("run", "solo", "--break")[0] == 1


def test_variant_is_resumed_as_such(faked):
    labdir.write(faked.bench.root / "kernels" / "config" / "debug.config", "CONFIG_KASAN=y\n")
    faked.bench.job = lambda inputs: RuntimeError("lost")
    faked("run", "solo", "--variant", "debug", "--kernel", "with")
    faked.bench.job = lambda inputs: Outcome.PASS
    assert faked("run", "--resume", "last")[0] == 0
    run, _ = faked.bench.store.load("last")
    assert run.columns == ("with-debug",)
    assert "run --variant debug --job" in run.jobs[0].reproduce


def test_resume_of_guests_of_another_kind_is_refused(faked):
    faked("run", "solo", "--guest", "vng")
    status, _, err = faked("run", "--resume", "last")
    assert status == 2
    assert "hint: --guest vng" in err


def test_json_of_a_run_is_json_alone(faked):
    status, out, err = faked("run", "solo", "--json")
    assert status == 0
    assert len(json.loads(out)["run"]["jobs"]) == 2
    assert "PASS     solo@with#1" in err


@pytest.mark.parametrize("choice", [["solo"], ["duo"], ["solo", "--repeat", "2"], ["solo", "--guest", "vng"]])
@pytest.mark.parametrize("name", ["kpatchlab", "./lab"])
def test_reproduce_lines_can_be_pasted(faked, monkeypatch, choice, name):
    """Also for a lab file of another name, whose selection does not have the scenario."""
    monkeypatch.setenv("KPATCHLAB_PROGRAM", name)
    (faked.bench.root / "my lab.yaml").write_text(labdir.LAB.replace('["*"]', '["solo", "!solo", "duo"]'))
    assert faked("--lab", "my lab.yaml", "run", *choice)[0] == 0
    run, _ = faked.bench.store.load("last")
    for job in run.jobs[:3]:
        words = shlex.split(job.reproduce)
        assert words[:3] == [name, "--lab", "my lab.yaml"]
        faked.bench.log.clear()
        assert faked(*words[1:])[0] == 0
        assert [line for line in faked.bench.log if line.startswith("start")] == [f"start {job.job}"]


def test_reader_that_leaves_does_not_change_a_runs_status(faked, capfd):
    faked.bench.job = lambda inputs: Outcome.FAIL if inputs.spec.column == "with" else Outcome.PASS
    kept = os.dup(1)
    read, write = os.pipe()
    os.close(read)
    os.dup2(write, 1)
    try:
        with pytest.raises(SystemExit) as ended:
            main(["run", "solo"])
    finally:
        os.dup2(kept, 1)
    assert ended.value.code == 1
    assert len(faked.bench.store.load("last")[0].jobs) == 2


def test_second_ctrl_c_ends_at_once(tmp_path):
    code = """
import os, signal, threading
from kpatchlab.cli.running import interruptible
from kpatchlab.run.stages import Settings
threading.Thread(target=threading.Event().wait).start()
settings = Settings()
with interruptible(settings, None):
    os.kill(os.getpid(), signal.SIGINT)
    assert settings.cancel.wait(5)
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(30)
"""
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, timeout=20, check=False)
    assert done.returncode == 130


# --- the other verbs


@pytest.mark.mirror
def test_plan(faked):
    status, out, _ = faked("plan")
    assert status == 0
    assert re.search(r"^kernel:without +to make", out, re.MULTILINE)
    assert re.search(r"^solo@with#1 +job", out, re.MULTILINE)
    assert "14 jobs in 4 columns, 2 kernels: about" in out
    seen = json.loads(faked("plan", "--json", "solo")[1])
    assert [job["id"] for job in seen["jobs"]] == ["solo@without#1", "solo@with#1"]
    assert {step["cached"] for step in seen["steps"]} == {False}


def test_build(faked):
    status, out, _ = faked("build", "with")
    assert status == 0
    assert re.search(r"^with: /", out, re.MULTILINE)
    status, out, _ = faked("build", "--json")
    assert [build["kernel"] for build in json.loads(out)] == ["without", "with"]


def test_build_that_fails_is_status_1(faked):
    faked.bench.kernel = lambda name, ctx: faked.bench.artifact(name, outcome=Outcome.BLOCKED, error="no ';'")
    status, out, _ = faked("build", "with")
    assert (status, out.splitlines()[-1]) == (1, "with: no ';'")


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("kernels", {"without", "with"}),
        ("rootfs", {"base"}),
        ("scenarios", {"solo", "duo"}),
        ("machines", {"default"}),
    ],
)
def test_list(here, call, what, names):
    status, out, _ = call("list", what)
    assert status == 0
    assert names <= {line.split()[0] for line in out.splitlines()[1:]}
    assert {row["name"] for row in json.loads(call("list", what, "--json")[1])} == names


def test_list_of_runs(faked):
    assert faked("list", "runs")[1] == "none\n"
    assert json.loads(faked("list", "runs", "--json")[1]) == []
    faked("run", "solo")
    (row,) = json.loads(faked("list", "runs", "--json")[1])
    assert (row["complete"], row["outcomes"]["pass"], row["exit_code"]) == (True, 2, 0)
    head, line = faked("list", "runs")[1].splitlines()
    assert line.startswith(row["id"])
    assert "{" not in line  # a table for people, not a dump
    assert head.split()[0] == "run"


def test_markup_in_a_description_is_text(here, call):
    text = labdir.SOLO.replace("one guest", '"[red]one[/red] guest"')
    (here / "scenarios" / "solo" / "scenario.yaml").write_text(text)
    assert "[red]one[/red] guest" in call("list")[1]


def test_check(here, call):
    assert call("check") == (0, "no errors\n", "")
    assert json.loads(call("check", "--json")[1]) == {"errors": []}


@pytest.mark.parametrize("form", ["text", "html", "junit", "json"])
def test_report(faked, form):
    faked("run", "solo")
    status, out, _ = faked("report", "--format", form)
    assert status == 0
    if form == "json":
        json.loads(out)
    elif form == "junit":
        ET.fromstring(out)
    else:
        assert "small" in out
    target = faked.bench.root / "deep" / "report"
    status, _, err = faked("report", "-o", str(target), "--format", form)
    assert (status, err) == (2, f"kpatchlab: cannot write {target}: there is no folder {target.parent}\n")
    target.parent.mkdir()
    target.write_text("old")
    status, _, _ = faked("report", "-o", str(target), "--format", form)
    assert status == 0
    assert target.read_text() == out
    assert [path.name for path in target.parent.iterdir()] == ["report"]
    status, _, err = faked("report", "-o", str(target.parent), "--format", form)
    assert (status, err.splitlines()[0]) == (2, f"kpatchlab: {target.parent} is a folder")


def test_report_takes_a_run_by_its_folder(faked, tmp_path):
    faked("run", "solo")
    name = faked.bench.store.ids()[0]
    moved = tmp_path / "elsewhere" / name
    shutil.copytree(faked.bench.store.root / name, moved)
    assert faked("report", str(moved))[0] == 0
    (moved / "run.json").unlink()
    status, _, err = faked("report", str(moved))
    assert (status, err) == (2, f"kpatchlab: {moved}: not a run's folder, there is no run.json in it\n")


def test_mails_are_files_in_a_folder(faked, tmp_path):
    faked("run", "solo")
    status, out, err = faked("report", "--format", "mail", "-o", "letters/")
    assert status == 0
    assert (faked.bench.root / "letters/thread.txt").read_text().startswith("Subject: small: ")
    assert "--maintainers FILE names that of a kernel tree" in err
    tree = tmp_path / "MAINTAINERS"
    tree.write_text("UNIX\nM:\tA <a@example.org>\nF:\tnet/unix/\n")
    words = ("report", "--format", "mail", "--maintainers", str(tree))
    status, out, _ = faked(*words)
    assert (status, out.splitlines()[0].startswith("Subject: small: ")) == (0, True)
    status, out, _ = faked(*words, "--for", "unix")
    assert (status, out.splitlines()[0]) == (0, "To: A <a@example.org>")
    status, _, err = faked(*words, "--for", "UNIXX")
    assert (status, "did you mean 'UNIX'?" in err) == (2, True)
    tree.write_text("nothing")
    assert faked(*words, "-o", "letters/")[0] == 2
    assert faked("report", "--for", "UNIX")[::2] == (2, "kpatchlab: --for is for --format mail\n")


def test_compare(faked):
    faked("run", "solo")
    (older,) = faked.bench.store.ids()
    faked("run")
    (newer,) = set(faked.bench.store.ids()) - {older}  # both can be of one second
    status, out, err = faked("compare", older, "last")
    assert status == 0
    assert out.splitlines()[1].startswith("4 SAME")
    assert f"not compared: client=new,server=old, client=old,server=new of run {newer}" in err or "not compared" in err
    status, out, _ = faked("compare", f"{newer}:without", f"{newer}:with", "--format", "json")
    assert json.loads(out)["comparison"]["columns"] == [f"{newer[-4:]}:without", f"{newer[-4:]}:with"]
    status, _, err = faked("compare", older, f"{newer}:wiht")
    assert (status, err.splitlines()[0]) == (2, f"kpatchlab: run {newer} has no column 'wiht'")
    assert faked("compare", older, older)[0] == 2
    assert faked("compare", older, "none-such")[0] == 2


def test_report_of_a_run_that_there_is_not(faked):
    faked("run", "solo")
    name = faked.bench.store.ids()[0]
    status, _, err = faked("report", name[:-1] + "x")
    assert status == 2
    assert f"nearest: {name}" in err
    assert faked("report", name[-4:])[0] == 0


def test_doctor_without_a_lab(tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        doctor, "examine", lambda found, **_: [doctor.HostCheck("memory", "bad", "too little", "buy some")]
    )
    status, out, _ = call("doctor")
    assert status == 3
    assert "BAD   memory:" in out
    assert "-> buy some" in out
    monkeypatch.setattr(doctor, "examine", lambda found, **_: [doctor.HostCheck("memory", "ok", "enough")])
    assert call("doctor")[0] == 0
    assert json.loads(call("doctor", "--json")[1])[0]["state"] == "ok"


def test_clean_shows_and_prunes(here, call):
    from kpatchlab.cache import Cache

    Cache().get("kernel", "a" * 64, lambda work: (work / "x").write_bytes(bytes(1 << 16)), label="one")
    status, out, err = call("clean", "--max-gib", "0")
    assert status == 0
    assert "one (aaaaaaaaaaaa)" in out
    assert "nothing removed: --yes does it" in err
    assert len(json.loads(call("clean", "--json", "--max-gib", "0")[1])["prune"]) == 1
    assert "removed 1 artifacts" in call("clean", "--max-gib", "0", "--yes")[2]
    assert call("clean")[1].startswith("none\n")


def test_clean_of_runs(faked):
    for _ in range(3):
        faked("run", "solo")
    assert "would remove 2 runs" in faked("clean", "--runs", "1")[2]
    assert "removed 2 runs" in faked("clean", "--runs", "1", "--yes")[2]
    assert len(faked.bench.store.ids()) == 1


def test_new_scenario_is_sound(here, call):
    status, out, _ = call("new", "scenario", "mine")
    assert status == 0
    assert "then: kpatchlab run mine" in out
    assert out.splitlines()[-1] == "and prove that it can fail: kpatchlab run --break mine"
    assert call("check")[:2] == (0, "no errors\n")


def test_a_scenario_that_names_no_files_of_the_kernel_is_noted(here, call):
    call("new", "scenario", "mine")
    note = (
        "note: scenarios/mine/scenario.yaml: names no files of the kernel under `touches`;"
        " `--changed` and `--touching` find it by its systems alone\n"
    )
    assert call("check") == (0, "no errors\n", note)
    assert call("check", "--json")[2] == note
    path = here / "scenarios/mine/scenario.yaml"
    path.write_text(path.read_text().replace("# touches:", "touches:"))
    assert call("check") == (0, "no errors\n", "")
    (here / "lab.yaml").write_text(labdir.LAB.replace('["*"]', "['*', '!mine']"))
    path.write_text(path.read_text().replace("touches:", "# touches:"))
    assert call("check") == (0, "no errors\n", ""), "what the lab does not select needs none"


# --- completion


@pytest.fixture
def typed(here):
    """A program `./lab` in a lab directory, as a user types it."""
    script = here / "lab"
    script.write_text(
        f'#!/bin/sh\nexport PYTHONPATH={PROJECT} KPATCHLAB_PROGRAM=$0\nexec {sys.executable} -m kpatchlab "$@"\n'
    )
    script.chmod(0o755)
    (here / "kpatchlab").write_text(script.read_text().replace(" KPATCHLAB_PROGRAM=$0", ""))
    (here / "kpatchlab").chmod(0o755)
    (here / "other.yaml").write_text("kernels: {whole: old}\n")
    return here


SHELLS = {
    "bash": (
        'eval "$({name} completion bash)"; COMP_WORDS=({words}); COMP_CWORD={last};'
        "f=$(complete -p $(basename {name}) | sed 's/.*-F \\([^ ]*\\).*/\\1/'); $f {name};"
        "printf '%s\\n' \"${{COMPREPLY[@]}}\""
    ),
    "zsh": (
        "compdef(){{ f=$1 }}; compadd(){{ print -l -- $completions }};"
        "_describe(){{ print -l -- $completions_with_descriptions }};"
        'eval "$({name} completion zsh)"; words=({words}); CURRENT={last}+1; $f'
    ),
    "fish": '{name} completion fish | source; complete -C "{words}"',
}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("name", "words", "proposed"),
    [
        ("kpatchlab", "rep", {"report", "reproduce"}),
        ("kpatchlab", "run so", {"solo"}),
        ("./lab", "run --kernel with", {"with", "without"}),
        ("./lab", "run --re", {"--repeat", "--resume"}),
        ("./lab", "report --format json l", {"last"}),
        ("./lab", "run --no-", {"--no-install", "--no-trace"}),
        ("./lab", "run --lab other.yaml --kernel w", {"whole"}),
        ("./lab", "--lab other.yaml run --kernel w", {"whole"}),
    ],
)
def test_completion_completes(typed, shell, name, words, proposed):
    if not shutil.which(shell):
        pytest.skip(f"no {shell}")
    line = SHELLS[shell].format(name=name, words=f"{name} {words}", last=len(words.split()))
    flags = ["--no-config"] if shell == "fish" else ["-f"] if shell == "zsh" else ["--norc"]
    path = f"{typed}:{os.environ['PATH']}"
    done = subprocess.run(
        [shell, *flags, "-c", line], cwd=typed, env={**os.environ, "PATH": path},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert not done.stderr
    assert {re.split(r"[\t:]", entry)[0] for entry in done.stdout.split("\n") if entry} == proposed


def test_completion_in_a_broken_lab_is_silent(here):
    (here / "lab.yaml").write_text("{")
    env = {"_KPATCHLAB_COMPLETE": "bash_complete", "COMP_WORDS": "kpatchlab run --kernel w", "COMP_CWORD": "3"}
    done = program(cwd=here, env=env)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
