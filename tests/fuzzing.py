"""What fuzzers try: each reader of foreign bytes, with examples and tokens of its language, and inputs that grow.

`tests/test_fuzz.py` tries a few inputs of each, `./lab bench fuzz` as many as it is told.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
import json
import math
import re
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from kpatchlab import maintainers
from kpatchlab.build import changes, failures, mails, patchset, posted
from kpatchlab.build.kconfig import Kconfig
from kpatchlab.errors import HostError, LabError
from kpatchlab.evidence.ktap import parse as parse_ktap
from kpatchlab.evidence.splats import find_splats
from kpatchlab.guest import wire
from kpatchlab.guest.qmp import Qmp
from kpatchlab.history import database
from kpatchlab.history.index import insert_row, summary
from kpatchlab.history.record import Origin, record
from kpatchlab.jsonable import to_json
from kpatchlab.lab import load as lab_file
from kpatchlab.lab import yamlfile
from kpatchlab.lab.known import KnownFile
from kpatchlab.lab.recipes import KernelRecipe
from kpatchlab.lab.scenario import load_scenario
from kpatchlab.lab.systems import SystemsFile
from kpatchlab.model import KernelFacts, Run
from kpatchlab.report import FORMATS
from kpatchlab.report.view import View
from kpatchlab.run import leftovers, stacks
from kpatchlab.series import warnings
from kpatchlab.store import importing
from kpatchlab.store.run_dir import load_run
from kpatchlab.store.run_plan import RunPlan, load_plan
from kpatchlab.textclean import clean, one_line, printable, shown
from kpatchlab.verdict.compare import compare
from tests import labdir
from tests.sample_run import sample

SLOW_S = 5.0
"""Seconds of a processor that no input may take."""

Read = Callable[[bytes, Path], object]


@dataclass(frozen=True, slots=True)
class Target:
    """A reader.

    Attributes:
        read: takes an input, and a folder of its own; what it may raise is `LabError`.
        seeds: inputs as they should be.
        tokens: words of its language, which change seeds and make inputs of their own.
        share: how many of a thousand inputs it gets, against the others.
        grows: whether it is tried with inputs of many MiB.
    """

    name: str
    read: Read
    seeds: tuple[bytes, ...]
    tokens: tuple[bytes, ...]
    share: int = 100
    grows: bool = True

    @property
    def inputs(self) -> st.SearchStrategy[bytes]:
        """Inputs: changed seeds, tokens in any order, and any bytes."""
        tokens = st.sampled_from(self.tokens)
        piece = st.one_of(tokens, tokens, st.binary(max_size=8), st.sampled_from((*_words("odd"), LONG)))
        edit = st.tuples(st.integers(0, 4), st.floats(0, 1), st.floats(0, 0.3), piece)
        changed = st.builds(_changed, st.sampled_from(self.seeds), st.lists(edit, max_size=8))
        return st.one_of(changed, changed, st.lists(piece, max_size=40).map(b"".join), st.binary(max_size=400))

    def tried(self, data: bytes, folder: Path) -> float:
        """Read an input; returns the seconds of a processor that it took. Raises what is no `LabError`."""
        begin = time.process_time()
        with contextlib.suppress(LabError):
            self.read(data, folder)
        return time.process_time() - begin

    def growing(self, size: int) -> Iterator[tuple[str, bytes]]:
        """Yield inputs of about `size` bytes, each with a name: every token, and every seed, again and again."""
        for token in self.tokens:
            yield repr(token)[1:40], token * (size // max(1, len(token)))
            yield f"{repr(token)[1:40]} in lines", (token + b"\n") * (size // (len(token) + 1))
        for number, seed in enumerate(self.seeds):
            yield f"seed {number}", seed * (size // max(1, len(seed)))
            middle = len(seed) // 2
            yield f"seed {number} with a long middle", seed[:middle] + b"x" * size + seed[middle:]


DATA = Path(__file__).parent / "data/fuzz"
LONG = b"9" * 5000
"""int() of Python refuses numbers of more than 4,300 digits."""
_NUMBER = re.compile(rb"\d+")


def _seeds(name: str) -> tuple[bytes, ...]:
    """Return the examples of a language."""
    return tuple(path.read_bytes() for path in sorted(DATA.glob(f"{name}.[0-9]")))


def _words(name: str) -> tuple[bytes, ...]:
    """Return the words of a language: a line each, with Python's escapes."""
    text = (DATA / f"{name}.words").read_text()
    return tuple(line.encode().decode("unicode_escape").encode("latin-1") for line in text.split("\n")[:-1])


def _both(name: str) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    return _seeds(name), _words(name)


def _changed(seed: bytes, edits: Sequence[tuple[int, float, float, bytes]]) -> bytes:
    """Return a seed with pieces put in, taken out, doubled or written over."""
    for how, at, long, piece in edits:
        start = int(at * len(seed))
        stop = min(len(seed), start + int(long * len(seed)))
        if how == 0:
            seed = seed[:start] + piece + seed[start:]
        elif how == 1:
            seed = seed[:start] + seed[stop:]
        elif how == 2:
            seed = seed[:stop] + seed[start:stop] + seed[stop:]
        elif how == 4 and (numbers := list(itertools.islice(_NUMBER.finditer(seed), 200))):
            number = numbers[min(int(at * len(numbers)), len(numbers) - 1)]
            seed = seed[: number.start()] + (LONG if long > 0.15 else piece) + seed[number.end() :]
        else:
            seed = seed[:start] + piece + seed[start + len(piece) :]
    return seed[: 1 << 16]


# -------------------------------------------------------------------------------------------- files of a lab


@functools.cache
def _lab(folder: Path) -> Path:
    return labdir.make(folder / "lab").parent


def _lab_file(data: bytes, folder: Path) -> None:
    root = _lab(folder)
    (root / "lab.yaml").write_bytes(data)
    lab_file.load(root / "lab.yaml")


def _scenario(data: bytes, folder: Path) -> None:
    root = _lab(folder)
    (root / "scenarios/solo/scenario.yaml").write_bytes(data)
    problems = yamlfile.Problems(root)
    load_scenario(root / "scenarios/solo", problems)
    problems.lines()


def _model(model: type[yamlfile.FileModel]) -> Read:
    def read(data: bytes, folder: Path) -> None:
        path = folder / "file.yaml"
        path.write_bytes(data)
        yamlfile.load(path, model)

    return read


# ------------------------------------------------------------------------------------------------- evidence


# ---------------------------------------------------------------------------------------- mails and patches

FILE = b"int f(void)\n{ return 1; }\n\n" + b"int g(void)\n{\n\treturn 2;\n}\n" * 5


def _replayed(data: bytes, _: Path) -> None:
    patches = [patchset.Patch("x", "s", data), patchset.Patch("y", "t", _seeds("patch")[0])]
    files = {"net/a.c": FILE, "x": b"a\n"}
    patchset.changed_files(patches)
    to_json(changes.Replay(patches, files.get).run(files.get))


def _mailbox(data: bytes, _: Path) -> None:
    posted.read(data, "x")
    mails.read(data, "x")
    list(mails.heads(data, "x"))
    patchset.split_mbox(data, "x")


# ------------------------------------------------------------------------------------------------- a guest


def _frames(data: bytes, _: Path) -> None:
    reader = wire.Reader()
    with contextlib.suppress(wire.ProtocolError):
        for at in range(0, len(data), 1 << 18):
            for kind, _ident, payload in reader.feed(data[at : at + (1 << 18)]):
                if kind == b"D":
                    wire.read_done(payload)


def _qmp(data: bytes, _: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        qmp = Qmp(ours)
        waiting = [qmp.send("stop"), qmp.send("cont")]
        for at in range(0, len(data), 1 << 16):
            qmp.feed(data[at : at + (1 << 16)])
        qmp.close(HostError("gone"))
        for future in waiting:
            with contextlib.suppress(HostError):
                future.result(0)


WIRE = (wire.frame(b"H", 0, b"1 6.12.0"), wire.frame(b"O", 1, b"x" * 100) + wire.frame(b"D", 1, b"\0" * 5))
WIRE_WORDS = (
    wire.frame(b"P", 7, b"1 x"),
    wire.frame(b"O", 1),
    b"\xa5",
    b"\xa5O\0\0",
    b"\xa5D\0\0\1\0\0\0\5\0\0\0\2\0\0\0\0",
    b"\0" * 12,
)

# ---------------------------------------------------------------------------------------------- stored runs

_VALUES = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        1.5,
        1e308,
        math.inf,
        -math.inf,
        math.nan,
        2**70,
        "",
        "x",
        "\ud800",
        "\0",
        "x" * 500,
        "../../x",
        [],
        {},
        [[]],
        [None],
        ["a"],
        {"a": 1},
        {"": ""},
        "pass",
        "crash",
        "2026-01-01",
        [["job", "x"]],
    ]
).map(copy.deepcopy)  # a later change may be within it


@functools.cache
def _stored() -> str:
    run = sample()
    kept = tuple({job.outcome: job for job in run.jobs}.values()) + tuple(job for job in run.jobs if job.metrics)[:2]
    run = dataclasses.replace(run, jobs=kept[:8], builds=run.builds[:2], patches=run.patches[:1], complete=True)
    header = to_json(dataclasses.replace(run, jobs=(), builds=()))
    header |= {"job_order": [job.job for job in run.jobs], "build_order": [build.kernel for build in run.builds]}
    plan = to_json(RunPlan(jobs=("a",), origin=Origin(lane="l", heads={"a": {"b": "c"}})))
    return json.dumps({"run": header, "jobs": to_json(run.jobs), "builds": to_json(run.builds), "plan": plan})


@st.composite
def _stored_runs(draw: st.DrawFn) -> bytes:
    """Return a stored run with some values replaced: by odd ones, or by others of it."""
    document = json.loads(_stored())
    for _ in range(draw(st.integers(1, 4))):
        place: object = document
        path = []
        while isinstance(place, (dict, list)) and place and (len(path) < 2 or draw(st.integers(0, 5))):
            key = (
                draw(st.sampled_from(sorted(place)))
                if isinstance(place, dict)
                else draw(st.integers(0, len(place) - 1))
            )
            path.append(key)
            place = place[key]
        parent: object = document
        for key in path[:-1]:
            parent = parent[key]  # type: ignore[index]
        if draw(st.integers(0, 9)) == 0 and isinstance(parent, dict):
            del parent[path[-1]]
        else:
            parent[path[-1]] = draw(_VALUES)  # type: ignore[index]
    return json.dumps(document).encode("utf-8", "surrogatepass")


def _read_stored(data: bytes, folder: Path) -> Run | None:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = data
    run = folder / "run"
    for name in ("jobs", "builds"):
        (run / name).mkdir(parents=True, exist_ok=True)
        for old in (run / name).glob("*.json"):
            old.unlink()
    parts = document if isinstance(document, dict) and "run" in document else {"run": document, "plan": document}
    for name, value in parts.items():
        if name in {"jobs", "builds"}:
            for number, part in enumerate(value if isinstance(value, list) else [value]):
                (run / name / f"{number}.json").write_bytes(_dumped(part))
        elif name in {"run", "plan"}:
            (run / f"{name}.json").write_bytes(_dumped(value))
    return load_run(run)


def _dumped(value: object) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode("utf-8", "surrogatepass")


@functools.cache
def _database(folder: Path) -> sqlite3.Connection:
    return database.connect(folder / "index.db")


def _run(data: bytes, folder: Path) -> None:
    run = _read_stored(data, folder)
    if run is None:
        return
    comparison = compare(run)
    connection = _database(folder)
    with database.transaction(connection):
        insert_row(connection, summary(run, comparison))
        with contextlib.suppress(LabError):
            if place := load_plan(folder / "run").place:
                record(connection, run, comparison, place)
    names = list(FORMATS)
    FORMATS[names[len(data) % len(names)]].render(View(run, folder / "run"))


def _kcidb(data: bytes, folder: Path) -> None:
    if run := _read_stored(data, folder):
        json.loads(FORMATS["kcidb"].render(View(run, folder / "run")))


def _imported(form: str) -> Read:
    def read(data: bytes, folder: Path) -> None:
        suites = [suite for suite in importing.READERS[form](data, "x") if suite.cases]
        jobs = tuple(importing._job(number, suite, "c") for number, suite in enumerate(suites, 1))
        run = Run(
            id="r",
            title="t",
            started="",
            duration_s=sum(suite.seconds for suite in suites),
            complete=True,
            base="c",
            columns=("c",),
            kernels=(KernelFacts("c", "base"),),
            builds=(),
            jobs=jobs,
        )
        for suite in suites:
            importing._stamp(suite.began)
        if len(data) < 1 << 16:
            FORMATS["text"].render(View(run, folder))
        compare(run)

    return read


class _StoredTarget(Target):
    __slots__ = ()

    @property
    def inputs(self) -> st.SearchStrategy[bytes]:
        return st.one_of(_stored_runs(), _stored_runs(), _stored_runs(), Target.inputs.fget(self))  # type: ignore[attr-defined]


def _maintainers(data: bytes, _: Path) -> None:
    maintainers.concerned(maintainers.parse(data), ["net/tls/a.c", "x"])


def _compiler(data: bytes, _: Path) -> None:
    warnings.parse(printable(data))
    failures.first_fault(printable(data), Path("/x"), make=True)


def _figures(data: bytes, _: Path) -> None:
    """Read the files of /proc of a guest, one behind the other, and what a script says of its work."""
    texts = data.decode("utf-8", "replace").split("\0")
    files = dict(zip(leftovers.FILES, texts, strict=False))
    looks = [leftovers.amounts(files), leftovers.amounts(dict.fromkeys(leftovers.FILES, texts[0]))]
    left, work = leftovers.left("main", looks), leftovers.work(data)
    assert all(math.isfinite(turn) for one in left for turn in one.turns)
    assert max(work) < 1 << 63


def _kconfig(data: bytes, folder: Path) -> None:
    (folder / "Kconfig").write_bytes(data)
    found = Kconfig(folder, "x86")
    for symbol in ["NET", *itertools.islice(found.symbols, 5)]:
        found.why(symbol, "y", {"NET": "y", "INET": "m"})


def _texts(data: bytes, _: Path) -> None:
    text = printable(data)
    assert printable(text) == text
    one_line(data)
    shown(data)
    clean({"a": [data.decode("latin-1")]})


def _targets() -> Iterator[Target]:
    yaml = _words("yaml")
    yield Target("lab file", _lab_file, (labdir.LAB.encode(),), yaml, 30)
    yield Target("scenario", _scenario, (labdir.SOLO.encode(), labdir.DUO.encode()), yaml, 60)
    yield Target("kernel", _model(KernelRecipe), _seeds("kernel"), yaml)
    yield Target("known issues", _model(KnownFile), _seeds("known"), yaml, 50)
    yield Target("systems", _model(SystemsFile), _seeds("systems"), yaml, 50)
    yield Target("KTAP and metrics", lambda data, _: parse_ktap(data, exit_status=0), *_both("ktap"), 200)
    yield Target("console and splats", lambda data, _: find_splats(data), *_both("console"), 200)
    yield Target("patches", _replayed, *_both("patch"))
    yield Target("mailbox", _mailbox, *_both("patch"), 1, grows=False)
    yield Target("frames", _frames, WIRE, WIRE_WORDS)
    yield Target("QMP", _qmp, *_both("qmp"))
    for form, share in {"junit": 80, "ktap": 40, "ltp": 40, "blktests": 40}.items():
        yield Target(f"import {form}", _imported(form), *_both(form), share)
    yield Target("MAINTAINERS", _maintainers, *_both("maintainers"), 40)
    yield Target(
        "stacks", lambda data, _: stacks.told(stacks.parse(printable(data))), _seeds("stacks"), _words("console"), 40
    )
    yield Target("compiler", _compiler, *_both("compiler"), 60)
    yield Target("figures", _figures, *_both("figures"), 40)
    yield Target("Kconfig", _kconfig, *_both("kconfig"), 40)
    yield Target("text", _texts, *_both("text"), 60)
    yield _StoredTarget("stored run", _run, (_stored().encode(),), _words("json"), 15, grows=False)
    yield _StoredTarget("KCIDB", _kcidb, (_stored().encode(),), _words("json"), 15, grows=False)


TARGETS = tuple(_targets())
"""All readers of what others wrote."""


def exponent(target: Target, folder: Path, sizes: Sequence[int], budget_s: float) -> tuple[float, str, int, float]:
    """Return how a reader's time grows with its input, for the growing input that it takes the longest for.

    Args:
        sizes: bytes, growing; all inputs are tried at the first, the two slowest at the others.
        budget_s: a size that would take longer by what those before it took is left out.

    Returns:
        The exponent between the two largest sizes that were tried (0 where nothing took half a second), the
        input's name, the largest size, and the seconds that it took.
    """
    first = {name: target.tried(data, folder) for name, data in target.growing(sizes[0])}
    worst = (0.0, "", sizes[0], max(first.values()))
    for name in sorted(first, key=lambda name: first[name])[-2:]:
        before, took, size = sizes[0], first[name], sizes[0]
        slope = 0.0
        for size in sizes[1:]:
            if took * (size / before) ** max(1.0, slope) > budget_s:
                break
            data = next(data for other, data in target.growing(size) if other == name)
            now = target.tried(data, folder)
            if now > 0.5 and took > 0.02:
                slope = math.log(now / took) / math.log(size / before)
            before, took = size, now
        if (slope, took) > (worst[0], worst[3]) or not worst[1]:
            worst = (slope, name, before, took)
    return worst
