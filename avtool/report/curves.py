"""Curves of training runs over each other: one colour a run, one panel a quantity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from avtool.report.heatmap import wrap

WIDTH, PANEL_HEIGHT = 1600, 330
"""Pixels of the whole picture, and the height of a row of panels."""
COLOURS = (
    (31, 90, 180),
    (214, 92, 10),
    (20, 130, 60),
    (170, 30, 120),
    (120, 90, 20),
    (0, 140, 150),
    (190, 30, 30),
    (90, 90, 100),
)
"""One a run, in order; a ninth run begins anew."""

_MARGIN, _LEFT, _TOP, _BOTTOM, _RIGHT = 20, 66, 34, 42, 16
_PAPER, _INK, _PALE, _GRID = (255, 255, 255), (34, 34, 34), (110, 110, 110), (228, 228, 228)
_FONT, _FONT_PIXELS, _SIZE, _SMALL = cv2.FONT_HERSHEY_SIMPLEX, 28.0, 16, 13
_SHIFT = 4  # bits of a pixel's fraction in what OpenCV draws
_HELD_OUT = "held_out_"

Rows = Sequence[Mapping[str, Any]]
"""Lines of a metrics.jsonl, each with its ``step``."""


@dataclass(frozen=True)
class Panel:
    """One quantity, by the key that it has in a row: ``line`` as a line, ``dots`` as a line with dots, ``floor`` (what
    nothing learned would get) as a dashed one. Panels of one ``scale`` share their vertical axis;
    ``from_zero`` puts 0 on it."""

    title: str
    line: str = ""
    dots: str = ""
    floor: str = ""
    scale: str = ""
    from_zero: bool = False


@dataclass
class _Axes:
    """A panel's place on the page and the values at its edges."""

    left: int
    top: int
    width: int
    height: int
    x: tuple[float, float]
    y: tuple[float, float]
    page: np.ndarray = field(repr=False)

    def place(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 2) of step and value as pixels of the page, in units of 2 ** -_SHIFT."""
        spans = np.array([self.x[1] - self.x[0], self.y[1] - self.y[0]])
        share = (points - [self.x[0], self.y[0]]) / spans
        pixels = [self.left, self.top + self.height] + share * [self.width, -self.height]
        return np.rint(pixels * 2**_SHIFT).astype(np.int32)


def draw_curves(runs: Mapping[str, Rows]) -> np.ndarray:
    """The picture, uint8 (height, 1600, 3) RGB, of ``runs`` by name. ValueError where no row holds a number to draw.

    First losses (thin: training, dots: held out, dashed: its floor), then held-out measures by stream with their floor,
    then the learning rate and speed. Values that are not finite are left out.
    """
    rows = [_laid_out(group, len(group)) for group in panels_of(runs)]
    if not rows:
        raise ValueError("there is nothing to draw")
    legend = _legend(list(runs))
    page = np.full((len(legend) + PANEL_HEIGHT * len(rows) + _MARGIN, WIDTH, 3), _PAPER, np.uint8)
    page[: len(legend)] = legend
    for number, row in enumerate(rows):
        limits = _limits([panel for panel, _, _ in row], runs)
        for panel, left, width in row:
            place = (left, len(legend) + number * PANEL_HEIGHT, width)
            _draw_panel(page, panel, place, limits[panel.scale or panel.title], runs)
    return page


def panels_of(runs: Mapping[str, Rows]) -> list[list[Panel]]:
    """The panels that the runs have numbers for, in rows."""
    keys = {key for rows in runs.values() for row in rows for key, value in row.items() if _is_number(value)}
    streams = sorted((key for key in keys if key.startswith(f"{_HELD_OUT}knn_")), key=_stream)
    own_floor = "" if streams or f"{_HELD_OUT}share_of_floor" in keys else f"{_HELD_OUT}floor"
    of_task = sorted(key for key in keys if key.startswith(f"{_HELD_OUT}score"))
    first = [
        Panel(
            "loss (thin: training, dots: held out, dashed: floor)",
            "loss",
            f"{_HELD_OUT}loss",
            _floor_of_loss(keys),
        ),
        Panel(
            "effective rank of held-out clips' mean fusion tokens",
            dots=f"{_HELD_OUT}effective_rank_fusion",
            from_zero=True,
        ),
    ]
    measures = [
        Panel(f"nearest neighbour, {name}", "", key, f"{_HELD_OUT}knn_floor", "knn")
        for key in streams
        if (name := key.removeprefix(f"{_HELD_OUT}knn_")) != "floor"
    ]
    measures += [Panel(_words(key), "", key, own_floor, "score") for key in of_task]
    last = [
        Panel("learning rate", "lr"),
        Panel("samples a second", "samples_per_second"),
        Panel("share of time waiting for data", "waiting", scale="share"),
        Panel("share of time outside task and optimizer", "overhead", scale="share"),
    ]
    rows = [
        [panel for panel in row if {panel.line, panel.dots} & keys]
        for row in (first, *_in_fours(measures), last)
    ]
    return [row for row in rows if row]


def _in_fours(panels: list[Panel]) -> Iterable[list[Panel]]:
    return (panels[start : start + 4] for start in range(0, len(panels), 4))


def _floor_of_loss(keys: set[str]) -> str:
    return f"{_HELD_OUT}floor" if f"{_HELD_OUT}share_of_floor" in keys else ""


def _stream(key: str) -> tuple[int, str]:
    order = ("image", "audio", "fusion", "all")
    name = key.rsplit("_", 1)[-1]
    return order.index(name) if name in order else len(order), key


def _words(key: str) -> str:
    return key.removeprefix(_HELD_OUT).replace("_", ", ", 1).replace("_", " ") + " (held out)"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _laid_out(panels: list[Panel], count: int) -> list[tuple[Panel, int, int]]:
    """Each panel with its left edge and its width: all alike, the row as wide as the page."""
    width = (WIDTH - 2 * _MARGIN) // count
    return [(panel, _MARGIN + number * width, width) for number, panel in enumerate(panels)]


def points_of(rows: Rows, key: str) -> np.ndarray:
    """Steps and values (N, 2) of the rows that hold a finite ``key``, float64."""
    pairs = [(row["step"], row[key]) for row in rows if key and _is_number(row.get(key))]
    return np.array(pairs, np.float64).reshape(-1, 2)


def thinned(points: np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` points (N, 2): means of neighbours, where there are more."""
    if len(points) <= most:
        return points
    return np.array([part.mean(axis=0) for part in np.array_split(points, most)])


def _limits(
    panels: Sequence[Panel], runs: Mapping[str, Rows]
) -> dict[str, tuple[tuple[float, float], tuple[float, float]]]:
    """For every scale, the range of steps (of all panels together) and that of values."""
    steps = [row["step"] for rows in runs.values() for row in rows]
    across = (0.0, float(max(1, *steps, 1)))
    values: dict[str, list[np.ndarray]] = {}
    for panel in panels:
        if panel.from_zero:
            values.setdefault(panel.scale or panel.title, []).append(np.zeros(1))
        for rows in runs.values():
            for key in (panel.line, panel.dots, panel.floor):
                values.setdefault(panel.scale or panel.title, []).append(points_of(rows, key)[:, 1])
    return {scale: (across, _widened(np.concatenate(parts))) for scale, parts in values.items()}


def _widened(values: np.ndarray) -> tuple[float, float]:
    """The range of ``values`` with some air; a constant gets a range around it, and what is near 0 begins there."""
    low, high = float(values.min()), float(values.max())
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    bottom = 0.0 if 0 <= low <= 0.25 * high else low - room
    return bottom, high + room


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``, about ``count`` of them: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.7)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _label(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.0e}".replace("e-0", "e-") if abs(value) < 1e-3 else f"{value:,.6g}"


def _legend(names: list[str]) -> np.ndarray:
    """The runs' names, each beside its colour, in as many columns as they leave room for."""
    widest = max(_text_width(name, _SIZE) for name in names) + 100
    columns = max(1, min(len(names), (WIDTH - 2 * _MARGIN) // widest))
    width = (WIDTH - 2 * _MARGIN) // columns
    lines = [(name, line) for name in range(len(names)) for line in wrap(names[name], _SIZE, width - 60)]
    rows = math.ceil(len(lines) / columns)
    line_height = round(1.6 * _SIZE)
    page = np.full((_MARGIN + rows * line_height + _MARGIN // 2, WIDTH, 3), _PAPER, np.uint8)
    for number, (run, text) in enumerate(lines):
        left = _MARGIN + (number // rows) * width
        baseline = _MARGIN + (number % rows) * line_height + _SIZE
        if number == 0 or lines[number - 1][0] != run:
            colour = COLOURS[run % len(COLOURS)]
            cv2.line(page, (left, baseline - 5), (left + 44, baseline - 5), colour, 4, cv2.LINE_AA)
        _write(page, text, (left + 56, baseline), _SIZE, _INK)
    return page


def _draw_panel(
    page: np.ndarray,
    panel: Panel,
    place: tuple[int, int, int],
    limits: tuple[tuple[float, float], tuple[float, float]],
    runs: Mapping[str, Rows],
) -> None:
    left, top, width = place
    inner = (left + _LEFT, top + _TOP, width - _LEFT - _RIGHT, PANEL_HEIGHT - _TOP - _BOTTOM)
    axes = _Axes(*inner, *limits, page)
    _draw_axes(axes, panel.title)
    for number, rows in enumerate(runs.values()):
        colour = COLOURS[number % len(COLOURS)]
        line = points_of(rows, panel.line)
        _draw_line(axes, thinned(line, axes.width), colour, 1)
        _draw_floor(axes, points_of(rows, panel.floor), colour)
        dots = points_of(rows, panel.dots)
        _draw_line(axes, dots, colour, 2)
        for x, y in axes.place(np.concatenate([dots, line[: len(line) == 1]])):  # one point alone is no line
            cv2.circle(page, (int(x), int(y)), 4 << _SHIFT, colour, -1, cv2.LINE_AA, _SHIFT)


def _draw_axes(axes: _Axes, title: str) -> None:
    """Title, frame, grid and the numbers beside it."""
    page, bottom = axes.page, axes.top + axes.height
    _write(page, wrap(title, _SIZE, axes.width + _LEFT)[0], (axes.left, axes.top - 10), _SIZE, _INK)
    for value in ticks(*axes.y):
        y = int(axes.place(np.array([[axes.x[0], value]]))[0, 1]) >> _SHIFT
        cv2.line(page, (axes.left, y), (axes.left + axes.width, y), _GRID, 1)
        text = _label(value)
        _write(page, text, (axes.left - 8 - _text_width(text, _SMALL), y + 4), _SMALL, _PALE)
    for value in ticks(*axes.x):
        x = int(axes.place(np.array([[value, axes.y[0]]]))[0, 0]) >> _SHIFT
        cv2.line(page, (x, axes.top), (x, bottom), _GRID, 1)
        text = _label(value)
        _write(page, text, (x - _text_width(text, _SMALL) // 2, bottom + 18), _SMALL, _PALE)
    cv2.rectangle(page, (axes.left, axes.top), (axes.left + axes.width, bottom), _PALE, 1)
    _write(page, "step", (axes.left + axes.width // 2 - 14, bottom + 35), _SMALL, _PALE)


def _draw_line(axes: _Axes, points: np.ndarray, colour: tuple[int, ...], thickness: int) -> None:
    if len(points):
        cv2.polylines(axes.page, [axes.place(points)], False, colour, thickness, cv2.LINE_AA, _SHIFT)


def _draw_floor(axes: _Axes, points: np.ndarray, colour: tuple[int, ...]) -> None:
    """The mean of ``points`` as a dashed line across the panel."""
    if not len(points):
        return
    y = int(axes.place(np.array([[axes.x[0], points[:, 1].mean()]]))[0, 1]) >> _SHIFT
    for x in range(axes.left, axes.left + axes.width, 14):
        cv2.line(axes.page, (x, y), (min(x + 7, axes.left + axes.width), y), colour, 1, cv2.LINE_AA)


def _text_width(text: str, size: int) -> int:
    return cv2.getTextSize(text, _FONT, size / _FONT_PIXELS, 1)[0][0]


def _write(page: np.ndarray, text: str, at: tuple[int, int], size: int, colour: tuple[int, ...]) -> None:
    cv2.putText(page, text, at, _FONT, size / _FONT_PIXELS, colour, 1, cv2.LINE_AA)
