"""A page that matplotlib draws, with places in pixels and text in any script that an installed font has."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from avtool.progress import say
from avtool.report.paint import INK, PALE, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAP, SIZE, LINE = 12, 13, 20
"""Pixels between what stands beside or below each other, of text, and from one line of it to the next."""
FAMILY = "DejaVu Sans"
"""Comes with matplotlib: Latin, Greek, Cyrillic, Hebrew, Arabic and more."""


class Page:
    """A white page of ``width`` x ``height`` pixels; places are counted from its upper left corner. Its parts are axes
    of ``figure``."""

    def __init__(self, width: int, height: int) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self.figure = Figure((width / 72, height / 72), dpi=72, facecolor="white")  # a point is a pixel
        self._agg = FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Empty axes whose inside has this place and size."""
        bottom = self.height - top - height
        place = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(place)
        axes.tick_params(labelsize=11, colors=np.divide(PALE, 255), labelfontfamily=FAMILY)
        axes.spines[:].set_visible(False)
        return axes

    def paste(self, left: int, top: int, pixels: np.ndarray) -> None:
        """Pixels uint8 (H, W, 3) RGB as they are, in a hundredth of the time that axes take."""
        self.figure.figimage(pixels, left, self.height - top - pixels.shape[0], origin="upper")

    def write(self, lines: Sequence[str], left: float, top: float, colour: Sequence[int] = INK) -> None:
        """Lines that ``fitted`` gave, below each other."""
        for number, line in enumerate(lines):
            self.figure.text(
                left / self.width,
                1 - (top + number * LINE + SIZE) / self.height,
                line,
                fontsize=SIZE,
                color=np.divide(colour, 255),
                family=_families(line),
                parse_math=False,
                usetex=False,
            )

    def pixels(self) -> np.ndarray:
        """What is drawn, uint8 (height, width, 3) RGB."""
        self._agg.draw()
        return np.asarray(self._agg.buffer_rgba())[..., :3].copy()


def stacked(pages: Sequence[Page]) -> np.ndarray:
    """Pages of one width below each other, uint8 (height, width, 3) RGB: any number of them, where one page has a
    limit of 65,535 pixels."""
    return np.concatenate([page.pixels() for page in pages])


def fitted(width: int, *texts: str) -> list[str]:
    """``texts``, each in lines that take at most ``width`` pixels of a page."""
    return [line for text in texts for line in wrap(_drawable(text), SIZE, width, text_width)]


def _drawable(text: str) -> str:
    """``text`` with a ? for each character that no installed font has."""
    return "".join(" " if c.isspace() else c if _family_with(c) else "?" for c in text)


def text_width(text: str, size: int = SIZE) -> float:
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

    fonts = ((font.fname, font.name) for font in font_manager.fontManager.ttflist if font.style == "normal")
    for file, name in [(font_manager.findfont(FAMILY), FAMILY), *sorted(fonts)]:
        usable = Path(file).is_file() and not name.startswith("Last Resort")  # which draws boxes
        if usable and font_manager.get_font(file).get_char_index(ord(character)):
            return name
    _say_once("characters that no installed font has are drawn as ?; a font such as Noto Sans has them")
    return ""


_say_once = cache(say)
