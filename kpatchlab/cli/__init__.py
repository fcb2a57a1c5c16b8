"""The verbs, the only place that prints or exits. What a verb needs is imported when it runs: --help is quick."""

from kpatchlab.cli.main import main

__all__ = ["main"]
