"""What pictures share: colours, text of OpenCV's font, and lines that fit."""

import re
from collections.abc import Callable

import cv2
import numpy as np

PAPER, INK, PALE, MAT = (255, 255, 255), (34, 34, 34), (110, 110, 110), (225, 225, 225)
"""RGB of the page, of what is to be read first, of the rest of the text, and around a picture that fills no square."""
DECADES = 6.0
"""Span of a spectrogram's colours below its loudest value, in powers of ten: 60 dB."""

_FONT, _FONT_PIXELS = cv2.FONT_HERSHEY_SIMPLEX, 28.0  # height of a line of the font at scale 1


def loudest(log_mel: np.ndarray) -> float:
    """The value (log10 power) of a spectrogram's brightest colour: at least -1, so that silence, at -7, is black
    however little there is beside it."""
    return max(float(log_mel.max()), -1.0)


def text_size(text: str, size: int) -> tuple[int, int]:
    """Width and height in pixels of what ``write`` draws of ``text``."""
    width, height = cv2.getTextSize(text, _FONT, size / _FONT_PIXELS, 1)[0]
    return width, height


def text_width(text: str, size: int) -> int:
    """Pixels that are kept for ``text``: its own and one more."""
    return text_size(text, size)[0] + 1


def write(page: np.ndarray, text: str, at: tuple[int, int], size: int, colour: tuple[int, ...]) -> None:
    """Draw ``text`` of ``size`` pixels on ``page`` uint8 (H, W, 3); ``at`` is the left end of its baseline."""
    cv2.putText(page, text, at, _FONT, size / _FONT_PIXELS, colour, 1, cv2.LINE_AA)


def wrap(text: str, size: int, width: int, measure: Callable[[str, int], float] = text_width) -> list[str]:
    """``text`` in lines of at most ``width`` pixels, as ``measure`` takes them for a text and its size: broken between
    words, after the slashes of a path, and inside what is wider still."""
    if measure(text, size) <= width:
        return [text.strip()] if text.strip() else []
    lines = [""]
    for piece in re.findall(r"\s*(?:[^\s/]+/?|/)", text):
        if measure((lines[-1] + piece).lstrip(), size) <= width:
            lines[-1] += piece
            continue
        lines.append("")
        for character in piece.lstrip():
            if lines[-1] and measure(lines[-1] + character, size) > width:
                lines.append("")
            lines[-1] += character
    return [line.lstrip() for line in lines if line.strip()]
