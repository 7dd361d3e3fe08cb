"""Masks and what they leave of a mixture, as a picture: a row a source, its picture, its mask and its spectrogram."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from avtool.report.canvas import GAP, Canvas, fitted, line_height, stacked
from avtool.report.paint import DECADES, PALE, loudest

PLOT_WIDTH, PLOT_HEIGHT = 420, 168
"""Pixels of a mask and of a spectrogram; a picture is as high."""
FLOOR = -7.0
"""log10 power of silence."""

_AXIS, _SIZE = 48, 13
_LEFTS = [PLOT_HEIGHT + 2 * GAP + _AXIS + k * (PLOT_WIDTH + GAP + _AXIS) for k in range(2)]
_WIDTH = _LEFTS[1] + PLOT_WIDTH + 2 * GAP
_TICKS = (500, 1000, 2000, 4000, 8000, 16000)


@dataclass(frozen=True)
class Panel:
    """``name`` of a source, the ``picture`` uint8 (H, W, 3) RGB that it was asked for by (None: none), and its ``mask``
    float (mels, frames) in [0, 1], lowest band first."""

    name: str
    picture: np.ndarray | None
    mask: np.ndarray


def render_masks(
    mixture: np.ndarray,
    panels: Sequence[Panel],
    *,
    title: str,
    seconds: float,
    highest: float,
    caption: Sequence[str] = (),
) -> np.ndarray:
    """The picture, uint8 (height, width, 3) RGB: the ``mixture``, log10 mel power (mels, frames) up to ``highest`` Hz,
    lasting ``seconds``, and under it the panels: picture, mask, and the mixture under the mask, in its colours.
    ValueError where a mask is not of the mixture's size."""
    if wrong := [panel.mask.shape for panel in panels if panel.mask.shape != mixture.shape]:
        raise ValueError(f"a mask of {wrong[0]} does not lie over a spectrogram of {mixture.shape}")
    axes = {"peak": loudest(mixture), "seconds": seconds, "highest": highest}
    rows = [_row(title, None, [None, mixture], **axes)]
    for panel in panels:
        left = np.maximum(mixture + 2 * np.log10(np.maximum(panel.mask, 1e-6)), FLOOR)
        rows.append(_row(panel.name, panel.picture, [panel.mask, left], **axes))
    lines = [line for text in caption for line in fitted(text, _SIZE, _WIDTH - 2 * GAP)]
    foot = Canvas(_WIDTH, line_height(_SIZE) * len(lines) + GAP)
    foot.write(lines, GAP, 0, _SIZE, [PALE])
    return stacked([*rows, foot])


def _row(
    name: str,
    picture: np.ndarray | None,
    plots: Sequence[np.ndarray | None],
    *,
    peak: float,
    seconds: float,
    highest: float,
) -> Canvas:
    """``plots``: a mask and a spectrogram whose brightest colour is ``peak``, either may be None."""
    lines = fitted(name, _SIZE, _WIDTH - 2 * GAP)
    top = GAP // 2 + line_height(_SIZE) * len(lines)
    page = Canvas(_WIDTH, top + PLOT_HEIGHT + 2 * line_height(_SIZE))
    page.write(lines, GAP, GAP // 2 - 2, _SIZE)
    if picture is not None:
        page.picture((GAP, top, PLOT_HEIGHT, PLOT_HEIGHT), picture)
    ranges: tuple[dict[str, Any], ...] = (
        {"cmap": "viridis", "vmin": 0, "vmax": 1},
        {"vmin": peak - DECADES, "vmax": peak},
    )
    for left, values, colours in zip(_LEFTS, plots, ranges, strict=True):
        if values is not None:
            extent = (0, seconds, 0, _mel(highest))
            axes = page.plot((left, top, PLOT_WIDTH, PLOT_HEIGHT), values, extent=extent, **colours)
            heard = [frequency for frequency in _TICKS if frequency <= highest]
            axes.set_yticks([_mel(hz) for hz in heard], [f"{hz / 1000:g} kHz" for hz in heard])
            times = [0.0, seconds / 2, seconds]
            axes.set_xticks(times, [f"{time:.3g} s" for time in times])
    return page


def _mel(frequency: float) -> float:
    return float(np.log10(1 + frequency / 700))
