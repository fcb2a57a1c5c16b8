"""The verb `plants`: plant faults in the base kernel, and see whether the scenarios find them."""

from __future__ import annotations

import shlex
import sys

import click

from kpatchlab.cli.app import Options, Verb
from kpatchlab.cli.common import as_json, dump, load_lab, pass_options, table
from kpatchlab.cli.running import interruptible, progress_for, session_of, start, verbose


@click.command(
    cls=Verb,
    epilog="\b\nExamples:\n  kpatchlab --lab plants.yaml plants\n"
    "  kpatchlab --lab plants.yaml plants nonblock-forgotten\n\n"
    "Exit status: 0 every plant was found by what has to find it; 1 one was not.",
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--markdown", is_flag=True, help="Print the table in Markdown.")
@as_json
@pass_options
def plants(options: Options, names: tuple[str, ...], markdown: bool, as_json: bool) -> None:
    """Plant each fault of plants/ in the base kernel, and say which of them the scenarios find."""
    from kpatchlab.plan import plants as planting
    from kpatchlab.report.common import markdown_cell, markdown_table
    from kpatchlab.run.stages import Settings
    from kpatchlab.store.run_plan import RunKind, RunPlan
    from kpatchlab.textclean import one_line

    lab = load_lab(options, ("*",))
    chosen = planting.read(lab, names)
    lab = planting.variant(lab, chosen)
    plan = planting.plan_of(lab, chosen)
    start(options, plan)
    settings = Settings(
        command=shlex.join(sys.argv),
        reproduce=lambda job: options.again(planting.command([job.column] if job.column != plan.base else [])),
        verbose=verbose(options),
    )
    session = session_of(lab)
    begun = session.begin(plan, RunPlan(kind=RunKind.PLANTS, trace=False), command=settings.command)
    with progress_for(to_stderr=as_json or markdown) as progress, interruptible(settings, progress):
        result = session.carry_out(begun, settings, progress).run
    scores = planting.score(chosen, result)
    found = sum(score.found is planting.Found.FOUND for score in scores)
    if as_json:
        pairs = [(score, score.plant) for score in scores]
        dump([{"name": p.name, "kind": p.kind, "system": p.system, "found": s.found, "told": s.told} for s, p in pairs])
    else:
        rows = [
            {
                "plant": s.plant.name,
                "kind": s.plant.kind,
                "system": s.plant.system,
                "": s.found,
                "told": one_line(s.told, 160),
            }
            for s in scores
        ]
        if markdown:
            cells = (map(markdown_cell, row.values()) for row in rows)
            click.echo("\n".join(markdown_table(rows[0], cells)))
        else:
            table(rows)
        click.echo(f"\n{found} of {len(scores)} plants found as they have to be; run {begun.folder.id}")
    sys.exit(130 if settings.cancel.is_set() else int(found < len(scores)))
