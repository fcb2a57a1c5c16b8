"""A rich console on which only the lab's own colours come out: all text of others is made `printable` on the way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any

from kpatchlab.textclean import CleanStream, printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment


def console(stream: IO[str] | CleanStream | None = None, **more: Any) -> Console:
    """Return a console on a stream (None: standard output); a reader's leave is a BrokenPipeError.

    Args:
        more: what rich's Console takes.
    """
    import sys

    from rich.console import Console
    from rich.segment import Segment

    class Clean(Console):
        def on_broken_pipe(self) -> None:  # rich would end the program with status 1
            raise BrokenPipeError

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else printable(text), style, control)

    stream = stream or sys.stdout
    return Clean(file=stream.raw if isinstance(stream, CleanStream) else stream, **{"highlight": False, **more})
