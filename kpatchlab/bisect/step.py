"""One verdict on the user's own work tree, as it is checked out: for people who drive git bisect themselves."""

from __future__ import annotations

from pathlib import Path

from kpatchlab.bisect.criterion import Criterion, Judged
from kpatchlab.bisect.loop import INFRA_TRIES, Mark
from kpatchlab.bisect.prober import Prober
from kpatchlab.bisect.state import Searches
from kpatchlab.bisect.workspace import Workspace
from kpatchlab.build import BuildContext
from kpatchlab.host.host import Host
from kpatchlab.lab.load import Lab
from kpatchlab.lab.recipes import KernelRecipe
from kpatchlab.progress import Progress
from kpatchlab.run.stages import Settings


class _AsItIs(Workspace):
    """The user's own tree: it is built from where it lies, and never checked out."""

    def checkout(self, commit: str) -> None:
        """Leave it."""


def judge_tree(
    lab: Lab,
    host: Host,
    tree: Path,
    recipe: KernelRecipe,
    criterion: Criterion,
    runs: int,
    progress: Progress,
    settings: Settings,
) -> Judged:
    """Build a tree in place, run the criterion so many times, and return the worst verdict.

    The lab's own faults are tried once more; what then remains of them is INFRA.

    Raises:
        LabError: the tree cannot be built from where it lies, or the host cannot.
    """
    context = BuildContext.of(lab, host.cache)
    space = _AsItIs(tree, context)
    prober = Prober(lab, host, space, recipe, criterion, Searches(lab.results).root / "steps", progress, settings)
    for _ in range(INFRA_TRIES):
        built = prober.built("tree")
        judged = [one] if (one := prober.judge_build(built)) else prober.run(built, None, runs)[0]
        prober.kernels.clear()
        for verdict in (Mark.BAD, Mark.INFRA, Mark.SKIP, Mark.GOOD):
            if found := next((one for one in judged if one.verdict is verdict), None):
                break
        if found is not None and found.verdict is not Mark.INFRA:
            return found
    assert found is not None
    return found
