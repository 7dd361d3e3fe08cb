"""A contact sheet: clips at a glance, each a frame, what is heard as a log-mel spectrogram, its id and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from avtool.report.heatmap import wrap

TILE_WIDTH, FRAME_HEIGHT, MEL_HEIGHT = 256, 192, 64
"""Pixels of a tile, and of the frame and the spectrogram in it."""
COLUMNS = 6
DECADES = 6.0
"""Span of a spectrogram's colours below its loudest value, in powers of ten: 60 dB."""
LOUDEST_AT_LEAST = -1.0
"""log10 power: silence, at -7, is black however little there is beside it."""

_GAP, _SIZE = 12, 14
_LINE = round(1.45 * _SIZE)
_PAPER, _INK, _PALE, _MAT, _BOX = (
    (255, 255, 255),
    (34, 34, 34),
    (110, 110, 110),
    (225, 225, 225),
    (255, 210, 0),
)
_FONT, _FONT_PIXELS = cv2.FONT_HERSHEY_SIMPLEX, 28.0  # height of a line of the font at scale 1


@dataclass(frozen=True)
class Tile:
    """``frame`` uint8 (H, W, 3) RGB; ``boxes`` (M, 4) as fractions of it, drawn over it; ``log_mel`` float (F, T),
    log10 power, lowest band first; ``lines`` of text below, the first in black.
    """

    frame: np.ndarray
    boxes: np.ndarray
    log_mel: np.ndarray
    lines: Sequence[str]


def contact_sheet(tiles: Sequence[Tile]) -> np.ndarray:
    """The tiles, up to six beside each other: uint8 (height, width, 3) RGB. Text is wrapped, never cut."""
    columns = min(COLUMNS, len(tiles))
    rows = [_row(tiles[first : first + columns], columns) for first in range(0, len(tiles), columns)]
    margin = np.full((_GAP, rows[0].shape[1], 3), _PAPER, np.uint8)
    return np.concatenate([margin, *rows])


def _row(tiles: Sequence[Tile], columns: int) -> np.ndarray:
    texts = [
        [
            (line, _PALE if number else _INK)
            for number, text in enumerate(tile.lines)
            for line in wrap(text, _SIZE, TILE_WIDTH)
        ]
        for tile in tiles
    ]
    top = FRAME_HEIGHT + MEL_HEIGHT
    height = top + _LINE * max(map(len, texts)) + _GAP
    row = np.full((height + _GAP // 2, _GAP + columns * (TILE_WIDTH + _GAP), 3), _PAPER, np.uint8)
    for number, (tile, lines) in enumerate(zip(tiles, texts, strict=True)):
        left = _GAP + number * (TILE_WIDTH + _GAP)
        row[:FRAME_HEIGHT, left : left + TILE_WIDTH] = _framed(tile)
        row[FRAME_HEIGHT:top, left : left + TILE_WIDTH] = _spectrogram(tile.log_mel)
        for k, (line, colour) in enumerate(lines):
            place = (left, top + (k + 1) * _LINE - 3)
            cv2.putText(row, line, place, _FONT, _SIZE / _FONT_PIXELS, colour, 1, cv2.LINE_AA)
    return row


def _framed(tile: Tile) -> np.ndarray:
    """The whole frame, as large as it fits, in the middle of its place."""
    height, width = tile.frame.shape[:2]
    scale = min(TILE_WIDTH / width, FRAME_HEIGHT / height)
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    picture = cv2.resize(tile.frame, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    for x1, y1, x2, y2 in tile.boxes:
        corners = (round(x1 * w), round(y1 * h)), (round(x2 * w) - 1, round(y2 * h) - 1)
        cv2.rectangle(picture, *corners, _BOX, 2)
    place = np.full((FRAME_HEIGHT, TILE_WIDTH, 3), _MAT, np.uint8)
    left, top = (TILE_WIDTH - w) // 2, (FRAME_HEIGHT - h) // 2
    place[top : top + h, left : left + w] = picture
    return place


def _spectrogram(log_mel: np.ndarray) -> np.ndarray:
    """In colour, low bands at the bottom: uint8 (MEL_HEIGHT, TILE_WIDTH, 3) RGB."""
    loudest = max(float(log_mel.max()), LOUDEST_AT_LEAST)
    level = np.clip(1 + (log_mel.astype(np.float32) - loudest) / DECADES, 0, 1)[::-1]
    level = cv2.resize(np.ascontiguousarray(level), (TILE_WIDTH, MEL_HEIGHT), interpolation=cv2.INTER_AREA)
    return cv2.applyColorMap(np.rint(level * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
