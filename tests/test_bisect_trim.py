"""What a search leaves out of each step: modules that its criterion cannot need, and configuring the same once more."""

from __future__ import annotations

import pytest

from kpatchlab.bisect import trim
from kpatchlab.bisect.criterion import Criterion
from kpatchlab.build import config
from kpatchlab.build.trim import SCRIPT
from kpatchlab.lab.load import load
from tests import labdir
from tests.bisect_support import search, states
from tests.fake_stages import local

pytestmark = pytest.mark.toy

LOCALMODCONFIG = """\
#!/usr/bin/env perl
# Like the kernel's: prints .config without the modules that are not in $LSMOD.
open(my $in, '<', $ENV{LSMOD}) || die;
my %kept = map { uc((split)[0]) => 1 } <$in>;
open(my $config, '<', '.config') || die;
while (<$config>) {
    if (/^CONFIG_(\\w+)=m/ && !$kept{$1}) { print "# CONFIG_$1 is not set\\n" } else { print }
}
"""


@pytest.fixture
def history(lab):
    """A history whose tree has localmodconfig, with the fault in its fourth commit."""
    lab.commit("tool", LOCALMODCONFIG, SCRIPT)
    return lab.grow("printk", "module", "fault", "printk", "comment")


def objects(state):
    return sum(one["objects"] for one in state["told"])


def test_modules_that_the_scenario_does_not_name_are_not_compiled(history):
    labdir.write(history.root / "scenarios/solo/run.sh", "#!/bin/sh\nmodprobe delta\n", 0o755)
    status, out, err = search(history)
    assert status == 0, out + err
    assert f"culprit: {history.commits[4][:12]}" in out
    (state,) = states(history)
    assert sorted(state["trimmed"]) == ["ALPHA", "BETA", "GAMMA"]
    assert "without 3 symbols of modules that it cannot need" in out
    first = next(history.root.glob("cache/bisect/*/tree/obj-*"))
    assert {path.stem for path in first.rglob("*.ko")} == {"delta"}
    assert not list(first.parent.glob("obj-trim-*"))


def test_the_whole_configuration_on_demand_and_where_it_lies_built(history):
    status, out, err = search(history, "--whole-config")
    assert status == 0, out + err
    status, out, err = search(history)  # its objects lie there: fewer modules would be a first build once more
    assert status == 0, out + err
    whole, again = states(history)
    assert (whole["trimmed"], again["trimmed"]) == ([], [])
    assert len(list(history.root.glob("cache/bisect/*/tree/obj-*"))) == 1


def test_fewer_objects_are_compiled(history):
    assert search(history)[0] == 0
    (trimmed,) = states(history)
    assert search(history, "--whole-config")[0] == 0
    assert sorted(trimmed["trimmed"]) == ["ALPHA", "BETA", "DELTA", "GAMMA"]
    # both objects of the core come from ccache the second time, so all that is compiled are the modules
    assert objects(states(history)[1]) >= 5


def test_a_fault_that_needs_a_module_after_all_is_found_with_the_whole_configuration(history, monkeypatch):
    """The scenario does not name the module: the bad end does not fail without it, and the search begins anew."""
    run, job = history.run_job, history.job

    def needs_alpha(inputs):
        kernel = inputs.artifact(next(iter(inputs.spec.placement.values())))
        history.job = (lambda _: job(b"")) if "ALPHA=m" not in (kernel / "config").read_text() else job
        return run(inputs)

    local(monkeypatch, needs_alpha)
    status, out, err = search(history)
    assert status == 0, out + err
    assert "the bad end does not fail" in out
    assert "once more with all modules of the configuration" in out
    assert f"culprit: {history.commits[4][:12]}" in out
    (state,) = states(history)
    assert state["trimmed"] == []


def test_what_a_criterion_can_need(tmp_path):
    root = labdir.make(tmp_path).parent
    labdir.write(root / "scenarios/duo/client.py", "#!/usr/bin/env python3\nimport far\n", 0o755)
    labdir.write(root / "scenarios/lib/far.py", "import nearer\n")
    labdir.write(root / "scenarios/lib/nearer.py", "NAME = 'rds_tcp'\n")
    labdir.write(root / "scenarios/lib/other.py", "NAME = 'smc'\n")
    labdir.write(root / "scenarios/lib/prepare/siw.sh", "#!/bin/sh\nmodprobe ib_uverbs\n", 0o755)
    found = trim.wanted_modules(load(root / "lab.yaml"), Criterion("case", ("duo",)))
    assert {"rds_tcp", "ib_uverbs", "virtio_net"} <= found.words
    assert "smc" not in found.words
    assert trim.wanted_modules(load(root / "lab.yaml"), Criterion("build")) is None
    assert {"tls", "erofs"} <= trim.wanted_modules(load(root / "lab.yaml"), Criterion("build", module="tls")).words


def test_a_step_is_configured_anew_only_where_what_decides_differs(lab, monkeypatch):
    real, count = config.configure, []
    monkeypatch.setattr(config, "configure", lambda *words: count.append(1) or real(*words))
    lab.grow("printk", "fault", "printk", "comment")
    assert search(lab)[0] == 0
    assert len(count) == 1
    kconfig = (lab.tree.tree / "drivers/Kconfig").read_text()
    lab.commit("symbol", 'config NEWER\n\ttristate "Newer"\n', "drivers/Kconfig")
    lab.commit("printk")
    count.clear()
    where = ["--tree", str(lab.tree.tree), "--good", lab.commits[-3], "--bad", "main", "--build"]
    status, _, err = lab.call("bisect", *where)
    assert (status, "does not fail" in err) == (2, True)
    assert len(count) == 1  # from the commits without the symbol to those with it, and the good end lies in the cache
    assert kconfig in (lab.tree.tree / "drivers/Kconfig").read_text()


def test_a_configuration_that_somebody_edited_is_made_anew(lab, monkeypatch):
    lab.commit("fault")
    assert search(lab)[0] == 0
    (made,) = lab.root.glob("cache/bisect/*/tree/obj-*/.config")
    made.write_text(made.read_text().replace("CONFIG_DELTA=m\n", ""))
    lab.commit("printk")
    assert search(lab)[0] == 0
    assert "CONFIG_DELTA=m" in made.read_text()
