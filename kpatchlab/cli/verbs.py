"""The verbs themselves: parse what the user said, call the rooms below, print what they return."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from kpatchlab.cli import complete
from kpatchlab.cli.lists import LISTS
from kpatchlab.cli.main import COMPLETE_VAR, Options, Verb, as_called, program
from kpatchlab.errors import HostError, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from kpatchlab.lab.load import Lab

pass_options = click.make_pass_decorator(Options)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


def register(group: click.Group) -> None:
    """Hang every verb into the group."""
    from kpatchlab.cli import bisect, measure
    from kpatchlab.cli import run as run_verbs
    from kpatchlab.cli.compare import compare
    from kpatchlab.cli.coverage import coverage
    from kpatchlab.cli.history import history
    from kpatchlab.cli.imports import import_results
    from kpatchlab.cli.nightly import nightly
    from kpatchlab.cli.report import report
    from kpatchlab.cli.series import series
    from kpatchlab.cli.site import serve, site

    for command in (
        measure.measure,
        check,
        list_things,
        report,
        compare,
        history,
        nightly,
        coverage,
        series,
        site,
        serve,
        import_results,
        doctor,
        clean,
        new,
        completion,
        *run_verbs.COMMANDS,
        *bisect.COMMANDS,
    ):
        group.add_command(command)


def load_lab(options: Options, choice: tuple[str, ...] = (), variant: str | None = None) -> Lab:
    """Read the lab file and everything that it names; `variant`: of its kernels, see `variants.debug`."""
    from kpatchlab.lab import load
    from kpatchlab.variants import debug

    loaded = load.load(options.lab_file(), choice)
    return debug.variant(loaded, variant) if variant else loaded


def dump(value: Any) -> None:
    """Print JSON."""
    from kpatchlab.model import to_json

    click.echo(json.dumps(to_json(value), indent=2, default=str))


@click.command(cls=Verb, epilog="\b\nExample:\n  kpatchlab check && kpatchlab run")
@as_json
@pass_options
def check(options: Options, as_json: bool) -> None:
    """Check every file of the lab: all errors at once, with file and line."""
    from kpatchlab.lab import load

    try:
        load.check(options.lab_file())
    except UserError as error:
        if not as_json:
            raise
        dump({"errors": error.details or [error.message]})
        sys.exit(2)
    if as_json:
        dump({"errors": []})
    else:
        click.echo("no errors")


@click.command(
    "list",
    cls=Verb,
    epilog="\b\nExamples:\n  kpatchlab list scenarios\n  kpatchlab list systems --kernel with\n"
    "  kpatchlab list runs --json",
)
@click.argument("what", type=click.Choice(list(LISTS)), default="scenarios")
@click.option(
    "--kernel",
    "kernels",
    multiple=True,
    metavar="NAME",
    shell_complete=complete.kernels,
    help="For systems: only what this kernel makes of them.",
)
@as_json
@pass_options
def list_things(options: Options, what: str, kernels: tuple[str, ...], as_json: bool) -> None:
    """List what the lab has: kernels, rootfs, scenarios, systems, machines or past runs."""
    rows = LISTS[what](load_lab(options), kernels, as_json)
    if as_json:
        dump(rows)
    else:
        table(rows)


def write_output(path: Path, data: bytes) -> None:
    """Write a file that the user named, whole or not at all.

    Raises:
        UserError: it is a folder, or cannot be written.
    """
    from kpatchlab.files import write_atomic

    if path.is_dir():
        raise UserError(f"{path} is a folder", hint=f"a file in it: -o {path}/NAME")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}")
    try:
        if path.exists() and not path.is_file():  # a pipe or a device is written to, not replaced
            path.write_bytes(data)
        else:
            write_atomic(path, data)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    except HostError as error:
        raise UserError(error.message) from None


def console(stream: TextIO | None = None) -> Console:
    """Return a rich console that lets a reader's leave be known as any other writer does."""
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:  # rich would end the program with status 1
            raise BrokenPipeError

    return Plain(file=stream, highlight=False)


def wrapped(text: str, head: str, indent: int) -> None:
    """Print text behind `head`, which takes `indent` columns; on a terminal, wrapped to its width."""
    import shutil
    import textwrap

    width = max(40, shutil.get_terminal_size().columns - indent) if sys.stdout.isatty() else 1 << 16
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
    click.echo(head + f"\n{'':{indent}}".join(lines))


def table(rows: list[dict[str, Any]]) -> None:
    """Print rows of equal keys: a line each, on a terminal folded so that they fit."""
    if not rows:
        click.echo("none")
        return
    words = [["yes" if v is True else "" if v is False else str(v) for v in row.values()] for row in rows]
    if not sys.stdout.isatty():
        lines = [list(rows[0]), *words]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            click.echo("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())
        return
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(rows[0]):
        grid.add_column(name, no_wrap=number == 0, overflow="fold")
    for line in words:
        grid.add_row(*map(Text, line))
    console().print(grid)


@click.command(
    cls=Verb,
    epilog="\b\nExamples:\n  kpatchlab doctor\n  kpatchlab doctor --install\n  kpatchlab doctor --store --repair",
)
@click.option("--install", is_flag=True, help="Install the Debian packages that are missing.")
@click.option("--packages", "only_packages", is_flag=True, help="Look at the Debian packages only.")
@click.option("--store", "only_store", is_flag=True, help="Look at the stored runs and their history only.")
@click.option("--repair", is_flag=True, help="With --store: mend what can be; nothing is deleted.")
@click.option("--tests", is_flag=True, help="Also at those that only the lab's own tests need.")
@as_json
@pass_options
def doctor(
    options: Options,
    install: bool,
    only_packages: bool,
    tests: bool,
    only_store: bool,
    repair: bool,
    as_json: bool,
) -> None:
    """Say what this host can do, and the remedy for what it cannot."""
    if only_store:
        _doctor_store(options, repair=repair, as_json=as_json)
        return
    from kpatchlab.host import packages

    stages = (*packages.STAGES, *packages.TESTS) if tests else packages.STAGES
    if install and (lacking := packages.missing(stages)):
        packages.install(lacking, lambda text: click.echo(text, err=True))
    if only_packages:
        packages.require(stages)
        return
    from kpatchlab.cache import Cache
    from kpatchlab.host.doctor import examine
    from kpatchlab.host.host import Host

    host = Host(Cache())
    with contextlib.ExitStack() as stack:
        if options.lab is None:
            stack.enter_context(contextlib.suppress(UserError))  # a host can be looked at before there is a lab
        lab = load_lab(options)
        host = Host(Cache(), lab.mirror, lab.qemu)
    found = examine(host)
    if as_json:
        dump(found)
    else:
        marks = {"ok": ("ok", "green"), "note": ("note", "yellow"), "bad": ("BAD", "red")}
        for item in found:
            word, colour = marks[item.state]
            wrapped(item.text, click.style(f"{word:6}", fg=colour) + f"{item.name + ':':14}", 20)
            if item.remedy and item.state != "ok":
                wrapped(as_called(item.remedy), f"{'':20}-> ", 23)
    if any(item.state == "bad" for item in found):
        sys.exit(3)


def _doctor_store(options: Options, *, repair: bool, as_json: bool) -> None:
    from kpatchlab.store.check import FOUND, examine
    from kpatchlab.store.store import Store

    store = Store(options.lab_file().parent / "results")
    found = examine(store, repair=repair) if store.root.is_dir() else []
    if as_json:
        dump(found)
    for item in [] if as_json else found:
        wrapped(item.text, f"{item.state:8}", 8)
        if item.remedy:
            wrapped(as_called(item.remedy), f"{'':8}-> ", 11)
    if any(item.state == FOUND for item in found):
        sys.exit(3)


@click.command(
    cls=Verb,
    epilog="\b\nExamples:\n  kpatchlab clean\n  kpatchlab clean --older-than 14 --yes\n"
    "  kpatchlab clean --max-gib 10 --yes",
)
@click.option("--older-than", type=float, metavar="DAYS", help="Artifacts that nothing used for so many days.")
@click.option("--max-gib", type=float, metavar="GIB", help="The least recently used, until so much is left.")
@click.option("--kind", help="Only artifacts of this kind (kernel, root, saved, ...).")
@click.option("--runs", type=int, metavar="N", help="Also past runs, all but the newest N.")
@click.option("--yes", is_flag=True, help="Do it; otherwise it is only shown.")
@as_json
@pass_options
def clean(
    options: Options,
    older_than: float | None,
    max_gib: float | None,
    kind: str | None,
    runs: int | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Show what is cached and how large it is; prune it by age and size."""
    import time

    from kpatchlab.cache import Cache, prunable

    cache = Cache()
    entries = [entry for entry in cache.entries(leftovers=True) if kind in {None, entry.kind}]
    gone = prunable(entries, older_than, max_gib, now=time.time())
    if as_json:
        dump({"root": cache.root, "entries": entries, "prune": [str(entry.path) for entry in gone]})
    else:
        marked = {entry.path for entry in gone}
        table(
            [
                {
                    "kind": entry.kind,
                    "MiB": entry.size_bytes >> 20,
                    "days unused": f"{(time.time() - entry.used) / 86400:.1f}",
                    "prune": entry.path in marked,
                    "what": f"{entry.label or '-'} ({entry.key[:12]})",
                }
                for entry in entries
            ]
        )
        total = sum(entry.size_bytes for entry in entries)
        click.echo(f"{total / (1 << 30):.1f} GiB in {len(entries)} artifacts below {cache.root}")
    if yes:
        for entry in gone:
            cache.remove(entry)
        click.echo(f"removed {len(gone)} artifacts, {sum(e.size_bytes for e in gone) / (1 << 30):.1f} GiB", err=True)
    elif gone:
        click.echo("nothing removed: --yes does it", err=True)
    if runs is not None:
        _clean_runs(options, runs, yes)


def _clean_runs(options: Options, keep: int, yes: bool) -> None:
    from kpatchlab.store.store import Store

    store = Store(options.lab_file().parent / "results")
    old = [name for name in sorted((row.id for row in store.list()), reverse=True)[keep:] if not store.pinned(name)]
    for name in old if yes else []:
        store.delete(name)
    click.echo(f"{'removed' if yes else 'would remove'} {len(old)} runs", err=True)


@click.command(cls=Verb, epilog="\b\nExample:\n  kpatchlab new scenario my-socket-test")
@click.argument("kind", type=click.Choice(["scenario"]))
@click.argument("name")
@pass_options
def new(options: Options, kind: str, name: str) -> None:  # noqa: ARG001 - one kind so far
    """Lay out a new scenario that runs at once."""
    from kpatchlab.lab import scenario

    folder = scenario.new(options.lab_file().parent, name)
    click.echo(f"{folder}: edit scenario.yaml and run.sh, then: {program()} run {name}")


@click.command(cls=Verb, epilog='\b\nExample:\n  eval "$(kpatchlab completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for a shell."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    name = Path(os.environ.get("KPATCHLAB_PROGRAM") or "kpatchlab").name
    script = kind(click.get_current_context().find_root().command, {}, name, COMPLETE_VAR).source()
    if shell == "zsh":  # click's script is silent unless the program is in PATH, which a clone's ./lab is not
        script = "\n".join(line for line in script.splitlines() if "$+commands" not in line)
        script = script.replace(f"{COMPLETE_VAR}=zsh_complete {name}", f"{COMPLETE_VAR}=zsh_complete ${{(Q)words[1]}}")
    elif shell == "fish":  # likewise: call it by the word on the command line
        script = script.replace(f"(commandline -t) {name})", "(commandline -t) (commandline -opc)[1])")
    click.echo(script)
