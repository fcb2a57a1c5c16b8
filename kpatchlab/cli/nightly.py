"""The verb `nightly`: run what moved since the last night, judge it by history, store and report it."""

from __future__ import annotations

import dataclasses
import functools
import shlex
import sys

import click

from kpatchlab.cli.app import Options, Verb
from kpatchlab.cli.common import as_json, dump, load_lab, pass_options
from kpatchlab.cli.running import interruptible, progress_for, session_of, start


@click.command(
    cls=Verb,
    epilog="\b\nExamples:\n  kpatchlab nightly\n  kpatchlab nightly --bisect\n  kpatchlab nightly --force --json\n\n"
    "Exit status: 0 nothing got worse, or nothing is new; 1 something did; 3 something could\nnot be run.",
)
@click.option("--force", is_flag=True, help="Run even if nothing is new.")
@click.option("--bisect", is_flag=True, help="Bisect what got worse, within nightly.bisect_minutes.")
@as_json
@pass_options
def nightly(options: Options, force: bool, bisect: bool, as_json: bool) -> None:
    """Run what is new on every branch, compare it with the last good night, store, report and prune."""
    from kpatchlab.build import BuildContext
    from kpatchlab.jsonable import to_json
    from kpatchlab.nightly.lock import held
    from kpatchlab.nightly.night import Night, lines
    from kpatchlab.nightly.notify import notify
    from kpatchlab.nightly.searches import NightSearches
    from kpatchlab.run.stages import Settings

    lab = load_lab(options)
    session = session_of(lab)
    store, host = session.store, session.host
    settings = Settings(
        command=shlex.join(sys.argv), reproduce=lambda job: options.again(f"run --job {shlex.quote(job.id)}")
    )
    progress = functools.partial(progress_for, to_stderr=as_json)
    with held(store.root), interruptible(settings, None):
        night = Night(
            lab=lab,
            store=store,
            host=host,
            context=dataclasses.replace(BuildContext.of(lab, host.cache), cancel=settings.cancel),
            settings=settings,
            progress=progress,
            again=options.again,
            say=functools.partial(click.echo, err=as_json),
            prepare=functools.partial(start, options),
            bisect=NightSearches(lab, host, settings, progress) if bisect else None,
            force=force,
            tell=lambda report: notify(lab, report, store),
        )
        report = night.run()
        if as_json:
            dump(to_json(report) | {"headline": report.headline})
        else:
            for line in lines(report):
                click.echo(line)
    sys.exit(report.exit_code)
