"""A contact sheet: clips at a glance, each a frame, what is heard as a log-mel spectrogram, its id and labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from avtool.report.canvas import GAP, Canvas, enlarged, fitted, line_height, stacked
from avtool.report.paint import INK, PALE, loudest

TILE_WIDTH, FRAME_HEIGHT, MEL_HEIGHT = 256, 192, 64
"""Pixels of a tile, and of the frame and the spectrogram in it."""
COLUMNS = 6

_SIZE, _BOX = 12, (255, 210, 0)


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
    width = GAP + columns * (TILE_WIDTH + GAP)
    return stacked([_row(tiles[first : first + columns], width) for first in range(0, len(tiles), columns)])


def _row(tiles: Sequence[Tile], width: int) -> Canvas:
    texts = [[fitted(line, _SIZE, TILE_WIDTH) for line in tile.lines] for tile in tiles]
    below = GAP + FRAME_HEIGHT + MEL_HEIGHT
    lines = max(sum(map(len, text)) for text in texts)
    page = Canvas(width, below + line_height(_SIZE) * lines + GAP)
    for number, (tile, text) in enumerate(zip(tiles, texts, strict=True)):
        left = GAP + number * (TILE_WIDTH + GAP)
        page.picture((left, GAP, TILE_WIDTH, FRAME_HEIGHT), _frame(tile))
        peak = loudest(tile.log_mel)
        place = (left, GAP + FRAME_HEIGHT, TILE_WIDTH, MEL_HEIGHT)
        page.spectrogram(place, tile.log_mel, peak)
        colours = [PALE if k else INK for k, of_line in enumerate(text) for _ in of_line]
        page.write([line for of_line in text for line in of_line], left, below, _SIZE, colours)
    return page


def _frame(tile: Tile) -> np.ndarray:
    """The frame with its boxes."""
    frame = np.ascontiguousarray(enlarged(tile.frame, TILE_WIDTH, FRAME_HEIGHT))
    height, width = frame.shape[:2]
    for x1, y1, x2, y2 in np.rint(tile.boxes * [width, height, width, height] - 0.5).astype(int).tolist():
        cv2.rectangle(frame, (x1, y1), (x2, y2), _BOX, 2)
    return frame
