"""Kernels with debugging: the variants of a lab, how slow a guest is, and what is found to leak."""

import pytest

from kpatchlab.errors import UserError
from kpatchlab.guest.vm import Exit
from kpatchlab.lab import load
from kpatchlab.model import Outcome
from kpatchlab.plan.jobs import make_plan
from kpatchlab.variants import debug
from tests import labdir

LEAK = b"""\
unreferenced object 0xffff888003a1c600 (size 192):
  comm "python3", pid 211, jiffies 4294904112
  hex dump (first 32 bytes):
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  ................
  backtrace (crc 9d2e1f0a):
    [<00000000e41b0a55>] kmemleak_alloc+0x4b/0x80
    [<00000000d3b1c14d>] kmalloc_trace_noprof+0x2a1/0x330
    [<000000008d2a1f9f>] siw_create_qp+0x1d2/0x8a0 [siw]
unreferenced object 0xffff888003a1c700 (size 8):
  backtrace (crc 0):
    [<000000008d2a1f9f>] siw_create_cq+0x1d2/0x8a0 [siw]
"""


@pytest.fixture
def root(tmp_path):
    labdir.make(tmp_path)
    labdir.write(tmp_path / "kernels" / "config" / "debug.config", "CONFIG_KASAN=y\n")
    return tmp_path


def test_variant_has_other_names_and_one_more_fragment(root):
    found = debug.variant(load.load(root / "lab.yaml"), "debug")
    assert list(found.kernels) == ["without-debug", "with-debug"]
    assert found.base == "without-debug"
    for recipe in found.kernels.values():
        assert recipe.debug
        assert recipe.config == ("config/guest.config", "config/debug.config")
    plan = make_plan(found, choice=("duo",))
    assert plan.columns[0] == "without-debug"
    assert "client=with-debug,server=without-debug" in plan.columns
    assert {role.memory_mib for role in plan.jobs[0].roles} == {768, 1536}


def test_variant_of_a_named_column(root):
    labdir.write(root / "lab.yaml", labdir.LAB + "matrix: {columns: [with, {client: with, server: without}]}\n")
    found = debug.variant(load.load(root / "lab.yaml"), "debug")
    assert found.matrix.columns == ("with-debug", {"client": "with-debug", "server": "without-debug"})


def test_variant_that_there_is_not(root):
    with pytest.raises(UserError, match="there is no variant 'debgu'; did you mean 'debug'"):
        debug.variant(load.load(root / "lab.yaml"), "debgu")


def test_variant_whose_fragment_is_away(tmp_path):
    with pytest.raises(UserError, match="variant debug: there is no kernels"):
        debug.variant(load.load(labdir.make(tmp_path)), "debug")


def test_variant_of_what_debian_built(root):
    labdir.write(
        root / "kernels" / "old.yaml", "source: {type: debian-image, package: linux-image-amd64, suite: sid}\n"
    )
    with pytest.raises(UserError, match="kernel without is built already"):
        debug.variant(load.load(root / "lab.yaml"), "debug")


class Guest:
    """Answers each command with the next of what it was given: seconds, or a whole Exit."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def run(self, argv, **_):
        answer = self.answers.pop(0)
        return answer if isinstance(answer, Exit) else Exit(0, 0, b"", b"", 0, 0, answer, False)


def test_slowness_is_the_middle_of_three_and_the_hosts_speed_falls_out():
    plain = debug.PLAIN_RATIO
    assert debug.slowness(Guest(1, 4 * plain, 10, 40 * plain, 1, 90 * plain)) == pytest.approx(4)
    assert debug.slowness(Guest(1, plain / 2, 1, plain / 2, 1, plain / 2)) == 1


def _said(stdout=b"", status=0, timed_out=False):
    return Exit(status, 0, stdout, b"", len(stdout), 0, 1.0, timed_out)


def test_leaks():
    case = debug.leaks(Guest(_said(LEAK)), "server")
    assert (case.name, case.outcome) == ("leaks: server", Outcome.FAIL)
    assert case.message == "2 objects of 200 bytes in all, made in siw_create_qp"
    assert 'comm "python3"' in case.details
    assert debug.leaks(Guest(_said()), "server").outcome is Outcome.PASS
    assert debug.leaks(Guest(_said(status=9)), "server") is None
    assert debug.leaks(Guest(_said(status=1, timed_out=True)), "server").outcome is Outcome.FAIL
