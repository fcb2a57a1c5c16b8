"""The verbs about this host: doctor, clean, completion."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kpatchlab.arch import HOST
from kpatchlab.cli.app import COMPLETE_VAR, Options, Verb, as_called
from kpatchlab.cli.common import as_json, dump, load_lab, pass_options, table, wrapped
from kpatchlab.errors import UserError

if TYPE_CHECKING:
    from kpatchlab.host.doctor import HostCheck


@click.command(
    cls=Verb,
    epilog="\b\nExamples:\n  kpatchlab doctor\n  kpatchlab doctor --install\n  kpatchlab doctor --store --repair",
)
@click.option("--install", is_flag=True, help="Install the Debian packages that are missing.")
@click.option("--packages", "only_packages", is_flag=True, help="Look at the Debian packages only.")
@click.option("--store", "only_store", is_flag=True, help="Look at the stored runs and their history only.")
@click.option("--repair", is_flag=True, help="With --store: mend what can be; nothing is deleted.")
@click.option("--tests", type=click.Choice(["quick", "all"]), help="At those that the lab's own tests need.")
@as_json
@pass_options
def doctor(
    options: Options,
    install: bool,
    only_packages: bool,
    tests: str | None,
    only_store: bool,
    repair: bool,
    as_json: bool,
) -> None:
    """Say what this host can do, and the remedy for what it cannot."""
    if only_store:
        _doctor_store(options, repair=repair, as_json=as_json)
        return
    from kpatchlab.host import packages

    stages = {None: packages.STAGES, "quick": packages.QUICK_TESTS, "all": (*packages.STAGES, *packages.TESTS)}[tests]
    if install and (lacking := packages.missing(stages)):
        packages.install(lacking, lambda text: click.echo(text, err=True))
    if only_packages:
        packages.require(stages)
        return
    from kpatchlab.cache import Cache
    from kpatchlab.host.doctor import examine
    from kpatchlab.host.host import Host

    host, others = Host(Cache()), list[str]()
    with contextlib.ExitStack() as stack:
        if options.lab is None:
            stack.enter_context(contextlib.suppress(UserError))  # a host can be looked at before there is a lab
        lab = load_lab(options)
        host = Host(Cache(), lab.mirror, lab.qemu)
        others = sorted({recipe.built_for for recipe in lab.kernels.values()} - {HOST})
    if install and (lacking := packages.missing(others)):
        packages.install(lacking, lambda text: click.echo(text, err=True))
    found = examine(host, others=others)
    if as_json:
        dump(found)
    else:
        for item in found:
            show_check(item)
    if any(item.state == "bad" for item in found):
        sys.exit(3)


def show_check(item: HostCheck, of: str = "") -> None:
    """Print a finding and its remedy, `of` whom."""
    word, colour = {"ok": ("ok", "green"), "note": ("note", "yellow"), "bad": ("BAD", "red")}[item.state]
    head = f"{word:6}{of and of + ' '}{item.name + ':':14}"
    wrapped(item.text, head, len(head), colour)
    if item.remedy and item.state != "ok":
        wrapped(as_called(item.remedy), f"{'':{len(head)}}-> ", len(head) + 3)


def _doctor_store(options: Options, *, repair: bool, as_json: bool) -> None:
    from kpatchlab.store.check import FOUND, examine
    from kpatchlab.store.store import Store

    store = Store(options.results())
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
@click.option("--older-than", type=float, metavar="DAYS", help="Prune artifacts that nothing used for this many days.")
@click.option(
    "--max-gib", type=float, metavar="GIB", help="Prune the least recently used artifacts until this much is left."
)
@click.option("--kind", help="Only artifacts of this kind (kernel, root, saved, ...).")
@click.option("--runs", type=int, metavar="N", help="Also prune past runs: all but the newest N.")
@click.option("--yes", is_flag=True, help="Do it; without --yes the verb only shows what it would do.")
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

    store = Store(options.results())
    old = [name for name in sorted((row.id for row in store.list()), reverse=True)[keep:] if not store.pinned(name)]
    for name in old if yes else []:
        store.delete(name)
    click.echo(f"{'removed' if yes else 'would remove'} {len(old)} runs", err=True)


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
