"""How many kernel reports of a public collection the lab finds, and whether it names the function to blame.

FOLDER has syzkaller's report tests for Linux, `pkg/report/testdata/linux/report` of github.com/google/syzkaller, which
has a licence of its own. Each file is a log with the title that is wanted above it, or without one where the log has
no report. What syzkaller says itself (its executor failed, the machine rebooted) is left out.

  found       files with a title in which the lab finds a report
  false       files without a title in which it finds one
  kind_right  found ones whose first report has a kind that the wanted title allows
  same        whole reports whose title is to name a function, and names that one
  machinery   those that name one of syzkaller's own list of functions to skip instead (FOLDER/../../../linux.go);
              without that file: one that the lab names where three and more different ones are wanted
  other       those that name another function, mostly of the same stack

With --against, the parser reads a log of `--mib` MiB, the collection over and over, in this tree and in another
worktree of the lab, in turn, each in a process of its own.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchkit.rounds import interleaved, last_line, parser, run, show

from kpatchlab import proc
from kpatchlab.errors import UserError
from kpatchlab.evidence.splats import find_splats
from kpatchlab.model import Splat

CLONE = Path(__file__).resolve().parents[1]
PARSE_S = 1800.0
SEVERAL = 3
NOT_THE_KERNELS = re.compile(r"SYZFAIL|SYZFATAL|go runtime error|unexpected kernel reboot|lost connection|no output")
FUNCTION = r"(?P<function>[A-Za-z_<][\w.]*)"
WANTED_FUNCTION = re.compile(rf".* in {FUNCTION}(?: / .*)?$")
SYSCALL = re.compile(r"(?:__(?:x64|ia32|arm64|riscv|s390x|se|do)_)?(?:compat_)?(?:__se_|__do_)?(?:sys|SyS|SYSC)_(?=\w)")
"""What syzkaller leaves out of a system call's name."""
KINDS = (
    (r"KASAN: ", {"kasan"}),
    (r"KCSAN: ", {"kcsan"}),
    (r"UBSAN: ", {"ubsan"}),
    (r"KMSAN: |KFENCE: ", {"bug"}),
    (r"memory leak", {"kmemleak"}),
    (r"INFO: task ", {"hung-task"}),
    (r"INFO: rcu ", {"rcu-stall"}),
    (r"BUG: soft lockup", {"soft-lockup"}),
    (r"BUG: workqueue lockup", {"workqueue"}),
    (r"BUG: corrupted list", {"list"}),
    (r"WARNING: refcount bug", {"refcount", "warning"}),
    (r"possible deadlock|inconsistent lock|(?:INFO|WARNING): (?:suspicious|trying to|possible)", {"lockdep"}),
    (r"(?:BUG|WARNING): (?:bad unlock|held lock|still has|nested lock|lock held)", {"lockdep"}),
    (r"BUG: (?:sleeping|scheduling)", {"lockdep"}),
    (r"kernel panic: ", {"panic", "hung-task", "oops", "warning"}),
    (r"general protection fault|BUG: (?:unable to handle|stack guard)|divide error|PANIC: |stack segment", {"oops"}),
    (r"Unhandled fault|Alignment trap|Internal error|kernel stack overflow|int3", {"oops"}),
    (r"kernel BUG", {"bug"}),
    (r"WARNING in ", {"warning"}),
    (r"BUG: ", {"bug", "oops"}),
)
_CHILD = """
import sys, time
try:
    from kpatchlab.evidence.splats import find_splats
except ImportError:  # as it was called before
    from kpatchlab.console import find_splats
log = open(sys.argv[1], "rb").read()
begin = time.process_time()
found = find_splats(log)
print(time.process_time() - begin, len(found))
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """One file: the title that is wanted, "" for none; `cut` where syzkaller itself calls the report corrupted."""

    name: str
    title: str
    cut: bool
    log: bytes

    @property
    def function(self) -> str:
        """The function that a whole report is to be named after; "" where there is none."""
        match = WANTED_FUNCTION.match(self.title)
        return match["function"] if match and not self.cut and match["function"] != "corrupted" else ""


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, rounds=3)
    arguments.add_argument("folder", type=Path, metavar="FOLDER", help="syzkaller's pkg/report/testdata/linux/report")
    arguments.add_argument("--against", type=Path, metavar="WORKTREE", help="another worktree of the lab, for the time")
    arguments.add_argument("--mib", type=int, default=100, help="size of the log for the time")
    arguments.add_argument("--show", action="store_true", help="print each file that is not as wanted")
    options = arguments.parse_args()
    samples = read(options.folder)
    found = {sample.name: find_splats(sample.log) for sample in samples}
    wanted = [sample for sample in samples if sample.title]
    missed = [sample for sample in wanted if not found[sample.name]]
    false = [sample for sample in samples if not sample.title and found[sample.name]]
    kinds = [(kind_is_right(sample, found[sample.name]), sample) for sample in wanted if found[sample.name]]
    named = [(sample, named_function(found[sample.name])) for sample in wanted if sample.function]
    skipped = skip_list(options.folder) or repeated(named)
    how = Counter(judged(sample.function, function, skipped) for sample, function in named)
    if options.show:
        for sample in (*missed, *false, *(sample for right, sample in kinds if not right)):
            print(f"{sample.name}: {sample.title or 'no report'}: {titles(found[sample.name])}")
        for sample, function in named:
            if (word := judged(sample.function, function, skipped)) != "same":
                print(f"{sample.name}: {word}: {sample.title}: {titles(found[sample.name])}")
    times: dict[str, float | None] = {"parser_s": None, "other_s": None, "ratio": None}
    if options.against:
        times = parser_times(samples, options.mib << 20, options.against, options.rounds)
    last_line(
        found=f"{len(wanted) - len(missed)}/{len(wanted)}",
        false=f"{len(false)}/{len(samples) - len(wanted)}",
        kind_right=f"{sum(right for right, _ in kinds)}/{len(kinds)}",
        same=f"{how['same']}/{len(named)}",
        machinery=how["machinery"],
        other=how["other"],
        none=how["none"],
        **times,
    )


def read(folder: Path) -> list[Sample]:
    """Return the samples of a folder.

    Raises:
        UserError: it has none.
    """
    samples = []
    for path in sorted(folder.glob("*")):
        head, _, log = path.read_bytes().partition(b"\n\n")
        titles = re.findall(r"^TITLE: (.*)", head.decode("utf-8", "replace"), re.MULTILINE)
        title = titles[0] if titles else ""
        if not NOT_THE_KERNELS.match(title):
            samples.append(Sample(path.name, title, b"\nCORRUPTED: Y" in head, log.partition(b"\n\nREPORT:\n")[0]))
    if not any(sample.title for sample in samples):
        hint = "take pkg/report/testdata/linux/report of github.com/google/syzkaller"
        raise UserError(f"{folder}: no report tests of syzkaller", hint=hint)
    return samples


def titles(splats: Sequence[Splat]) -> str:
    """Return what was found, in words."""
    return "; ".join(f"[{splat.kind}] {splat.title}" for splat in splats) or "nothing found"


def kind_is_right(sample: Sample, splats: Sequence[Splat]) -> bool:
    """Whether the first report has a kind that fits the wanted title; also where no kind is known for that."""
    fitting = next((kinds for pattern, kinds in KINDS if re.match(pattern, sample.title)), None)
    return fitting is None or splats[0].kind in fitting


def named_function(splats: Sequence[Splat]) -> str:
    """Return the function that the first report is named after."""
    match = re.match(rf".* in {FUNCTION}(?: / .*)?$", splats[0].title) if splats else None
    return match["function"] if match else ""


def skip_list(folder: Path) -> Callable[[str], bool] | None:
    """Return whether syzkaller's own list leaves a function out of titles; None without its source."""
    source = folder.resolve().parents[2] / "linux.go"
    if not source.is_file():
        return None
    listed = re.search(r"skipPatterns: \[\]string\{(.*?)\n\t\},", source.read_text(encoding="utf-8"), re.DOTALL)
    words = re.findall(r'^\t\t["`](.*)["`],', listed[1], re.MULTILINE) if listed else []
    pattern = re.compile("|".join(word.replace("\\\\", "\\") for word in words) or "$^")
    return lambda function: bool(pattern.search(function))


def repeated(named: Iterable[tuple[Sample, str]]) -> Callable[[str], bool]:
    """Return whether the lab names a function where several others are wanted, and it itself never is."""
    wanted: dict[str, set[str]] = defaultdict(set)
    every = set()
    for sample, function in named:
        wanted[function].add(sample.function)
        every.add(sample.function)
    return lambda function: function not in every and len(wanted[function]) >= SEVERAL


def judged(wanted: str, function: str, is_machinery: Callable[[str], bool]) -> str:
    """Return one word on a title's function."""
    if SYSCALL.sub("", function) == SYSCALL.sub("", wanted):
        return "same"
    if not function:
        return "none"
    return "machinery" if is_machinery(function) else "other"


def parser_times(samples: Sequence[Sample], size: int, other: Path, rounds: int) -> dict[str, float | None]:
    """Return the medians of both parsers' processor time on a log of `size` bytes, and their ratio."""
    whole = b"\n".join(sample.log for sample in samples) + b"\n"
    with tempfile.NamedTemporaryFile(prefix="kpatchlab-splats-") as log:
        log.write((whole * (size // len(whole) + 1))[:size])
        log.flush()

        def parse(tree: Path) -> Callable[[], float]:
            words = [sys.executable, "-c", _CHILD, log.name]
            return lambda: float(proc.run(words, timeout_s=PARSE_S, cwd=tree.resolve()).stdout.split()[0])

        figures = interleaved({"this tree": parse(CLONE), "the other": parse(other)}, rounds)
    show(figures)
    here, there = figures["this tree"].median, figures["the other"].median
    return {"parser_s": here, "other_s": there, "ratio": here / there}


if __name__ == "__main__":
    run(main)
