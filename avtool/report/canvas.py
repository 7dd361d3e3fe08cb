"""A page that matplotlib draws, with places in pixels and text in any script that an installed font has."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from avtool.progress import say
from avtool.report.paint import DECADES, INK, MAT, PALE, coloured, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Box = tuple[float, float, float, float]
"""Left, top, width and height in pixels, from the upper left corner of a page."""
GAP = 12
"""Pixels between what stands beside or below each other."""
GREY = 200
"""Of what was removed, in all three channels."""
FAMILY = "DejaVu Sans"
"""Comes with matplotlib: Latin, Greek, Cyrillic, Hebrew, Arabic and more."""


class Canvas:
    """A white page of ``width`` x ``height`` pixels. Its parts are axes of ``figure``."""

    def __init__(self, width: int, height: int) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self.figure = Figure((width / 72, height / 72), dpi=72, facecolor="white")  # a point is a pixel
        self._agg = FigureCanvasAgg(self.figure)

    def axes(self, box: Box) -> Axes:
        """Empty axes whose inside is ``box``."""
        left, top, width, height = box
        bottom = self.height - top - height
        place = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(place)
        axes.tick_params(labelsize=11, colors=_rgb(PALE), labelfontfamily=FAMILY)
        axes.spines[:].set_visible(False)
        return axes

    def picture(self, box: Box, picture: np.ndarray) -> None:
        """A picture uint8 (H, W, 3) RGB: all of it, as large as it fits, in the middle of ``box``."""
        left, top, width, height = map(round, box)
        mat = np.full((height, width, 3), MAT, np.uint8)
        inside = enlarged(picture, width, height)
        y, x = (height - inside.shape[0]) // 2, (width - inside.shape[1]) // 2
        mat[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
        self._paste(left, top, mat)

    def spectrogram(
        self, box: Box, log_mel: np.ndarray, peak: float, removed: np.ndarray | None = None
    ) -> None:
        """``log_mel`` (F, T), log10 power, over all of ``box``, the lowest band at the bottom and ``peak`` brightest;
        grey where it is ``removed``, bool (F, T). Axes take a hundred times as long: see ``plot``."""
        left, top, width, height = map(round, box)
        colours = coloured(np.clip((log_mel - peak) / DECADES + 1, 0, 1))
        if removed is not None:
            colours[removed] = GREY
        self._paste(left, top, cv2.resize(colours[::-1], (width, height), interpolation=cv2.INTER_NEAREST))

    def _paste(self, left: int, top: int, pixels: np.ndarray) -> None:
        self.figure.figimage(pixels, left, self.height - top - pixels.shape[0], origin="upper")

    def plot(self, box: Box, values: np.ndarray, **options: Any) -> Axes:
        """``values`` (bands, times) in colour over all of ``box``, with ticks, the lowest band at the bottom.
        ``options`` are imshow's."""
        axes = self.axes(box)
        axes.imshow(values, **{"cmap": "inferno", "aspect": "auto", "origin": "lower", **options})
        return axes

    def write(
        self,
        lines: Sequence[str],
        left: float,
        top: float,
        size: int,
        colours: Sequence[Sequence[int]] = (INK,),
    ) -> None:
        """Lines that ``fitted`` gave below each other, each in its colour; the last colour holds for those after it."""
        for number, line in enumerate(lines):
            colour = _rgb(colours[min(number, len(colours) - 1)])
            baseline = 1 - (top + number * line_height(size) + size) / self.height
            self.figure.text(
                left / self.width,
                baseline,
                line,
                fontsize=size,
                color=colour,
                family=_families(line),
                parse_math=False,
                usetex=False,
            )

    def pixels(self) -> np.ndarray:
        """What is drawn, uint8 (height, width, 3) RGB."""
        self._agg.draw()
        return np.asarray(self._agg.buffer_rgba())[..., :3].copy()


def stacked(pages: Sequence[Canvas]) -> np.ndarray:
    """Pages of one width below each other, uint8 (height, width, 3) RGB: any number of them, where one page has a
    limit of 65,535 pixels."""
    return np.concatenate([page.pixels() for page in pages])


def enlarged(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture uint8 (H, W, 3) as large as ``width`` x ``height`` pixels hold it."""
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)


def line_height(size: int) -> int:
    """Pixels from line to line of text of ``size`` pixels."""
    return round(1.5 * size)


def fitted(text: str, size: int, width: int) -> list[str]:
    """``text`` in lines that take at most ``width`` pixels of a page."""
    return wrap(_drawable(text), size, width, text_width)


def _drawable(text: str) -> str:
    """``text`` with a ? for each character that no installed font has."""
    return "".join(" " if c.isspace() else c if _family_with(c) else "?" for c in text)


def text_width(text: str, size: int) -> float:
    """Pixels that ``text`` takes on a page."""
    from matplotlib.font_manager import FontProperties

    font = FontProperties(family=_families(text), size=size)
    return float(_renderer().get_text_width_height_descent(_drawable(text), font, ismath=False)[0])


def _families(text: str) -> list[str]:
    """Families of fonts that have all of ``text`` between them."""
    return list(dict.fromkeys([FAMILY, *filter(None, map(_family_with, text))]))


@cache
def _renderer() -> Any:
    from matplotlib.backends.backend_agg import RendererAgg

    return RendererAgg(1, 1, 72)


@cache
def _family_with(character: str) -> str:
    """A family of fonts that has the character: the usual one, another that is installed, or "" where none has it."""
    from matplotlib import font_manager

    usual = font_manager.findfont(FAMILY)
    others = sorted(
        (font.fname, font.name) for font in font_manager.fontManager.ttflist if font.style == "normal"
    )
    for file, name in [(usual, FAMILY), *others]:
        usable = Path(file).is_file() and not name.startswith("Last Resort")  # which draws boxes
        if usable and font_manager.get_font(file).get_char_index(ord(character)):
            return name
    _say_that_some_are_missing()
    return ""


@cache
def _say_that_some_are_missing() -> None:
    say("characters that no installed font has are drawn as ?; a font such as Noto Sans has them")


def _rgb(colour: Sequence[int]) -> tuple[float, ...]:
    return tuple(value / 255 for value in colour)
