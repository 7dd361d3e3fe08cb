"""A heat map over its frame, with a colour bar and a caption outside the frame."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from avtool.files import atomic_file
from avtool.report.paint import INK, PALE, PAPER, coloured, text_width, wrap, write

MARGIN = 16
"""Pixels around the frame, whose upper left corner lies at (MARGIN, MARGIN)."""

_BAR, _GAP = 14, 10
_CAPTION_WIDTH = 352  # at least so many pixels, however narrow the frame
_WARNING = (176, 32, 16)
_FAINT, _STRONG = 0.35, 0.75  # share of colour over the frame, where the map is lowest and highest


def render_heatmap(
    frame: np.ndarray, heat: np.ndarray, *, caption: Sequence[str] = (), warning: str = ""
) -> np.ndarray:
    """The picture, uint8 (height, width, 3) RGB.

    ``frame`` is uint8 (H, W, 3) RGB and keeps its own size; ``heat`` is float (H, W), of any scale: the map's
    lowest value has the darkest colour and its highest the brightest (a constant map is dark all over), and
    both values stand beside the colour bar. ``caption`` lines, then ``warning`` in red, stand below and are
    wrapped, never cut. ValueError where the two differ in size or the map is not finite.
    """
    if frame.shape[:2] != heat.shape:
        raise ValueError(f"a map of {heat.shape} does not lie over a frame of {frame.shape[:2]}")
    if not np.isfinite(heat).all():
        raise ValueError("the map holds values that are not finite")
    height, width = heat.shape
    size = min(32, max(13, width // 64))
    ends = (f"{heat.max():#.3g}", f"{heat.min():#.3g}")
    picture = MARGIN + width + _GAP + _BAR + _GAP // 2 + max(text_width(end, size) for end in ends)
    total_width = MARGIN + max(picture, MARGIN + _CAPTION_WIDTH)
    room = total_width - 2 * MARGIN
    written = [
        (line, INK if k == 0 else PALE) for k, text in enumerate(caption) for line in wrap(text, size, room)
    ]
    written += [(line, _WARNING) for line in wrap(warning, size, room)] if warning else []
    line_height = round(1.45 * size)
    top = MARGIN + max(height, 3 * size) + _GAP
    total_height = top + line_height * len(written) + MARGIN - (0 if written else _GAP)
    page = np.full((total_height, total_width, 3), PAPER, np.uint8)
    page[MARGIN : MARGIN + height, MARGIN : MARGIN + width] = overlay(frame, heat)
    _draw_bar(page, MARGIN + width + _GAP, height=max(height, 3 * size), ends=ends, size=size)
    for k, (line, colour) in enumerate(written):
        write(page, line, (MARGIN, top + k * line_height + size), size, colour)
    return page


def overlay(frame: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The frame under the map's colours, uint8 (H, W, 3): the hotter, the less of the frame shows through."""
    level = normalized(heat)
    share = (_FAINT + (_STRONG - _FAINT) * level)[..., None]
    return np.rint((1 - share) * frame + share * coloured(level)).astype(np.uint8)


def normalized(heat: np.ndarray) -> np.ndarray:
    """The map min-max scaled to 0 .. 1; zeros where it is constant."""
    low, high = float(heat.min()), float(heat.max())
    return (heat - low) / (high - low) if high > low else np.zeros_like(heat)


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write a picture uint8 (H, W, 3) RGB, whole or not at all."""
    coded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
    with atomic_file(path) as partial:
        partial.write_bytes(coded.tobytes())


def _draw_bar(page: np.ndarray, left: int, *, height: int, ends: tuple[str, str], size: int) -> None:
    """The colour bar beside the frame, with the values of its upper and lower end."""
    page[MARGIN : MARGIN + height, left : left + _BAR] = coloured(np.linspace(1, 0, height)[:, None])
    beside = left + _BAR + _GAP // 2
    for text, baseline in zip(ends, (MARGIN + size - 2, MARGIN + height - 1), strict=True):
        write(page, text, (beside, baseline), size, PALE)
