"""Masks and what they leave of a mixture, as a picture: a row a source, its picture, its mask and its spectrogram."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from avtool.report.heatmap import wrap

PLOT_WIDTH, PLOT_HEIGHT = 420, 168
"""Pixels of a mask and of a spectrogram."""
PICTURE = PLOT_HEIGHT
DECADES = 6.0
"""Span of a spectrogram's colours below the mixture's loudest value, in powers of ten: 60 dB."""
LOUDEST_AT_LEAST = -1.0
"""log10 power: silence, at -7, is black however little there is beside it."""
FLOOR = -7.0

_GAP, _AXIS, _SIZE, _SMALL = 16, 44, 14, 12
_LINE = round(1.6 * _SIZE)
_PAPER, _INK, _PALE, _MAT = (255, 255, 255), (34, 34, 34), (110, 110, 110), (225, 225, 225)
_FONT, _FONT_PIXELS = cv2.FONT_HERSHEY_SIMPLEX, 28.0  # height of a line of the font at scale 1
_WIDTH = PICTURE + 2 * (PLOT_WIDTH + _AXIS) + 4 * _GAP
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
    loudest = max(float(mixture.max()), LOUDEST_AT_LEAST)
    axes = _Axes(seconds, highest)
    rows = [_row(title, None, [None, _spectrogram(mixture, loudest)], axes)]
    for panel in panels:
        left = np.maximum(mixture + 2 * np.log10(np.maximum(panel.mask, 1e-6)), FLOOR)
        mask = _coloured(np.clip(panel.mask, 0, 1), cv2.COLORMAP_VIRIDIS)
        rows.append(_row(panel.name, panel.picture, [mask, _spectrogram(left, loudest)], axes))
    lines = [line for text in caption for line in wrap(text, _SIZE, _WIDTH - 2 * _GAP)]
    foot = np.full((_GAP + _LINE * len(lines), _WIDTH, 3), _PAPER, np.uint8)
    for k, line in enumerate(lines):
        _write(foot, line, (_GAP, (k + 1) * _LINE - 4), _PALE)
    return np.concatenate([*rows, foot])


class _Axes(NamedTuple):
    """What a plot spans: ``seconds`` to the right, and frequencies up to ``highest`` Hz."""

    seconds: float
    highest: float


def _row(
    name: str, picture: np.ndarray | None, plots: Sequence[np.ndarray | None], axes: _Axes
) -> np.ndarray:
    lines = wrap(name, _SIZE, _WIDTH - 2 * _GAP)
    top = _GAP // 2 + _LINE * len(lines) + 4
    row = np.full((top + PLOT_HEIGHT + _LINE + _GAP // 2, _WIDTH, 3), _PAPER, np.uint8)
    for k, line in enumerate(lines):
        _write(row, line, (_GAP, _GAP // 2 + (k + 1) * _LINE - 6), _INK)
    if picture is not None:
        row[top : top + PICTURE, _GAP : _GAP + PICTURE] = _framed(picture)
    for k, plot in enumerate(plots):
        left = PICTURE + (k + 2) * _GAP + (k + 1) * _AXIS + k * PLOT_WIDTH
        if plot is not None:
            row[top : top + PLOT_HEIGHT, left : left + PLOT_WIDTH] = plot
            _draw_axes(row, (left, top), axes)
    return row


def _framed(picture: np.ndarray) -> np.ndarray:
    """All of the picture, as large as it fits, in the middle of its place."""
    height, width = picture.shape[:2]
    scale = PICTURE / max(height, width)
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    place = np.full((PICTURE, PICTURE, 3), _MAT, np.uint8)
    left, top = (PICTURE - w) // 2, (PICTURE - h) // 2
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    place[top : top + h, left : left + w] = cv2.resize(picture, (w, h), interpolation=how)
    return place


def _spectrogram(log_mel: np.ndarray, loudest: float) -> np.ndarray:
    return _coloured(np.clip(1 + (log_mel - loudest) / DECADES, 0, 1), cv2.COLORMAP_INFERNO)


def _coloured(levels: np.ndarray, colours: int) -> np.ndarray:
    """Levels 0 to 1 (mels, frames) in colour, low bands at the bottom: uint8 (PLOT_HEIGHT, PLOT_WIDTH, 3) RGB."""
    flipped = np.ascontiguousarray(levels[::-1].astype(np.float32))
    scaled = cv2.resize(flipped, (PLOT_WIDTH, PLOT_HEIGHT), interpolation=cv2.INTER_AREA)
    return cv2.applyColorMap(np.rint(255 * scaled).astype(np.uint8), colours)[..., ::-1]


def _draw_axes(page: np.ndarray, at: tuple[int, int], axes: _Axes) -> None:
    """Frequencies and times beside the plot at ``at`` (left, top)."""
    left, top = at
    for frequency in (tick for tick in _TICKS if tick <= axes.highest):
        y = top + round((1 - _mel(frequency) / _mel(axes.highest)) * (PLOT_HEIGHT - 1))
        text = f"{frequency / 1000:g} kHz"
        cv2.line(page, (left - 4, y), (left - 1, y), _PALE, 1)
        _write(page, text, (left - 6 - _text_width(text), y + 4), _PALE, _SMALL)
    for share in (0.0, 0.5, 1.0):
        text = f"{share * axes.seconds:.3g} s"
        x = left + round(share * (PLOT_WIDTH - _text_width(text)))
        _write(page, text, (x, top + PLOT_HEIGHT + _LINE - 8), _PALE, _SMALL)


def _mel(frequency: float) -> float:
    return float(np.log10(1 + frequency / 700))


def _text_width(text: str) -> int:
    return cv2.getTextSize(text, _FONT, _SMALL / _FONT_PIXELS, 1)[0][0]


def _write(
    page: np.ndarray, text: str, at: tuple[int, int], colour: tuple[int, ...], size: int = _SIZE
) -> None:
    cv2.putText(page, text, at, _FONT, size / _FONT_PIXELS, colour, 1, cv2.LINE_AA)
