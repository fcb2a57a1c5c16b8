"""The verb `hosts`: what each of the hosts that a lab names can do."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from kpatchlab.cli.app import Options, Verb
from kpatchlab.cli.common import as_json, dump, load_lab, pass_options, table
from kpatchlab.cli.complete import hosts as host_names
from kpatchlab.cli.doctor import show_check
from kpatchlab.errors import UserError

if TYPE_CHECKING:
    from kpatchlab.hosts.look import HostLook
    from kpatchlab.lab.hosts import HostEntry


@click.command(
    cls=Verb,
    epilog="\b\nExamples:\n  kpatchlab hosts\n  kpatchlab hosts rack1 rack2 --json\n"
    "  kpatchlab hosts --hosts rack.yaml --forget",
)
@click.argument("names", nargs=-1, metavar="[HOST]...", shell_complete=host_names)
@click.option("--all", "everything", is_flag=True, help="Show what is well, too.")
@click.option("--forget", is_flag=True, help="Delete every copy of the lab there instead; artifacts stay.")
@as_json
@pass_options
def hosts(options: Options, names: tuple[str, ...], everything: bool, forget: bool, as_json: bool) -> None:
    """Say what each host that the lab names can do, and the remedy for what it cannot."""
    wanted, mirror, qemu = _wanted(options, names)
    if forget:
        sys.exit(_forget(wanted))
    from kpatchlab.cache import Cache
    from kpatchlab.hosts.look import look

    found = look(wanted, Cache(), mirror, qemu, lambda line: click.echo(line, err=True))
    if as_json:
        dump([{"state": host.state} | _plain(host) for host in found])
    else:
        _show(found, everything=everything)
    if any(host.state == "bad" for host in found):
        sys.exit(3)


def _wanted(options: Options, names: tuple[str, ...]) -> tuple[Mapping[str, HostEntry], str, str]:
    """Return the hosts that are meant, and the lab's mirror and QEMU: a file of hosts does without a lab.

    Raises:
        UserError: there are none, or none of such a name.
    """
    from kpatchlab.lab.hosts import load_hosts
    from kpatchlab.lab.yamlfile import suggest

    mirror, qemu, there = "", "auto", {}
    with contextlib.ExitStack() as stack:
        if options.hosts:
            there = dict(load_hosts(options.hosts))
            if options.lab is None:
                stack.enter_context(contextlib.suppress(UserError))
        lab = load_lab(options)
        mirror, qemu, there = lab.mirror, lab.qemu, dict(lab.hosts)
    if not there:
        raise UserError("the lab names no hosts", hint="`hosts:` in its file does, or --hosts FILE")
    for name in names:
        if name not in there:
            more = suggest(name, there) or f"; there are {', '.join(there)}"
            raise UserError(f"there is no host '{name}'{more}", hint="`hosts:` in the lab's file names them")
    return {name: entry for name, entry in there.items() if name in names or not names}, mirror, qemu


def _plain(host: HostLook) -> dict[str, Any]:
    from kpatchlab.jsonable import to_json

    plain: dict[str, Any] = to_json(host)
    return plain


def _show(found: list[HostLook], *, everything: bool) -> None:
    """Print a row for each host, then what there is to say of each."""
    table([_row(host) for host in found])
    width = max(len(host.name) for host in found)
    shown = [(host, check) for host in found for check in host.checks if everything or check.state != "ok"]
    if shown:
        click.echo()
    for host, check in shown:
        show_check(check, f"{host.name:{width}}")


def _row(host: HostLook) -> dict[str, str]:
    told = host.told
    return {
        "host": host.name,
        "state": {"bad": "BAD"}.get(host.state, host.state),
        "where": host.where,
        "machine": host.machine or "-",
        "cpus": str(told.cpus) if told else "-",
        "memory": f"{told.memory_mib / 1024:.1f} GiB" if told else "-",
        "disk": f"{told.disk_mib >> 10} GiB" if told else "-",
        "guests": told.facts.get("accel", "-").upper() if told else "-",
        "qemu": told.facts.get("qemu", "-") if told else "-",
        "python": host.python or "-",
        "clock": f"{host.ahead_s:+.1f} s" if host.key else "-",
    }


def _forget(wanted: Mapping[str, HostEntry]) -> int:
    """Delete the copies of the lab; returns the verb's exit status."""
    from kpatchlab.errors import HostError
    from kpatchlab.hosts.bringup import forget
    from kpatchlab.hosts.ssh import Connection

    status = 0
    for name, entry in wanted.items():
        if not entry.is_local:
            try:
                with Connection.open(entry, name) as connection:
                    forget(connection, entry)
                click.echo(f"{name}: no copy of the lab is left", err=True)
            except HostError as error:
                click.echo(f"{error.message}\nhint: {error.hint}", err=True)
                status = 3
    return status
