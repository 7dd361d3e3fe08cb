"""Rows of frames and spectrograms: a contact sheet, reconstructions, and masks with what they leave of a mixture."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from avtool.report.heatmap import coloured
from avtool.report.page import GAP, LINE, Page, fitted, stacked
from avtool.report.paint import DECADES, INK, MAT, PALE, loudest

GREY = 200
"""Of what was removed, in all three channels."""


def _matted(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture uint8 (H, W, 3) as large as it fits, in the middle of ``width`` x ``height`` pixels."""
    mat = np.full((height, width, 3), MAT, np.uint8)
    inside = _enlarged(picture, width, height)
    y, x = (height - inside.shape[0]) // 2, (width - inside.shape[1]) // 2
    mat[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return mat


def _enlarged(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)


def spectrogram(
    log_mel: np.ndarray, width: int, height: int, *, peak: float, removed: np.ndarray | None = None
) -> np.ndarray:
    """``log_mel`` (F, T), log10 power, on ``width`` x ``height`` pixels, the lowest band at the bottom and ``peak``
    brightest; grey where it is ``removed``, bool (F, T)."""
    colours = coloured(np.clip((log_mel - peak) / DECADES + 1, 0, 1))
    if removed is not None:
        colours[removed] = GREY
    return cv2.resize(colours[::-1], (width, height), interpolation=cv2.INTER_NEAREST)


# A contact sheet: clips at a glance ---------------------------------------------------------------------

TILE_WIDTH, FRAME_HEIGHT, MEL_HEIGHT = 256, 192, 64
"""Pixels of a tile, and of the frame and the spectrogram in it."""
TILES_BESIDE = 6
_BOX = (255, 210, 0)


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
    columns = min(TILES_BESIDE, len(tiles))
    width = GAP + columns * (TILE_WIDTH + GAP)
    return stacked([_tiles(tiles[first : first + columns], width) for first in range(0, len(tiles), columns)])


def _tiles(tiles: Sequence[Tile], width: int) -> Page:
    texts = [[fitted(TILE_WIDTH, line) for line in tile.lines] for tile in tiles]
    below = GAP + FRAME_HEIGHT + MEL_HEIGHT
    page = Page(width, below + LINE * max(sum(map(len, text)) for text in texts) + GAP)
    for number, (tile, text) in enumerate(zip(tiles, texts, strict=True)):
        left = GAP + number * (TILE_WIDTH + GAP)
        page.paste(left, GAP, _matted(_boxed(tile), TILE_WIDTH, FRAME_HEIGHT))
        sound = spectrogram(tile.log_mel, TILE_WIDTH, MEL_HEIGHT, peak=loudest(tile.log_mel))
        page.paste(left, GAP + FRAME_HEIGHT, sound)
        for k, lines in enumerate(text):
            page.write(lines, left, below + LINE * sum(map(len, text[:k])), PALE if k else INK)
    return page


def _boxed(tile: Tile) -> np.ndarray:
    """The frame, in the size that it is shown in, with its boxes."""
    frame = np.ascontiguousarray(_enlarged(tile.frame, TILE_WIDTH, FRAME_HEIGHT))
    height, width = frame.shape[:2]
    for x1, y1, x2, y2 in np.rint(tile.boxes * [width, height, width, height] - 0.5).astype(int).tolist():
        cv2.rectangle(frame, (x1, y1), (x2, y2), _BOX, 2)
    return frame


# Reconstructions: what masked pretraining sees, what it predicts, and what was there -----------------------

FRAME_SIDE, MEL_SIZE = 160, (240, 160)
"""Pixels of a frame's longer side, and (width, height) of a spectrogram."""
_FRAMES = [GAP + k * (FRAME_SIDE + GAP) for k in range(3)]
_MELS = [_FRAMES[2] + FRAME_SIDE + 2 * GAP + k * (MEL_SIZE[0] + GAP) for k in range(3)]
_RECONSTRUCTIONS_WIDTH = _MELS[2] + MEL_SIZE[0] + GAP


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
    lines = fitted(_RECONSTRUCTIONS_WIDTH - 2 * GAP, *caption)
    head = Page(_RECONSTRUCTIONS_WIDTH, GAP + LINE * (len(lines) + 1))
    head.write(lines, GAP, GAP)
    for left, title in zip(_FRAMES + _MELS, ("masked input", "prediction", "target") * 2, strict=True):
        head.write([title], left, GAP + LINE * len(lines), PALE)
    return stacked([head, *map(_reconstruction, examples)])


def _reconstruction(example: Example) -> Page:
    """The six pictures of a clip above its name."""
    page = Page(_RECONSTRUCTIONS_WIDTH, MEL_SIZE[1] + LINE + GAP)
    masked = np.where(example.frame_removed[..., None], np.uint8(GREY), example.frame)
    for left, frame in zip(_FRAMES, (masked, example.predicted_frame, example.frame), strict=True):
        page.paste(left, 0, _matted(frame, FRAME_SIDE, FRAME_SIDE))
    spectrograms = (example.log_mel, example.predicted_log_mel, example.log_mel)
    hidden = (example.log_mel_removed, None, None)
    for left, log_mel, removed in zip(_MELS, spectrograms, hidden, strict=True):
        page.paste(left, 0, spectrogram(log_mel, *MEL_SIZE, peak=loudest(example.log_mel), removed=removed))
    page.write(fitted(_RECONSTRUCTIONS_WIDTH - 2 * GAP, example.name)[:1], GAP, MEL_SIZE[1] + 2)
    return page


# Masks: a row a source, its picture, its mask and what that leaves of the mixture ---------------------------

PLOT_WIDTH, PLOT_HEIGHT = 420, 168
"""Pixels of a mask and of a spectrogram; a picture is as high."""
FLOOR = -7.0
"""log10 power of silence."""
_TICKS = (500, 1000, 2000, 4000, 8000, 16000)
_AXIS = 48
_PLOTS = [PLOT_HEIGHT + 2 * GAP + _AXIS + k * (PLOT_WIDTH + GAP + _AXIS) for k in range(2)]
_MASKS_WIDTH = _PLOTS[1] + PLOT_WIDTH + 2 * GAP


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
    peak, extent = loudest(mixture), (0, seconds, 0, _mel(highest))
    heard = [frequency for frequency in _TICKS if frequency <= highest]

    def row(name: str, picture: np.ndarray | None, mask: np.ndarray | None, sound: np.ndarray) -> Page:
        lines = fitted(_MASKS_WIDTH - 2 * GAP, name)
        top = GAP // 2 + LINE * len(lines)
        page = Page(_MASKS_WIDTH, top + PLOT_HEIGHT + 2 * LINE)
        page.write(lines, GAP, GAP // 2 - 2)
        if picture is not None:
            page.paste(GAP, top, _matted(picture, PLOT_HEIGHT, PLOT_HEIGHT))
        colours = (("viridis", 0.0, 1.0), ("inferno", peak - DECADES, peak))
        for left, values, (cmap, low, high) in zip(_PLOTS, (mask, sound), colours, strict=True):
            if values is not None:
                axes = page.axes(left, top, PLOT_WIDTH, PLOT_HEIGHT)
                axes.imshow(values, cmap, vmin=low, vmax=high, aspect="auto", origin="lower", extent=extent)
                axes.set_yticks([_mel(hz) for hz in heard], [f"{hz / 1000:g} kHz" for hz in heard])
                axes.set_xticks(times := [0.0, seconds / 2, seconds], [f"{time:.3g} s" for time in times])
        return page

    pages = [row(title, None, None, mixture)]
    for panel in panels:
        left = np.maximum(mixture + 2 * np.log10(np.maximum(panel.mask, 1e-6)), FLOOR)
        pages.append(row(panel.name, panel.picture, panel.mask, left))
    lines = fitted(_MASKS_WIDTH - 2 * GAP, *caption)
    foot = Page(_MASKS_WIDTH, LINE * len(lines) + GAP)
    foot.write(lines, GAP, 0, PALE)
    return stacked([*pages, foot])


def _mel(frequency: float) -> float:
    return float(np.log10(1 + frequency / 700))
