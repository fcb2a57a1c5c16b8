"""A series that is posted on the fake tree, and `try` on it."""

import pytest

from tests.labdir import SOLO, write


@pytest.fixture
def posted(lab):
    """Return a lab, and a way to post the last commits of its tree: mails, and the tree without them."""

    def post(count: int, *words: str) -> bytes:
        git = lab.tree.git
        mails = git("format-patch", "--stdout", *words, f"HEAD~{count}..HEAD") + "\n"
        git("reset", "-q", "--hard", f"HEAD~{count}")
        path = write(lab.root / "series.mbox", mails)
        return path.read_bytes()

    write(lab.root / "scenarios/solo/scenario.yaml", SOLO + "touches: {files: [core]}\n")
    lab.post = post
    return lab


def try_(lab, *words, series="series.mbox"):
    path = series if "@" in series else str(lab.root / series)
    return lab.call("try", path, "--tree", str(lab.tree.tree), *words)


def runs(lab):
    return sorted(path.parent for path in lab.root.glob("results/2*/run.json"))
