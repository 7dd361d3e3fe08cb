"""A heat map over its frame, with a colour bar and a caption outside the frame."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from avtool.files import atomic_file

MARGIN = 16
"""Pixels around the frame, whose upper left corner lies at (MARGIN, MARGIN)."""

_BAR, _GAP = 14, 10
_CAPTION_WIDTH = 352  # at least so many pixels, however narrow the frame
_PAPER, _INK, _PALE, _WARNING = (255, 255, 255), (34, 34, 34), (110, 110, 110), (176, 32, 16)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_PIXELS = 28.0  # height of a line of the font at scale 1
_COLOURS = cv2.COLORMAP_INFERNO  # its lightness rises evenly: it can be read in grey, too
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
    picture = MARGIN + width + _GAP + _BAR + _GAP // 2 + max(_text_width(end, size) for end in ends)
    total_width = MARGIN + max(picture, MARGIN + _CAPTION_WIDTH)
    room = total_width - 2 * MARGIN
    written = [
        (line, _INK if k == 0 else _PALE) for k, text in enumerate(caption) for line in wrap(text, size, room)
    ]
    written += [(line, _WARNING) for line in wrap(warning, size, room)] if warning else []
    line_height = round(1.45 * size)
    top = MARGIN + max(height, 3 * size) + _GAP
    total_height = top + line_height * len(written) + MARGIN - (0 if written else _GAP)
    page = np.full((total_height, total_width, 3), _PAPER, np.uint8)
    page[MARGIN : MARGIN + height, MARGIN : MARGIN + width] = overlay(frame, heat)
    _draw_bar(page, MARGIN + width + _GAP, height=max(height, 3 * size), ends=ends, size=size)
    for k, (line, colour) in enumerate(written):
        _write(page, line, (MARGIN, top + k * line_height + size), size, colour)
    return page


def overlay(frame: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The frame under the map's colours, uint8 (H, W, 3): the hotter, the less of the frame shows through."""
    level = normalized(heat)
    share = (_FAINT + (_STRONG - _FAINT) * level)[..., None]
    return np.rint((1 - share) * frame + share * _coloured(level)).astype(np.uint8)


def normalized(heat: np.ndarray) -> np.ndarray:
    """The map min-max scaled to 0 .. 1; zeros where it is constant."""
    low, high = float(heat.min()), float(heat.max())
    return (heat - low) / (high - low) if high > low else np.zeros_like(heat)


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write a picture uint8 (H, W, 3) RGB, whole or not at all."""
    coded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
    with atomic_file(path) as partial:
        partial.write_bytes(coded.tobytes())


def wrap(text: str, size: int, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` pixels: broken between words, after the slashes of a path, and
    inside what is wider still."""
    lines = [""]
    for piece in re.findall(r"\s*(?:[^\s/]+/?|/)", text):
        if _text_width((lines[-1] + piece).lstrip(), size) <= width:
            lines[-1] += piece
            continue
        lines.append("")
        for character in piece.lstrip():
            if lines[-1] and _text_width(lines[-1] + character, size) > width:
                lines.append("")
            lines[-1] += character
    return [line.lstrip() for line in lines if line.strip()]


def _coloured(level: np.ndarray) -> np.ndarray:
    """Levels 0 .. 1 (H, W) in colour, uint8 (H, W, 3) RGB."""
    return cv2.applyColorMap(np.rint(level * 255).astype(np.uint8), _COLOURS)[..., ::-1]


def _draw_bar(page: np.ndarray, left: int, *, height: int, ends: tuple[str, str], size: int) -> None:
    """The colour bar beside the frame, with the values of its upper and lower end."""
    page[MARGIN : MARGIN + height, left : left + _BAR] = _coloured(np.linspace(1, 0, height)[:, None])
    beside = left + _BAR + _GAP // 2
    for text, baseline in zip(ends, (MARGIN + size - 2, MARGIN + height - 1), strict=True):
        _write(page, text, (beside, baseline), size, _PALE)


def _text_width(text: str, size: int) -> int:
    return cv2.getTextSize(text, _FONT, size / _FONT_PIXELS, 1)[0][0] + 1


def _write(page: np.ndarray, text: str, at: tuple[int, int], size: int, colour: tuple[int, ...]) -> None:
    cv2.putText(page, text, at, _FONT, size / _FONT_PIXELS, colour, 1, cv2.LINE_AA)
