"""The verb `nightly`: what moved since the last night is run, judged by history, stored and told."""

from __future__ import annotations

import contextlib
import functools
import shlex
import sys

import click

from kpatchlab.cli.app import Options, Verb
from kpatchlab.cli.common import as_json, dump, load_lab, pass_options
from kpatchlab.cli.running import interruptible, progress_for, start


@click.command(
    cls=Verb,
    epilog="\b\nExamples:\n  kpatchlab nightly\n  kpatchlab nightly --bisect\n  kpatchlab nightly --force --json\n\n"
    "Exit status: 0 nothing got worse, or nothing is new; 1 something did; 3 something could\nnot be run.",
)
@click.option("--force", is_flag=True, help="Run though nothing is new.")
@click.option("--bisect", is_flag=True, help="Look for the commits of what got worse, within nightly.bisect_minutes.")
@as_json
@pass_options
def nightly(options: Options, force: bool, bisect: bool, as_json: bool) -> None:
    """Run what is new on every branch, hold it against the last good night, store, report and prune."""
    lab = load_lab(options)
    from kpatchlab.build import BuildContext
    from kpatchlab.cache import Cache
    from kpatchlab.host import host as hosts
    from kpatchlab.model import to_json
    from kpatchlab.nightly.lock import held
    from kpatchlab.nightly.night import Night, lines
    from kpatchlab.nightly.notify import notify
    from kpatchlab.nightly.searches import bisect_by
    from kpatchlab.run.pipeline import execute
    from kpatchlab.run.stages import Settings
    from kpatchlab.store.store import Store

    store = Store(lab.results)
    cache = Cache()
    settings = Settings(
        command=shlex.join(sys.argv), reproduce=lambda job: options.again(f"run --job {shlex.quote(job.id)}")
    )
    say = functools.partial(click.echo, err=as_json)
    with contextlib.ExitStack() as stack:
        stack.enter_context(held(store.root))
        started = False

        def run(lab, plan, run_dir, settings):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
            nonlocal started
            if not started:
                start(options, plan)
                started = True
            host = hosts.Host(cache, lab.mirror, lab.qemu)
            with progress_for(to_stderr=as_json) as progress:
                return execute(lab, plan, host, run_dir, progress, settings).run

        stack.enter_context(interruptible(settings))
        context = BuildContext(cache, lab.root, lab.mirror, cancel=settings.cancel)
        search = functools.partial(bisect_by, store.root) if bisect else None
        night = Night(
            lab, store, context, settings, run, options.again, say, search, force=force,
            tell=lambda report: notify(lab, report, store),
        )  # fmt: skip
        report = night.run()
        if as_json:
            dump(to_json(report) | {"headline": report.headline})
        else:
            for line in lines(report):
                click.echo(line)
    sys.exit(report.exit_code)
