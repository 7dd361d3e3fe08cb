"""Masks as pictures: plain, with a palette, or laid over their frame."""

import colorsys
import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from avtool.files import atomic_file, printable
from avtool.report.paint import text_size, write

TINT = 0.5
"""Share of a mask's colour in what it covers."""
_FIRST_HUE, _HUE_STEP = 0.09, 0.618034  # golden ratio: neighbours in the list are far apart in colour


def palette(classes: int) -> np.ndarray:
    """A colour for each of ``classes`` numbers, uint8 (classes, 3) RGB: black for 0, then hues far from each other."""
    hues = [(_FIRST_HUE + k * _HUE_STEP) % 1 for k in range(classes - 1)]
    colours = [colorsys.hsv_to_rgb(hue, 0.7 if k % 2 else 0.95, 1.0) for k, hue in enumerate(hues)]
    return np.rint(np.array([(0.0, 0.0, 0.0), *colours][:classes]) * 255).astype(np.uint8)


def lay_over(frame: np.ndarray, mask: np.ndarray, *, names: Sequence[str] = ()) -> np.ndarray:
    """``frame`` uint8 (H, W, 3) RGB, tinted and outlined where ``mask`` uint8 (H, W) is not 0, in ``palette``'s colour
    of the number there. With ``names`` of the numbers each region says its own. ValueError for sizes that differ."""
    if frame.shape[:2] != mask.shape:
        raise ValueError(f"a mask of {mask.shape} does not lie over a frame of {frame.shape[:2]}")
    colours = palette(max(2, int(mask.max()) + 1))
    picture = frame.copy()
    inside = mask > 0
    picture[inside] = np.rint((1 - TINT) * frame[inside] + TINT * colours[mask[inside]]).astype(np.uint8)
    width = max(1, min(mask.shape) // 160)
    for number in np.unique(mask[inside]):
        region = (mask == number).astype(np.uint8)
        outlines, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, colours[number].tolist(), width, cv2.LINE_8)
        if names:
            _name(picture, max(outlines, key=cv2.contourArea), printable(names[number]))
    return picture


def _name(picture: np.ndarray, outline: np.ndarray, name: str) -> None:
    """Write ``name``, white with a black edge, on the middle of the region within ``outline``, moved to lie inside the
    picture. The edge is the name itself moved by a pixel: a thicker one is wider in newer versions of OpenCV."""
    height, width = picture.shape[:2]
    size = min(28, max(10, width // 24))
    wide, high = text_size(name, size)
    left, top, w, h = cv2.boundingRect(outline)
    x = max(1, min(left + (w - wide) // 2, width - wide - 1))
    y = max(high + 1, min(top + (h + high) // 2, height - 2))
    for dx, dy in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        write(picture, name, (x + dx, y + dy), size, (0, 0, 0))
    write(picture, name, (x, y), size, (255, 255, 255))


def write_mask(path: Path, mask: np.ndarray, *, classes: int) -> None:
    """Write ``mask`` uint8 (H, W) as PNG, whole or not at all: for one class grey, 255 where it is not 0, for several
    the numbers themselves, with ``palette``'s colours."""
    picture = Image.fromarray(mask if classes > 1 else np.where(mask > 0, 255, 0).astype(np.uint8))
    if classes > 1:
        picture.putpalette(palette(classes).tobytes())
    coded = io.BytesIO()  # so that a full disk is an OSError with its reason
    picture.save(coded, format="PNG")
    with atomic_file(path) as partial:
        partial.write_bytes(coded.getvalue())
