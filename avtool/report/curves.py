"""Curves of training runs over each other: one colour a run, one panel a quantity."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from avtool.report.page import FAMILY, GAP, LINE, Page, fitted, stacked, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, PANEL_HEIGHT = 1600, 330
"""Pixels of the whole picture, and the height of a row of panels."""
COLOURS = ("#1f5ab4", "#d65c0a", "#14823c", "#aa1e78", "#785a14", "#008c96", "#be1e1e", "#5a5a64")
"""One a run, in order; a ninth run begins anew."""
STREAMS = ("image", "audio", "fusion", "all")

_LEFT, _TOP, _BOTTOM = 66, 34, 42

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


def draw_curves(runs: Mapping[str, Rows]) -> np.ndarray:
    """The picture, uint8 (height, 1600, 3) RGB, of ``runs`` by name. ValueError where no row holds a number to draw.

    First losses (thin: training, dots: held out, dashed: its floor), then held-out measures by stream with their floor,
    then the learning rate and speed. Values that are not finite are left out.
    """
    rows = [_row(panels, runs) for panels in panels_of(runs)]
    if not rows:
        raise ValueError("there is nothing to draw")
    return stacked([_legend(list(runs)), *rows])


def panels_of(runs: Mapping[str, Rows]) -> list[list[Panel]]:
    """The panels that the runs have numbers for, in rows."""
    keys = {key for rows in runs.values() for row in rows for key, value in row.items() if _is_number(value)}
    streams = [name for name in STREAMS if f"held_out_knn_{name}" in keys]
    of_loss = "held_out_share_of_floor" in keys
    loss_floor = "held_out_floor" if of_loss else ""
    own_floor = "" if of_loss or streams else "held_out_floor"
    first = [
        Panel("loss (thin: training, dots: held out, dashed: floor)", "loss", "held_out_loss", loss_floor),
        Panel(
            "effective rank of held-out clips' mean fusion tokens",
            dots="held_out_effective_rank_fusion",
            from_zero=True,
        ),
    ]
    measures = [
        Panel(f"nearest neighbour, {name}", "", f"held_out_knn_{name}", "held_out_knn_floor", "knn")
        for name in streams
    ]
    for key in sorted(key for key in keys if key.startswith("held_out_score")):
        words = key.removeprefix("held_out_").replace("_", ", ", 1).replace("_", " ")
        measures.append(Panel(f"{words} (held out)", "", key, own_floor, "score"))
    loop = [
        Panel("learning rate", "lr"),
        Panel("samples a second", "samples_per_second"),
        Panel("share of time waiting for data", "waiting", scale="share"),
        Panel("share of time outside task and optimizer", "overhead", scale="share"),
    ]
    in_fours = [measures[start : start + 4] for start in range(0, len(measures), 4)]
    there = [[panel for panel in row if {panel.line, panel.dots} & keys] for row in (first, *in_fours, loop)]
    return [row for row in there if row]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def points_of(rows: Rows, key: str) -> np.ndarray:
    """Steps and values (N, 2) of the rows that hold a finite ``key``, float64."""
    pairs = [(row["step"], row[key]) for row in rows if key and _is_number(row.get(key))]
    return np.array(pairs, np.float64).reshape(-1, 2)


def thinned(points: np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` points (N, 2): means of neighbours, where there are more."""
    if len(points) <= most:
        return points
    return np.array([part.mean(axis=0) for part in np.array_split(points, most)])


def _row(panels: Sequence[Panel], runs: Mapping[str, Rows]) -> Page:
    """Panels beside each other, all over the same steps; those of one scale have the same vertical axis."""
    page, width = Page(WIDTH, PANEL_HEIGHT), (WIDTH - 2 * GAP) // len(panels)
    last, ranges = _last_step(runs), _ranges(panels, runs)
    for number, panel in enumerate(panels):
        left, inside = GAP + number * width + _LEFT, width - _LEFT - GAP
        axes = page.axes(left, _TOP, inside, PANEL_HEIGHT - _TOP - _BOTTOM)
        page.write(fitted(inside, panel.title)[:1], left, _TOP - 24)
        for rows, colour in zip(runs.values(), cycle(COLOURS)):
            _draw(axes, panel, rows, colour, most=inside)
        axes.set(xlim=(0, last), ylim=ranges[panel.scale or panel.title])
        axes.set_xlabel("step", fontsize=11, family=FAMILY, color="#6e6e6e")
        axes.grid(color="#e4e4e4")
        axes.spines[:].set(visible=True, color="#6e6e6e")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(_label)
    return page


def _last_step(runs: Mapping[str, Rows]) -> int:
    return max((row["step"] for rows in runs.values() for row in rows), default=0) or 1


def _ranges(panels: Sequence[Panel], runs: Mapping[str, Rows]) -> dict[str, tuple[float, float]]:
    """What the vertical axes of ``panels`` go from and to, by scale."""
    values: dict[str, list[float]] = {}
    for panel in panels:
        on_scale = values.setdefault(panel.scale or panel.title, [])
        on_scale += [0.0] if panel.from_zero else []
        for key in (panel.line, panel.dots, panel.floor):
            on_scale += [value for rows in runs.values() for value in points_of(rows, key)[:, 1]]
    return {scale: _widened(found) for scale, found in values.items()}


def _widened(values: Sequence[float]) -> tuple[float, float]:
    """The range of ``values`` with some air; a constant gets a range around it, and what is near 0 begins there."""
    low, high = float(min(values)), float(max(values))
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    bottom = 0.0 if 0 <= low <= 0.25 * high else low - room
    return bottom, high + room


def _label(value: float, position: float | None = None) -> str:
    if value == 0:
        return "0"
    return f"{value:.0e}".replace("e-0", "e-") if abs(value) < 1e-3 else f"{value:,.6g}"


CHART = (400, 210, 52, 10, 24)
"""Width and height of a chart, and its margins at the left, at the right and at the top, and below."""


@dataclass(frozen=True)
class Chart:
    """A panel of one run in units of an SVG of ``CHART``'s size: ``line`` and ``dots`` (x, y), ``floor`` a y; ticks as
    (place, label). ``said`` is the whole in words."""

    title: str
    line: list[tuple[float, float]]
    dots: list[tuple[float, float]]
    floor: float | None
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    said: str


def charts(rows: Rows) -> list[Chart]:
    """The panels that ``rows`` of one run have numbers for."""
    runs = {"": rows}
    return [
        _chart(panel, rows, _last_step(runs), _ranges(panels, runs)[panel.scale or panel.title])
        for panels in panels_of(runs)
        for panel in panels
    ]


def _chart(panel: Panel, rows: Rows, last: int, limits: tuple[float, float]) -> Chart:
    from matplotlib.ticker import MaxNLocator

    width, height, left, margin, below = CHART

    def x(step: float) -> float:
        return round(left + (width - left - margin) * step / last, 1)

    def y(value: float) -> float:
        share = (value - limits[0]) / (limits[1] - limits[0])
        return round(height - below - (height - below - margin) * share, 1)

    def ticks(low: float, high: float, place: Callable[[float], float]) -> list[tuple[float, str]]:
        found = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
        return [(place(value), _label(value)) for value in map(float, found) if low <= value <= high]

    line, dots, floor = (points_of(rows, key) for key in (panel.line, panel.dots, panel.floor))
    told = [
        f"{what} from {_label(points[0, 1])} at step {points[0, 0]:.0f} to {_label(points[-1, 1])} at step "
        f"{points[-1, 0]:.0f}"
        for what, points in (("in training", line), ("held out", dots))
        if len(points)
    ]
    told += [f"floor {_label(floor[:, 1].mean())}"] if len(floor) else []
    return Chart(
        title=panel.title.partition(" (thin")[0],
        line=[(x(step), y(value)) for step, value in thinned(line, width).tolist()],
        dots=[(x(step), y(value)) for step, value in dots.tolist()],
        floor=y(floor[:, 1].mean()) if len(floor) else None,
        x_ticks=ticks(0, last, x),
        y_ticks=ticks(*limits, y),
        said="; ".join(told),
    )


def _draw(axes: Axes, panel: Panel, rows: Rows, colour: str, *, most: int) -> None:
    """A run in a panel, its line of at most ``most`` points; one point alone is no line, so that it is a dot."""
    line, dots, floor = (points_of(rows, key) for key in (panel.line, panel.dots, panel.floor))
    axes.plot(*thinned(line, most).T, color=colour, linewidth=1, marker="o" if len(line) == 1 else "")
    axes.plot(*dots.T, color=colour, linewidth=2, marker="o")
    if len(floor):
        axes.axhline(floor[:, 1].mean(), color=colour, linewidth=1, linestyle="--")


def _legend(names: Sequence[str]) -> Page:
    """The runs' names, each beside its colour, in as many columns as they leave room for."""
    widest = max(map(text_width, names)) + 100
    columns = max(1, min(len(names), int((WIDTH - 2 * GAP) // widest)))
    width = (WIDTH - 2 * GAP) // columns
    texts = [fitted(width - 60, name) for name in names]
    lines = [(run, k, line) for run, text in enumerate(texts) for k, line in enumerate(text)]
    rows = math.ceil(len(lines) / columns)
    page = Page(WIDTH, 2 * GAP + rows * LINE)
    for number, (run, k, line) in enumerate(lines):
        left, top = GAP + (number // rows) * width, GAP + (number % rows) * LINE
        if k == 0:
            page.axes(left, top + 7, 44, 4).set(xticks=[], yticks=[], facecolor=COLOURS[run % len(COLOURS)])
        page.write([line], left + 56, top)
    return page
