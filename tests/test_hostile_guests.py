"""Guests whose kernel or programs say what nobody else says: it is the kernel's, never the lab's own fault."""

import pytest
from test_job import GOOD, bench, ended  # noqa: F401 - a fixture

from kpatchlab.build.kconfig import Kconfig
from kpatchlab.build.traceable import _listed
from kpatchlab.jsonable import from_json, to_json
from kpatchlab.model import JobResult, Outcome
from kpatchlab.plan.needs import _lacking_symbols
from kpatchlab.run import leftovers

BAD = b"KTAP version 1\n1..1\nnot ok 1 - data\n"
LONG = "9" * 5000
"""int() of Python refuses more than 4,300 digits."""
LARGE = "9" * 30
"""A database and JSON take 63 bits."""

PROC = {
    "/proc/meminfo": "MemTotal:  {0} kB\nMemFree:  {0} kB\nSlab: {0} kB\n",
    "/proc/zoneinfo": "  count: {0}\n",
    "/proc/slabinfo": "x {0} {0}\ny ² ²\n",
    "/proc/net/protocols": "TCP 1 {0} {0} no\nUDP 1 ² ² no\n",
    "/proc/modules": "x 1 {0}\ny 1 ²\n",
    "/proc/net/dev": "",
    "/proc/sys/fs/file-nr": "{0} 0 0",
    "/proc/loadavg": "0 0 0 1/{0} 1",
}


@pytest.mark.parametrize("number", ["", "x", "-1", "1e999", "nan", "²", LARGE, LONG])
def test_figures_of_a_guest_that_are_none_cost_nothing(number):
    found = leftovers.amounts({name: text.format(number) for name, text in PROC.items()})
    assert all(0 <= value < 1e19 for name, value in found.items() if name != "network devices"), found
    assert leftovers.amounts({"/proc/meminfo": "Slab: 1 kB\n"}) == {}


SAID = {
    "what it sent": BAD + f"# sent {LONG} bytes in 1 calls\n".encode(),
    "much that it sent": BAD + f"# sent {LARGE} bytes in {LARGE} calls\n".encode(),
}


@pytest.mark.parametrize("name", SAID)
def test_no_number_of_a_script_makes_a_failure_the_labs(bench, name):  # noqa: F811
    _holds(bench({"run.sh": SAID[name]}))


@pytest.mark.parametrize("number", [LONG, LARGE])
def test_no_number_of_a_guest_makes_a_failure_the_labs(bench, number):  # noqa: F811
    def drops(guest, _):
        guest.console.bytes += f"** {number} printk messages dropped **\n".encode()
        return BAD

    def reach(_, argv):
        return f"tcp_sendmsg {number}\n".encode() if argv[1] == "read" else b""

    def leak(_, argv):
        return f"unreferenced object 0x1 (size {number}):\n".encode() if "sleep" in argv[-1] else b""

    turns = iter(({}, {name: text.format(number) for name, text in PROC.items()}))
    answers = {"run.sh": drops, "reach": reach, "sh": leak, "look": lambda _: next(turns)}
    _holds(bench(answers, kernel={"debug": True}, reach=[{"function": "tcp_sendmsg", "min": 1}]))


def test_no_name_in_a_kernels_symbols_makes_a_failure_the_labs(bench, tmp_path):  # noqa: F811
    (tmp_path / "saved/symbols").write_bytes(b"\xff\ntcp_sendmsg\n")
    _holds(bench({"run.sh": BAD}, reach=[{"function": "tcp_sendmsg", "min": 1, "if_symbol": "tcp_sendmsg"}]))


def _holds(result):
    """Fail where a job with a check that failed is anything else, or where nobody can read it again."""
    assert result.outcome is Outcome.FAIL, result.message
    assert from_json(JobResult, to_json(result)) == result


def test_a_list_of_symbols_that_is_none_says_nothing(tmp_path):
    path = tmp_path / "System.map"
    path.write_text("\n \nx\n0 T tcp_sendmsg\n")
    assert list(_listed(path, [])) == [("", "T", "tcp_sendmsg")]
    assert _lacking_symbols(path, ["tcp_sendmsg", "other"]) == ["the symbol other"]


@pytest.mark.parametrize(
    "text",
    ["config A\n\tbool 'a'\n\tdepends on " + rest + "\n" for rest in (
        "", "(", "(" * 5000, ")", "!" * 5000, "A = ", "= A", "A >= 010", f"A < {LONG}", f"A < 0x{LONG}", '"', "&& A",
        "A ||", "A " * 5000,
    )],
)  # fmt: skip
def test_no_kconfig_is_a_traceback(tmp_path, text):
    (tmp_path / "Kconfig").write_text(text)
    assert Kconfig(tmp_path, "x86").why("A", "y", {"A": "1"})


def test_a_kconfig_that_names_itself_is_read_once(tmp_path):
    (tmp_path / "Kconfig").write_text('config A\n\tbool "a"\nsource "Kconfig"\nsource "./d/../Kconfig"\nsource "k0"\n')
    for number in range(1200):
        (tmp_path / f"k{number}").write_text("if B\n" * 200 + f'config B{number}\nsource "k{number + 1}"\n')
    found = Kconfig(tmp_path, "x86")
    assert len(found.symbols["A"]) == 1
    assert 1 < len(found.symbols) < 100
