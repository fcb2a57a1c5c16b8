"""Markup that is made in Python: logs with highlights, links, plots. All foreign text is escaped first."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from markupsafe import Markup, escape

from kpatchlab.files import is_inert
from kpatchlab.model import Splat
from kpatchlab.textclean import one_line, printable

LINE_CHARS = 2000
"""A longer line of a log is cut in the page; the file beside it has the whole."""

_FRAME = re.compile(r"^(\s*(?:\? )?)([A-Za-z_][\w.]*)(\+0x[0-9a-f]+/0x[0-9a-f]+)?( \([^)]*:\d+[^)]*\))?(.*)$")
_STAMP = re.compile(r"^((?:&lt;\d+&gt;)?\[\s*\d+\.\d+\](?:\[[^\]]*\])?\s?)?(.*)$")
_LOUD = re.compile(
    r"\b(BUG|WARNING|KASAN|UBSAN|KCSAN|Oops|Kernel panic|general protection fault|INFO: task|rcu: INFO)\b"
)


def href(path: str) -> str:
    """Return a link to a file of the run's folder; whatever the path says, it stays a relative one.

    It leads nowhere where a browser may take the file for a page.
    """
    if not is_inert(path):
        return "#"
    parts = [part for part in path.split("/") if part not in {"", ".", ".."}]
    return "./" + quote("/".join(parts), safe="/=,+@", errors="replace")


def highlight(text: str) -> Markup:
    """Return a splat or a console as markup: what alarms, functions, file:line; all of it escaped first."""
    return Markup("\n").join(_highlight(_cut(text)) for text in printable(text).rstrip("\n").split("\n"))


def console(text: str, splats: Iterable[Splat]) -> Markup:
    """Return a console as markup: lines that alarm marked, the lines of each splat set apart, named and highlighted.

    All other lines are plain text: a page has tens of thousands of them, and each element costs time to open it.
    """
    text = printable(text)
    spans: list[tuple[int, int, Splat]] = []
    for splat in splats:
        raw = printable(splat.text).strip("\n")
        start = text.find(raw) if raw else -1
        if start >= 0 and not any(start < end and begin < start + len(raw) for begin, end, _ in spans):
            spans.append((start, start + len(raw), splat))
    made, done = Markup(), 0
    for start, end, splat in sorted(spans, key=lambda span: span[0]):
        made += _plain(text[done:start]) + "\n" if text[done:start].strip() else ""
        made += Markup('<span class="splat" title="{}">{}</span>\n').format(
            one_line(splat.title), highlight(text[start:end])
        )
        done = end
    return made + _plain(text[done:])


def _plain(text: str) -> Markup:
    return Markup("\n").join(
        Markup("<b class=loud>{}</b>").format(_cut(part)) if _LOUD.search(part) else escape(_cut(part))
        for part in text.strip("\n").split("\n")
    )


def _cut(text: str) -> str:
    return text if len(text) <= LINE_CHARS else f"{text[:LINE_CHARS]} [{len(text) - LINE_CHARS} more characters]"


def _highlight(text: str) -> Markup:
    found = _STAMP.match(str(escape(text)))
    assert found  # both parts may be empty
    stamp, rest = found[1] or "", found[2]
    if _LOUD.search(rest):
        rest = f"<b class=loud>{rest}</b>"
    elif (frame := _FRAME.match(rest)) and (frame[3] or frame[4]):
        lead, name, offset, where, tail = (part or "" for part in frame.groups())
        rest = f"{lead}<b>{name}</b>{offset}{f'<i>{where}</i>' if where else ''}{tail}"
        if "? " in lead:
            rest = f"<s>{rest}</s>"
    return Markup(f"<u>{stamp}</u>{rest}" if stamp else rest)  # noqa: S704 - made of escaped text above


# --- plots: numbers in, inline SVG out; the same numbers stand beside them as text


WIDTH, HEIGHT = 240, 18
STRIP = 160
_PAD = 8


def forest(point: float, low: float | None, high: float | None, reach: float, margin: float) -> Markup:
    """Return one line of a forest plot: a ratio with its interval on a logarithmic axis around 1.

    Args:
        point: the ratio, above 0.
        low: lower bound; None, as `high`: there is no interval.
        high: upper bound.
        reach: the axis ends at `1 / reach` and at `reach`; what lies outside is an arrow at that end.
        margin: so far around 1 there is a band.
    """
    middle = HEIGHT / 2
    begin, end = _place(1 - margin, reach), _place(1 + margin, reach)
    parts = [f'<rect class="band" x="{begin:.1f}" y="0" width="{end - begin:.1f}" height="{HEIGHT}"/>']
    parts.append(f'<path class="one" d="M{WIDTH / 2} 0V{HEIGHT}"/>')
    if low is not None and high is not None:
        left, right = _place(low, reach), _place(high, reach)
        parts.append(f'<path class="ci" d="M{left:.1f} {middle}H{max(right, left + 1):.1f}"/>')
        ends = ((left, low, -1), (right, high, 1))
        parts += [_arrow(at, side) for at, bound, side in ends if _off(bound, reach, side)]
    else:
        parts.append(f'<path class="no" d="M{_place(point, reach) - 7:.1f} {middle}h14"/>')
    at = _place(point, reach)
    parts.append(f'<rect x="{at - 3:.1f}" y="{middle - 3}" width="6" height="6"/>')
    return _svg("forest", parts)


def forest_axis(reach: float) -> Markup:
    """Return the axis of `forest`: its ends and its middle, as percentages."""
    ends = [(_PAD, f"{(1 / reach - 1) * 100:+.3g} %", "start"), (WIDTH / 2, "0", "middle")]
    ends.append((WIDTH - _PAD, f"{(reach - 1) * 100:+.3g} %", "end"))
    return _svg("axis", [f'<text x="{x}" y="13" text-anchor="{anchor}">{text}</text>' for x, text, anchor in ends])


def strips(rows: Sequence[Sequence[float]]) -> Markup:
    """Return rows of values as dots on one shared axis, a short line at each row's mean; the first row is hollow."""
    values = [value for row in rows for value in row]
    low, high = min(values), max(values)
    room = (STRIP - 2 * _PAD) / ((high - low) or math.inf)
    start = _PAD if high > low else STRIP / 2
    parts = []
    for number, row in enumerate(rows):
        y = HEIGHT * (number + 0.5) / len(rows)
        places = sorted({round(start + (value - low) * room, 1) for value in row})
        dots = "".join(f"M{x - 2.2:.1f} {y:.1f}a2.2 2.2 0 1 0 4.4 0a2.2 2.2 0 1 0 -4.4 0" for x in places)
        mean = start + (math.fsum(row) / len(row) - low) * room
        parts.append(f'<path class="{"here" if number else "base"}" d="{dots}"/>')
        parts.append(f'<path class="mean" d="M{mean:.1f} {y - 4:.1f}v8"/>')
    return _svg("strips", parts, STRIP)


def _place(ratio: float, reach: float) -> float:
    share = math.log(ratio) / math.log(reach) if ratio > 0 else -1.0
    return WIDTH / 2 + max(-1.0, min(1.0, share)) * (WIDTH / 2 - _PAD)


def _off(ratio: float, reach: float, side: int) -> bool:
    return ratio <= 0 or math.log(ratio) * side > math.log(reach)


def _arrow(at: float, side: int) -> str:
    return f'<path class="off" d="M{at} {HEIGHT / 2 - 4}l{side * 6} 4l{side * -6} 4z"/>'


def _svg(kind: str, parts: Iterable[str], width: int = WIDTH) -> Markup:
    head = f'<svg class="{kind}" width="{width}" height="{HEIGHT}" viewBox="0 0 {width} {HEIGHT}" aria-hidden="true">'
    return Markup(f"{head}{''.join(parts)}</svg>")  # noqa: S704 - made of numbers
