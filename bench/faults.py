"""One history with six faults in it, and a search for each: which commit is named, and what it costs.

The tree of kernels/tiny.yaml becomes a repository with --commits commits on top. Six of them bring a fault: sendfile
into TCP hangs, names of AF_UNIX sockets leak, soft-iWARP oopses when it transmits, writes to AF_UNIX streams take about
5 % more instructions, what is spliced out of AF_UNIX is wrong in one run of three, and a module does not compile. The
others are harmless. The bad end has all of them, and each search must find its own. A search uses what those
before it have built; the first one builds the tree, with soft-iWARP on top of the smallest configuration.

It is one round, since a second one would find every kernel built.
"""

from __future__ import annotations

import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchkit import labs, searches
from benchkit.rounds import last_line, parser, run, say

from kpatchlab.build import BuildContext
from kpatchlab.cache import Cache
from kpatchlab.errors import LabError
from kpatchlab.host.host import Host

SCENARIOS = labs.CLONE / "tests/data/faults"
SYMBOLS = {"INFINIBAND": "m", "INFINIBAND_ADDR_TRANS": "y", "INFINIBAND_USER_ACCESS": "m", "RDMA_SIW": "m"}


@dataclass(frozen=True, slots=True)
class Fault:
    """A commit that breaks something, as an edit; `at` is its place in the history as a share, `words` what is asked.

    `after`: the text stands behind this one in the file, which may have it several times.
    """

    subject: str
    at: float
    file: str
    old: str
    new: str
    words: tuple[str, ...]
    after: str = ""

    def commit(self, tree: Path) -> str:
        """Make the commit."""
        path = tree / self.file
        head, mark, tail = path.read_text().partition(self.after) if self.after else ("", "", path.read_text())
        if self.old not in tail:
            raise LabError(f"{self.file} has no {self.old!r}")
        path.write_text(head + mark + tail.replace(self.old, self.new, 1))
        return searches.commit(tree, self.subject)


FAULTS = {
    "build break": Fault(
        "veth: use a header that is to come", 0.45, "drivers/net/veth.c",
        "#include <linux/module.h>\n", "#include <linux/module.h>\n#include <linux/veth-to-come.h>\n",
        ("--build", "--module", "veth"),
    ),
    "hang": Fault(
        "tcp: wait for pages that do not begin at an even place", 0.7, "net/ipv4/tcp.c",
        "\tcopied = 0;\n", "\tcopied = 0;\n\tif (offset & 1)\n\t\tschedule_timeout_killable(MAX_SCHEDULE_TIMEOUT);\n",
        ("--scenario", "sendfile"), after="ssize_t do_tcp_sendpages(",
    ),
    "leak": Fault(
        "af_unix: leave the address to whoever holds it", 0.2, "net/unix/af_unix.c",
        "\tif (u->addr)\n\t\tunix_release_addr(u->addr);\n", "\tu->addr = NULL;\n",
        ("--scenario", "leak"), after="static void unix_sock_destructor(",
    ),
    "oops": Fault(
        "RDMA/siw: look at the next memory as well", 0.9, "drivers/infiniband/sw/siw/siw_qp_tx.c",
        "mem = wqe->mem[sge_idx];", "mem = wqe->mem[sge_idx + 1];",
        ("--scenario", "siw"), after="static int siw_tx_hdt(",
    ),
    "flaky corruption": Fault(
        "af_unix: splice from even places, now and then", 0.6, "net/unix/af_unix.c",
        "\treturn skb_splice_bits(skb, state->socket->sk,\n\t\t\t       UNIXCB(skb).consumed + skip,\n",
        "\tstatic u32 dice;\n\n\tif (!dice)\n\t\tdice = (u32)(ktime_get_real_ns() >> 10) % 3 + 1;\n"
        "\treturn skb_splice_bits(skb, state->socket->sk,\n"
        "\t\t\t       (UNIXCB(skb).consumed + skip) & ~(dice == 1),\n",
        ("--scenario", "splice"),
    ),
    "5 % slower": Fault(
        "af_unix: look twice at the head of what is written", 0.35, "net/unix/af_unix.c",
        "\t\tunix_state_lock(other);\n",
        "\t\tskb_copy_bits(skb, 0, unix_seen, min_t(int, size, sizeof(unix_seen)));\n\t\tunix_state_lock(other);\n",
        ("--scenario", "speed", "--metric", "unix_stream", "--bound", "1.02"),
        after="static char unix_seen[1152] __maybe_unused;\n",
    ),
}  # fmt: skip
SEEN = "static int unix_stream_sendmsg(struct socket *sock, struct msghdr *msg,\n"
"""The definition, not its declaration: what the slow path writes to stands before it."""


def main() -> None:
    """Make the history, search, and print a line for each."""
    options = parser(__doc__, rounds=1)
    options.add_argument("--commits", type=int, default=64, help="how many commits the range has")
    options.add_argument("--fault", action="append", choices=list(FAULTS), help="only this one; may be repeated")
    options.add_argument("--folder", type=Path, help="for repository, lab and results: kept, and used again if there")
    options.add_argument("--confidence", default="0.95", help="of each search: the probability at which it stops")
    given = options.parse_args()
    chosen = given.fault or list(FAULTS)
    cache = Cache()
    (cache.root / "tmp").mkdir(parents=True, exist_ok=True)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="bench-faults-", dir=cache.root / "tmp"))
    context = BuildContext(cache, labs.CLONE, jobs=Host.build_jobs("auto"))
    try:
        tree, path = folder / "linux", folder / "lab/lab.yaml"
        if not path.exists():
            say("the history")
            folder.mkdir(parents=True, exist_ok=True)
            history(tree, context, given.commits)
            scenarios = {path.name: searches.scenario(path) for path in SCENARIOS.iterdir()}
            searches.write_lab(folder / "lab", tree, scenarios, SYMBOLS)
        rows = [line.split(" ", 1) for line in searches.git(tree, "log", "--reverse", "--format=%H %s").splitlines()]
        by_subject = {subject: commit for commit, subject in rows}
        lab = searches.Lab(path, tree, rows[0][0], rows[-1][0])
        right = sum(searched(lab, name, by_subject[FAULTS[name].subject], given.confidence) for name in chosen)
    finally:
        if not given.folder:
            context.discard(folder)
    last_line(commits=str(len(rows) - 1), faults_named_right=f"{right}/{len(chosen)}")


def history(tree: Path, context: BuildContext, count: int) -> None:
    """Make the repository: the good end, and so many commits on top of it."""
    searches.base(tree, context)
    places = {max(1, round(fault.at * count)): name for name, fault in FAULTS.items()}
    for number in range(1, count + 1):
        if number == 1:  # room for what the slow path writes to, in a commit that is harmless itself
            path = tree / "net/unix/af_unix.c"
            path.write_text(path.read_text().replace(SEEN, f"static char unix_seen[1152] __maybe_unused;\n\n{SEEN}", 1))
            searches.commit(tree, "af_unix: room for what was seen")
        elif number in places:
            FAULTS[places[number]].commit(tree)
        else:
            searches.harmless(tree, number)


def searched(lab: searches.Lab, name: str, culprit: str, confidence: str) -> bool:
    """Search for one fault, print what came of it, and return whether its commit was named."""
    say(name)
    began = time.monotonic()
    # All searches have the whole configuration, so that each finds the objects of those before it.
    done = lab.bisect(*FAULTS[name].words, "--confidence", confidence, "--whole-config")
    took = time.monotonic() - began
    right = done.status == 0 and f"culprit: {culprit[:12]}" in done.stdout
    state = lab.state()
    runs = sum(not one["same_as"] for one in state["told"])
    print(
        f"{name:17} {'right' if right else 'WRONG'}: {lab.steps(state)} steps, {runs} runs,"
        f" {sum(one['objects'] for one in state['told'])} objects compiled, {took:.0f} s",
        flush=True,
    )
    reasons = [one["reason"] for one in state["told"] if one["commit"] == culprit]
    if slower := [float(match[1]) for text in reasons if (match := re.search(r"worse by a factor of ([\d.]+)", text))]:
        print(f"    its commit is worse by a factor of {median(slower):.3f} (median of {len(slower)} runs)", flush=True)
    if not right:
        wanted = ("culprit:", "probability", "one of", "bad end", "kpatchlab:", "hint:")
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(wanted)]
        print("\n".join(f"    {line}" for line in [*said, f"wanted: {culprit[:12]}"]), flush=True)
    return right


if __name__ == "__main__":
    run(main)
