"""A heat map over its frame, with a colour bar and a caption outside the frame."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from avtool.files import atomic_file
from avtool.report.paint import INK, PALE, PAPER, text_width, wrap, write

MARGIN = 16
"""Pixels around the frame, whose upper left corner lies at (MARGIN, MARGIN)."""

_BAR, _GAP = 14, 10
_CAPTION_WIDTH = 352  # at least so many pixels, however narrow the frame
_WARNING = (176, 32, 16)
FAINT, STRONG = 0.35, 0.75  # share of colour over the frame, where the map is lowest and highest


Scale = tuple[float, float]
"""The values of a map that have the darkest and the brightest colour; what lies beyond them has these as well."""


def render_heatmap(
    frame: np.ndarray,
    heat: np.ndarray,
    *,
    caption: Sequence[str] = (),
    warning: str = "",
    scale: Scale | None = None,
) -> np.ndarray:
    """The picture, uint8 (height, width, 3) RGB.

    ``frame`` is uint8 (H, W, 3) RGB and keeps its own size; ``heat`` is float (H, W), in any units: in ``scale``
    (None: from the map's lowest value to its highest; a constant map is dark all over), whose ends stand beside the
    colour bar. ``caption`` lines, then ``warning`` in red, stand below and are
    wrapped, never cut. ValueError where the two differ in size or the map is not finite.
    """
    if frame.shape[:2] != heat.shape:
        raise ValueError(f"a map of {heat.shape} does not lie over a frame of {frame.shape[:2]}")
    if not np.isfinite(heat).all():
        raise ValueError("the map holds values that are not finite")
    height, width = heat.shape
    scale = scale or (heat.min(), heat.max())
    size = min(32, max(13, width // 64))
    line_height, bar_height = round(1.45 * size), max(height, 3 * size)
    bar = MARGIN + width + _GAP
    beside = bar + _BAR + _GAP // 2
    ends = [(f"{scale[1]:#.3g}", MARGIN + size - 2), (f"{scale[0]:#.3g}", MARGIN + bar_height - 1)]
    room = max(beside + max(text_width(text, size) for text, _ in ends) - MARGIN, _CAPTION_WIDTH)
    texts = [*((text, PALE if k else INK) for k, text in enumerate(caption)), (warning, _WARNING)]
    lines = [(line, colour) for text, colour in texts for line in wrap(text, size, room)]
    top = MARGIN + bar_height + _GAP
    bottom = top + line_height * len(lines) if lines else MARGIN + bar_height
    page = np.full((bottom + MARGIN, room + 2 * MARGIN, 3), PAPER, np.uint8)
    page[MARGIN : MARGIN + height, MARGIN : MARGIN + width] = overlay(frame, heat, scale)
    page[MARGIN : MARGIN + bar_height, bar : bar + _BAR] = coloured(np.linspace(1, 0, bar_height)[:, None])
    for text, baseline in ends:
        write(page, text, (beside, baseline), size, PALE)
    for k, (line, colour) in enumerate(lines):
        write(page, line, (MARGIN, top + k * line_height + size), size, colour)
    return page


def coloured(level: np.ndarray) -> np.ndarray:
    """Levels 0 .. 1 (H, W) in colour, uint8 (H, W, 3) RGB: inferno, whose lightness rises evenly, so that it can be
    read in grey, too."""
    return cv2.applyColorMap(np.rint(level * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]


def overlay(frame: np.ndarray, heat: np.ndarray, scale: Scale | None = None) -> np.ndarray:
    """The frame under the map's colours, uint8 (H, W, 3): the hotter, the less of the frame shows through."""
    low, high = map(float, scale or (heat.min(), heat.max()))
    level = ((heat - low) / (high - low)).clip(0, 1) if high > low else np.zeros_like(heat)
    share = (FAINT + (STRONG - FAINT) * level).astype(np.float32)
    return cv2.blendLinear(frame, np.ascontiguousarray(coloured(level)), 1 - share, share)


def abreast(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures uint8 (H, W, 3) beside each other, on paper where one is lower than others."""
    height = max(len(picture) for picture in pictures)
    rows = [(0, height - len(picture)) for picture in pictures]
    padded = [
        np.pad(picture, (below, (0, 0), (0, 0)), constant_values=PAPER[0])
        for picture, below in zip(pictures, rows, strict=True)
    ]
    return np.concatenate(padded, axis=1)


def labelled(picture: np.ndarray, text: str) -> np.ndarray:
    """A picture uint8 (H, W, 3) with ``text``, as much as fits, on its upper left corner."""
    size = min(28, max(10, picture.shape[1] // 24))
    line = next(iter(wrap(text, size, picture.shape[1] - size)), "")
    strip = picture.copy()
    strip[: round(1.6 * size)] //= 3
    write(strip, line, (size // 2, round(1.15 * size)), size, PAPER)
    return strip


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write a picture uint8 (H, W, 3) RGB, whole or not at all."""
    coded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
    with atomic_file(path) as partial:
        partial.write_bytes(coded.tobytes())
