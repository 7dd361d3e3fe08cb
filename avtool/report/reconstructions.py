"""What masked pretraining sees, what it predicts, and what was there: frames and spectrograms side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from avtool.report.canvas import GAP, GREY, Canvas, fitted, line_height, stacked
from avtool.report.paint import INK, PALE, loudest

FRAME_SIDE, MEL_SIZE = 160, (160, 240)
"""Pixels of a frame's longer side, and (height, width) of a spectrogram."""
COLUMNS = ("masked input", "prediction", "target")

_SIZE = 12
_LEFTS = [GAP + k * (FRAME_SIDE + GAP) for k in range(3)]
_LEFTS += [_LEFTS[-1] + FRAME_SIDE + 2 * GAP + k * (MEL_SIZE[1] + GAP) for k in range(3)]
_WIDTH = _LEFTS[-1] + MEL_SIZE[1] + GAP


@dataclass(frozen=True)
class Example:
    """A clip. ``frame`` and ``predicted_frame`` uint8 (H, W, 3) RGB, ``frame_removed`` bool (H, W): what was masked;
    ``log_mel`` and ``predicted_log_mel`` float (F, T), log10 power, lowest band first, ``log_mel_removed`` (F, T)."""

    name: str
    frame: np.ndarray
    predicted_frame: np.ndarray
    frame_removed: np.ndarray
    log_mel: np.ndarray
    predicted_log_mel: np.ndarray
    log_mel_removed: np.ndarray


def draw_reconstructions(examples: Sequence[Example], *, caption: Sequence[str]) -> np.ndarray:
    """The picture, uint8 (height, width, 3) RGB: a row a clip, under ``caption`` lines. What was removed is grey in the
    masked input; spectrograms of a clip have the colours of the target's loudness."""
    lines = [line for text in caption for line in fitted(text, _SIZE, _WIDTH - 2 * GAP)]
    head = Canvas(_WIDTH, GAP + line_height(_SIZE) * (len(lines) + 1))
    head.write(lines, GAP, GAP, _SIZE)
    for left, title in zip(_LEFTS, COLUMNS * 2, strict=True):
        head.write([title], left, GAP + line_height(_SIZE) * len(lines), _SIZE, [PALE])
    return stacked([head, *map(_row, examples)])


def _row(example: Example) -> Canvas:
    """The six pictures of a clip above its name."""
    page = Canvas(_WIDTH, MEL_SIZE[0] + line_height(_SIZE) + GAP)
    masked = np.where(example.frame_removed[..., None], np.uint8(GREY), example.frame)
    for left, frame in zip(_LEFTS[:3], (masked, example.predicted_frame, example.frame), strict=True):
        page.picture((left, 0, FRAME_SIDE, FRAME_SIDE), frame)
    peak = loudest(example.log_mel)
    spectrograms = (example.log_mel, example.predicted_log_mel, example.log_mel)
    hidden = (example.log_mel_removed, None, None)
    for left, log_mel, removed in zip(_LEFTS[3:], spectrograms, hidden, strict=True):
        page.spectrogram((left, 0, MEL_SIZE[1], MEL_SIZE[0]), log_mel, peak, removed)
    page.write(fitted(example.name, _SIZE, _WIDTH - 2 * GAP)[:1], GAP, MEL_SIZE[0] + 2, _SIZE, [INK])
    return page
