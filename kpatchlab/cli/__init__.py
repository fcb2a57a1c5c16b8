"""The verbs: the only place that prints or exits. Each verb's work is imported when it runs, so that --help is quick."""

from kpatchlab.cli.main import main

__all__ = ["main"]
