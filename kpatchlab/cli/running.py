"""What verbs that run jobs share: the plan, packages of the host, progress, an interrupt."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from kpatchlab import terminal
from kpatchlab.arch import HOST
from kpatchlab.cli import complete
from kpatchlab.cli.app import Options
from kpatchlab.errors import HostError, UserError
from kpatchlab.urls import hide

if TYPE_CHECKING:
    from kpatchlab.lab.load import Lab
    from kpatchlab.plan.jobs import Plan
    from kpatchlab.progress import LiveProgress, PlainProgress, Progress
    from kpatchlab.run.session import Session
    from kpatchlab.run.stages import Settings


SAID = 4
"""So many of the things that are waited for are named."""

kernel_option = click.option(
    "--kernel",
    "kernels",
    multiple=True,
    metavar="NAME",
    shell_complete=complete.kernels,
    help="Only this kernel; may be repeated.",
)


on_option = click.option(
    "--on",
    "places",
    multiple=True,
    metavar="HOST",
    help="Run jobs only on this host of `hosts`, or on those with this tag; may be repeated. local: on none of them. "
    "tls://HOST:PORT: on a Dask cluster that stands.",
)


def placed(lab: Lab, places: tuple[str, ...]) -> Lab:
    """Return a lab that runs where a user's `--on` words say.

    Raises:
        UserError: there is no such host, or the words do not go together.
    """
    from kpatchlab.lab.file import ClusterJobs
    from kpatchlab.lab.hosts import LOCAL
    from kpatchlab.lab.yamlfile import suggest

    urls = [place for place in places if "://" in place]
    if urls and len(places) > 1:
        raise UserError(f"--on {urls[0]}: a cluster that stands is used alone")
    if urls:
        if not re.fullmatch(r"tls://[^\s/]+:\d+", urls[0]):
            raise UserError(f"--on {urls[0]}: a scheduler's URL is tls://HOST:PORT")
        return replace(lab, hosts={}, executor=ClusterJobs(type="cluster", scheduler=urls[0]))
    chosen = set[str]()
    for place in places:
        names = {name for name, entry in lab.hosts.items() if place == name or place in entry.tags}
        if not names and place != LOCAL:
            there = [*lab.hosts, *(tag for entry in lab.hosts.values() for tag in entry.tags)]
            raise UserError(
                f"--on {place}: there is no such host{suggest(place, there)}", hint="`hosts` in lab.yaml names them"
            )
        chosen |= names
    return replace(lab, hosts={name: entry for name, entry in lab.hosts.items() if name in chosen}) if places else lab


def make(lab: Lab, choice: tuple[str, ...], kernels: tuple[str, ...], repeat: int | None) -> Plan:
    """Return the plan for what the user chose."""
    from kpatchlab.cache import Cache
    from kpatchlab.plan.jobs import make_plan
    from kpatchlab.plan.selftests import check_named

    plan = make_plan(lab, choice=choice, kernels=kernels or None, repeat=repeat)
    check_named(lab, plan, Cache())
    return plan


@contextlib.contextmanager
def interruptible(settings: Settings, progress: Progress | None) -> Iterator[None]:
    """Let the first Ctrl-C (or SIGTERM) end things cleanly, and the second at once.

    Args:
        progress: knows what goes on, and is waited for; None where there is no one that knows all of it.
    """

    def ask(number: int, frame: Any) -> None:  # noqa: ARG001
        if settings.cancel.is_set():
            if sys.stdout.isatty():
                os.write(1, b"\x1b[?25h\n")  # the cursor, which the live view hides
            os._exit(130)  # a guest that boots is not waited for: the guard of kpatchlab.proc ends it
        settings.cancel.set()
        print(f"\nstopping: what is done is kept{_waits(progress)} (once more: at once)", file=sys.stderr)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _waits(progress: Progress | None) -> str:
    """Return what is waited for, from a signal's handler: in words that follow others."""
    going_on = progress.going_on() if progress else []
    more = f" and {len(going_on) - SAID} more" if len(going_on) > SAID else ""
    return f"; waiting for the end of {', '.join(going_on[:SAID])}{more}" if going_on else ""


def progress_for(*, to_stderr: bool) -> LiveProgress | PlainProgress:
    """Return a live view on a terminal, plain lines elsewhere."""
    from kpatchlab.progress import LiveProgress, PlainProgress

    stream = sys.stderr if to_stderr else sys.stdout
    if stream.isatty():
        return LiveProgress(terminal.console(stream))
    return PlainProgress(stream)


def start(options: Options, plan: Plan | None = None) -> None:
    """See to the Debian packages that the lab needs: install them, or say which are missing.

    What only some of the plan's scenarios ask for is installed where that is allowed; without it these are skipped.
    """
    from kpatchlab.build.foreign import host_stages
    from kpatchlab.host import packages

    def echo(text: str) -> None:
        click.echo(text, err=True)

    others = {role.arch for job in plan.jobs for role in job.roles} - {HOST} if plan else set()
    needed = (*packages.STAGES, *sorted(others))
    if lacking := packages.missing(needed):
        if not options.no_install:
            packages.install(lacking, echo)
        packages.require(needed)
    stages = host_stages(name for job in plan.jobs for name in job.foreign) if plan else []
    if stages and not options.no_install and (lacking := packages.missing(stages)):
        try:
            packages.install(lacking, echo)
        except HostError as error:
            echo(f"{error.message}: scenarios that need them are skipped")


def session_of(lab: Lab, **host: Any) -> Session:
    """Return where this lab's runs are made; `host`: more of what `Host` takes."""
    from kpatchlab.cache import Cache
    from kpatchlab.host.host import Host
    from kpatchlab.run.session import Session
    from kpatchlab.store.store import Store

    return Session(lab, Store(lab.results), Host(Cache(), lab.mirror, lab.qemu, **host))


def verbose(options: Options) -> Callable[[str], None]:
    """Return what shows each command line as it is started, where the user wants to see them."""
    return (lambda text: click.echo(f"+ {hide(text)}", err=True)) if options.verbose else (lambda text: None)  # noqa: ARG005
