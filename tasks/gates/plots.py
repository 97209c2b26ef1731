"""Small plots as inline SVG: lines over time, bars, and estimates with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from tasks.contracts.gate_reports import Figure, Series, Shape

WIDTH, HEIGHT = 560, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 30
ROW_HEIGHT, LABEL_WIDTH, VALUE_WIDTH = 26, 150, 96
MAX_TICKS = 5


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A linear scale from values to pixels with round ticks."""

    low: float
    high: float
    start: float  # pixel of `low`
    end: float  # pixel of `high`
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Return the pixel of `value`, rounded so that equal reports have equal bytes."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def axis(values: Iterable[float], start: float, end: float, *, with_zero: bool) -> Axis:
    """Return an axis that holds all finite values between round ends."""
    kept = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(kept), max(kept)
    if with_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high == low:
        high = low + (abs(low) or 1.0)
    step = _round_step((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(place * step, 12) for place in range(first, last + 1))
    return Axis(low=ticks[0], high=ticks[-1], start=start, end=end, ticks=ticks)


def svg(figure: Figure) -> str:
    """Return the figure as one `<svg>` element with a text for those who cannot see it."""
    height, body = _DRAWN[figure.shape](figure)
    label = escape(figure.title, quote=True)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{"".join(body)}</svg>'
    )


def _round_step(raw: float) -> float:
    size = 10.0 ** math.floor(math.log10(raw))
    return next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= raw * 0.999)


def _text(x: float, y: float, text: str, *, anchor: str = "middle", kind: str = "tick") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def _line(start: tuple[float, float], end: tuple[float, float], kind: str) -> str:
    (x1, y1), (x2, y2) = start, end
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" class="{kind}"/>'


def _drawn_line(figure: Figure) -> tuple[int, list[str]]:
    values = [v for series in figure.series for v in series.values if v is not None]
    bounds = [] if figure.bound is None else [figure.bound]
    low = min(values, default=0.0)
    near_zero = low <= 0.5 * max(values, default=0.0)
    y = axis([*values, *bounds], HEIGHT - BOTTOM, TOP, with_zero=near_zero)
    steps = max(len(figure.labels) - 1, 1)
    x = Axis(low=0, high=steps, start=LEFT, end=WIDTH - RIGHT, ticks=())
    body = [_line((LEFT, y.at(tick)), (WIDTH - RIGHT, y.at(tick)), "grid") for tick in y.ticks]
    body += [
        _text(LEFT - 8, y.at(tick) + 4, short(tick, y.ticks), anchor="end") for tick in y.ticks
    ]
    for place in _spread(len(figure.labels)):
        anchor = "start" if place == 0 else "end" if place == steps else "middle"
        body.append(_text(x.at(place), HEIGHT - 8, figure.labels[place], anchor=anchor))
    for number, series in enumerate(figure.series):
        body += _path(series, number, x, y)
    if figure.bound is not None:
        body.append(_line((LEFT, y.at(figure.bound)), (WIDTH - RIGHT, y.at(figure.bound)), "bound"))
    return HEIGHT, body


def _path(series: Series, number: int, x: Axis, y: Axis) -> list[str]:
    """Return the line, broken where there is no value; a value alone is a dot."""
    pieces: list[list[str]] = [[]]
    for place, value in enumerate(series.values):
        if value is None or not math.isfinite(value):
            pieces.append([])
        else:
            pieces[-1].append(f"{x.at(place)},{y.at(value)}")
    drawn = []
    for piece in filter(None, pieces):
        if len(piece) == 1:
            cx, cy = piece[0].split(",")
            drawn.append(f'<circle cx="{cx}" cy="{cy}" r="2.5" class="dot s{number % 5}"/>')
        else:
            drawn.append(f'<polyline points="{" ".join(piece)}" class="line s{number % 5}"/>')
    return drawn


def _rows(figure: Figure) -> list[tuple[str, Series, int, int]]:
    """Return (label, series, place, number of the series) of every row that has a value."""
    return [
        (label, series, place, number)
        for place, label in enumerate(figure.labels)
        for number, series in enumerate(figure.series)
        if series.values[place] is not None
    ]


def _frame_of_rows(figure: Figure, x: Axis, height: int) -> list[str]:
    foot = height - 24
    body = [_line((x.at(tick), TOP), (x.at(tick), foot), "grid") for tick in x.ticks]
    body += [_text(x.at(tick), height - 8, short(tick, x.ticks)) for tick in x.ticks]
    if x.low < 0 < x.high:
        body.append(_line((x.at(0), TOP), (x.at(0), foot), "zero"))
    if figure.bound is not None:
        body.append(_line((x.at(figure.bound), TOP), (x.at(figure.bound), foot), "bound"))
    return body


def _drawn_bars(figure: Figure) -> tuple[int, list[str]]:
    rows = _rows(figure)
    bounds = [] if figure.bound is None else [figure.bound]
    values = [float(series.values[place] or 0) for _, series, place, _ in rows]
    x = axis([*values, *bounds], LABEL_WIDTH, WIDTH - VALUE_WIDTH, with_zero=True)
    height = TOP + ROW_HEIGHT * len(rows) + 28
    body = _frame_of_rows(figure, x, height)
    for row, (label, _, _, number) in enumerate(rows):
        y, value = TOP + row * ROW_HEIGHT, values[row]
        left, right = sorted((x.at(0), x.at(value)))
        body.append(
            f'<rect x="{left}" y="{y + 5}" width="{round(max(right - left, 0.8), 1)}" '
            f'height="{ROW_HEIGHT - 10}" rx="2" class="bar s{number % 5}"/>'
        )
        body.append(_text(LABEL_WIDTH - 8, y + 17, cut(label), anchor="end", kind="label"))
        body.append(_text(right + 6, y + 17, short(value), anchor="start", kind="value"))
    return height, body


def _drawn_intervals(figure: Figure) -> tuple[int, list[str]]:
    rows = _rows(figure)
    bounds = [] if figure.bound is None else [figure.bound]
    ends = [end for _, s, place, _ in rows for end in _ends(s, place)]
    x = axis([*ends, *bounds], LABEL_WIDTH, WIDTH - VALUE_WIDTH, with_zero=True)
    height = TOP + ROW_HEIGHT * len(rows) + 28
    body = _frame_of_rows(figure, x, height)
    for row, (label, series, place, number) in enumerate(rows):
        y = TOP + row * ROW_HEIGHT + ROW_HEIGHT // 2
        low, value, high = _ends(series, place)
        body.append(_line((x.at(low), y), (x.at(high), y), f"whisker s{number % 5}"))
        for end in (low, high):
            body.append(_line((x.at(end), y - 5), (x.at(end), y + 5), f"whisker s{number % 5}"))
        body.append(f'<circle cx="{x.at(value)}" cy="{y}" r="4.5" class="dot s{number % 5}"/>')
        body.append(_text(LABEL_WIDTH - 8, y + 4, cut(label), anchor="end", kind="label"))
        body.append(_text(x.end + 8, y + 4, short(value), anchor="start", kind="value"))
    return height, body


def _ends(series: Series, place: int) -> tuple[float, float, float]:
    value = float(series.values[place] or 0)
    low = series.low[place] if series.low else value
    high = series.high[place] if series.high else value
    return low, value, high


def _spread(count: int) -> list[int]:
    """Return at most MAX_TICKS places, the first and the last among them."""
    if count <= MAX_TICKS:
        return list(range(count))
    return [round(part * (count - 1) / (MAX_TICKS - 1)) for part in range(MAX_TICKS)]


def short(value: float, ticks: Sequence[float] = ()) -> str:
    """Return the number in few characters: 1500 -> 1.5k, 0.0314 -> 0.031."""
    size = max((abs(tick) for tick in ticks), default=abs(value))
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= 10 * unit or (size >= unit > 1e3):
            return f"{value / unit:.3g}{letter}" if value else "0"
    if ticks:
        return f"{value:.6g}"
    return f"{value:,.0f}" if value == int(value) and size >= 1 else f"{value:.3g}"


def cut(text: str, limit: int = 22) -> str:
    """Return `text` with its end cut off to fit beside a row."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


_DRAWN: Mapping[Shape, Callable[[Figure], tuple[int, list[str]]]] = {
    "line": _drawn_line,
    "bars": _drawn_bars,
    "intervals": _drawn_intervals,
}
