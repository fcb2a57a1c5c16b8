"""Jobs on hosts that are reached by SSH: real sshd, TLS and Dask in network namespaces; QEMU is pretended."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from kpatchlab.errors import LabWarning
from kpatchlab.lab.hosts import HostEntry
from kpatchlab.model import Outcome
from kpatchlab.run import process
from kpatchlab.run.cluster import ssh
from kpatchlab.run.executors import executor_of
from tests import test_executor_contract as contract
from tests.ssh_hosts import hosts

pytestmark = pytest.mark.hosts
site = contract.site


@pytest.fixture
def rack(site, monkeypatch):
    """Two hosts, and a lab that names them; the copy of the lab that they get is the site's."""
    env = {"PYTHONPATH": f"{process.PACKAGE}:{os.pathsep.join(sys.path)}", "PATH": os.environ["PATH"]}

    def brought_up(connection, entry, cache):
        return SimpleNamespace(python=sys.executable, env=env, cache=entry.cache)

    monkeypatch.setattr(ssh, "bring_up", brought_up)
    with hosts("a", "b") as made:
        entries = {name: HostEntry.model_validate(host.entry) for name, host in made.items()}
        site.lab = dataclasses.replace(site.lab, hosts=entries)
        yield SimpleNamespace(site=site, made=made, lab=site.lab)


def test_a_lab_with_hosts_runs_on_them_and_leaves_nothing_there(rack):
    site = rack.site
    with executor_of(rack.lab, site.host) as executor:
        jobs, folder = site.run(executor, "says", "pair", "oops")
    assert {name: job.outcome for name, job in jobs.items()} == {
        "says1": Outcome.PASS, "says2": Outcome.PASS, "pair": Outcome.FAIL, "oops": Outcome.CRASH,
    }  # fmt: skip
    assert {job.host for job in jobs.values()} <= {"a", "b"}
    assert b"done 2" in (folder / jobs["says2"].guests[0].console).read_bytes()
    assert " on a" in site.out.getvalue() or " on b" in site.out.getvalue()
    for host in rack.made.values():
        end = time.monotonic() + 10
        while (
            host.commands() and time.monotonic() < end
        ):  # the watcher's last look at what it ended, a fifth of a second
            time.sleep(0.1)
        assert host.commands() == []
        assert not list((host.cache / "tls").glob("*"))
        assert not list((host.cache / "tmp").glob("job-*"))


def test_a_host_that_has_the_cache_mounted_is_sent_nothing(rack):
    def sent(name, share):
        """Run jobs on one host with a share; return what was sent to it."""
        entry = rack.lab.hosts[name].model_copy(update={"share": share})
        with executor_of(dataclasses.replace(rack.lab, hosts={name: entry}), rack.site.host) as executor:
            jobs, _ = rack.site.run(executor, "says")
            assert {job.outcome for job in jobs.values()} == {Outcome.PASS}
            return dict(executor._hub.shelf.sent_bytes)

    assert not sent("a", str(rack.site.host.cache.root))
    with pytest.warns(LabWarning, match="host b: no artifact of this lab is in /nowhere, its `share`"):
        assert sent("b", "/nowhere")


def test_a_host_that_is_killed_whole_costs_no_job(rack):
    site = rack.site

    def kill():
        end = time.monotonic() + 120
        while time.monotonic() < end and not any("pretend_qemu" in line for line in rack.made["a"].commands()):
            time.sleep(0.1)
        rack.made["a"].kill()

    killer = threading.Thread(target=kill)
    with executor_of(rack.lab, site.host) as executor:
        killer.start()
        jobs, _ = site.run(executor, "says", "pair", "lacks")
        killer.join()
    assert {job.outcome for job in jobs.values()} <= {Outcome.PASS, Outcome.FAIL, Outcome.SKIP}
    assert "b" in {job.host for job in jobs.values()}
