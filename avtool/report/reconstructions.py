"""What masked pretraining sees, what it predicts, and what was there: frames and spectrograms side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from avtool.report.heatmap import wrap
from avtool.report.sheet import DECADES, LOUDEST_AT_LEAST

FRAME_SIDE, MEL_SIZE = 160, (160, 240)
"""Pixels of a frame's longer side, and (height, width) of a spectrogram."""
COLUMNS = ("masked input", "prediction", "target")

_GAP, _SIZE = 12, 14
_LINE = round(1.45 * _SIZE)
_PAPER, _INK, _PALE = (255, 255, 255), (34, 34, 34), (110, 110, 110)
_REMOVED = np.array((200, 200, 200), np.uint8)
_FONT, _FONT_PIXELS = cv2.FONT_HERSHEY_SIMPLEX, 28.0  # height of a line of the font at scale 1


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
    rows = [_row(example) for example in examples]
    width = rows[0].shape[1]
    lines = [line for text in caption for line in wrap(text, _SIZE, width - 2 * _GAP)]
    head = np.full((_GAP + _LINE * (len(lines) + 1) + _GAP // 2, width, 3), _PAPER, np.uint8)
    for number, line in enumerate(lines):
        _write(head, line, (_GAP, _GAP + number * _LINE + _SIZE), _INK)
    for left, title in zip(_lefts(), COLUMNS * 2, strict=True):
        _write(head, title, (left, _GAP + len(lines) * _LINE + _SIZE), _PALE)
    return np.concatenate([head, *rows])


def _lefts() -> list[int]:
    """Left edges of the six pictures of a row."""
    widths = [FRAME_SIDE] * 3 + [MEL_SIZE[1]] * 3
    return [_GAP + sum(widths[:k]) + k * _GAP + (k >= 3) * _GAP for k in range(6)]


def _row(example: Example) -> np.ndarray:
    """The six pictures of a clip above its name."""
    frames = [_without(example.frame, example.frame_removed), example.predicted_frame, example.frame]
    loudest = max(float(example.log_mel.max()), LOUDEST_AT_LEAST)
    heard = _coloured(example.log_mel, loudest)
    spectrograms = [
        _without(heard, example.log_mel_removed[::-1]),
        _coloured(example.predicted_log_mel, loudest),
        heard,
    ]
    pictures = [_as_large(frame) for frame in frames]
    pictures += [
        cv2.resize(picture, MEL_SIZE[::-1], interpolation=cv2.INTER_NEAREST) for picture in spectrograms
    ]
    lefts, height = _lefts(), max(picture.shape[0] for picture in pictures)
    row = np.full((height + _LINE + _GAP, lefts[-1] + MEL_SIZE[1] + _GAP, 3), _PAPER, np.uint8)
    for left, picture in zip(lefts, pictures, strict=True):
        row[: picture.shape[0], left : left + picture.shape[1]] = picture
    _write(row, wrap(example.name, _SIZE, row.shape[1] - 2 * _GAP)[0], (_GAP, height + _LINE - 5), _PALE)
    return row


def _without(picture: np.ndarray, removed: np.ndarray) -> np.ndarray:
    return np.where(removed[..., None], _REMOVED, picture)


def _as_large(frame: np.ndarray) -> np.ndarray:
    """The frame with its longer side ``FRAME_SIDE`` pixels."""
    scale = FRAME_SIDE / max(frame.shape[:2])
    size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)


def _coloured(log_mel: np.ndarray, loudest: float) -> np.ndarray:
    """In colour, low bands at the bottom: uint8 (F, T, 3) RGB; black is ``DECADES`` below ``loudest``."""
    level = np.clip(1 + (log_mel.astype(np.float32) - loudest) / DECADES, 0, 1)[::-1]
    return cv2.applyColorMap(np.rint(level * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]


def _write(page: np.ndarray, text: str, at: tuple[int, int], colour: tuple[int, ...]) -> None:
    cv2.putText(page, text, at, _FONT, _SIZE / _FONT_PIXELS, colour, 1, cv2.LINE_AA)
