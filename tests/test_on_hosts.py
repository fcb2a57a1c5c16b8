"""`run --on`: which hosts a run is narrowed to; and who has no other hosts has nothing of Dask."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from kpatchlab.cli.running import placed
from kpatchlab.errors import UserError
from kpatchlab.host.host import Host
from kpatchlab.lab.file import ClusterJobs
from kpatchlab.lab.hosts import HostEntry
from kpatchlab.lab.load import load
from kpatchlab.run import executors
from kpatchlab.run.cluster import of_lab
from kpatchlab.verdict import ratios
from tests import labdir

ENTRIES = {
    "here": HostEntry(ssh="local"),
    "a": HostEntry(ssh="a.example.org", tags=("big",)),
    "b": HostEntry(
        ssh="me@b.example.org", tags=("big", "new"), cpus=3, memory_gib=1.5, cache="/srv/x", share="/net/lab"
    ),
}


@pytest.fixture
def lab(tmp_path):
    from dataclasses import replace

    return replace(load(labdir.make(tmp_path / "lab")), hosts=ENTRIES)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ((), ["here", "a", "b"]),
        (("a",), ["a"]),
        (("big",), ["a", "b"]),
        (("b", "here"), ["here", "b"]),
        (("local",), []),
        (("local", "new"), ["b"]),
    ],
)
def test_hosts_and_tags_narrow_a_run(lab, words, names):
    assert list(placed(lab, words).hosts) == names


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("bog",), "there is no such host, did you mean 'big'"),
        (("tls://head:8786", "a"), "a cluster that stands is used alone"),
        (("tcp://head:8786",), "a scheduler's URL is tls://HOST:PORT"),
    ],
)
def test_what_is_no_host_is_one_line(lab, words, message):
    with pytest.raises(UserError) as refused:
        placed(lab, words)
    assert message.split(",")[0] in refused.value.message


def test_a_cluster_that_stands_is_used_in_place_of_hosts(lab, monkeypatch):
    narrowed = placed(lab, ("tls://head:8786",))
    assert narrowed.hosts == {}
    assert narrowed.executor == ClusterJobs(type="cluster", scheduler="tls://head:8786")
    with pytest.raises(UserError, match="no file with the ca for tls://head:8786"):
        of_lab.on_cluster(narrowed, Host(SimpleNamespace(root=None)))


def test_hosts_are_launched_as_their_entries_say(lab, tmp_path):
    host = Host(SimpleNamespace(root=tmp_path))
    here, a, b = (of_lab.launcher(name, entry, host) for name, entry in ENTRIES.items())
    assert here.shares
    assert not a.shares
    assert (b.cpus, b.memory_mib, b.cache, b.share) == (3, 1536, "/srv/x", "/net/lab")


def test_only_this_host_is_no_cluster(lab, monkeypatch):
    made = []
    rows = {name: lambda lab, host, name=name: made.append(name) for name in executors.EXECUTORS}
    monkeypatch.setattr(executors, "EXECUTORS", rows)
    for words in ((), ("here",), ("local",), ("a",)):
        executors.executor_of(placed(lab, words), None)
    assert made == ["hosts", "local", "local", "hosts"]


def test_without_other_hosts_nothing_of_dask_is_imported():
    code = "import sys; from kpatchlab.run import session; from kpatchlab.cli import main, running, run\n"
    code += "print([name for name in sys.modules if name.split('.')[0] in ('dask', 'distributed', 'cryptography')])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == "[]\n"


def figures(*jobs):
    """Return rows of figures of jobs on (column, host, value)."""
    metric = {column: [] for column, _, _ in jobs}
    for number, (column, host, value) in enumerate(jobs):
        said = SimpleNamespace(name="rate", unit="MiB/s", direction="higher", value=value)
        metric[column].append(SimpleNamespace(metrics=(said,), mode="time (TCG)", host=host, repeat=number // 2))
    group = SimpleNamespace(name="solo", jobs=metric)
    return list(ratios.metric_rows(SimpleNamespace(base="without", groups=(group,))))


def test_figures_of_two_hosts_are_never_compared():
    one, other = figures(("without", "a", 10.0), ("with", "b", 20.0))
    assert (one.title, other.title) == ("rate (a)", "rate (b)")
    assert one.lacking == ("with",)
    assert other.figures["with"].ratio is None
    (row,) = figures(("without", "a", 10.0), ("with", "a", 20.0))
    assert (row.title, row.figures["with"].ratio) == ("rate", 2.0)
