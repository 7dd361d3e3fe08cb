"""A small drawing board with antialiased, shaded shapes; what the looks of the objects are drawn on.

Coordinates: x to the right, y downwards, both in -1..1; colours are RGB in 0..1. Shapes are antialiased
by OpenCV, on a board well above the size at which the object is shown: the reduction smooths again.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

SIZE = 192  # pixels of the board's side
_SHIFT = 4  # cv2's fractional bits
_REACH = 0.94  # the part of the board that -1..1 covers

Colour = Sequence[float] | np.ndarray
Point = tuple[float, float]


def smooth(points: Sequence[Point], *, closed: bool = True, steps: int = 8) -> np.ndarray:
    """A Catmull-Rom curve through ``points``: (len(points) * steps, 2) float64."""
    p = np.asarray(points, np.float64)
    ring = np.concatenate([p[-1:], p, p[:2]]) if closed else np.concatenate([p[:1], p, p[-1:]])
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    a, b, c, d = (ring[k : len(ring) - 3 + k, None] for k in range(4))
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return curve.reshape(-1, 2)


def mirrored(points: Sequence[Point]) -> list[Point]:
    """A right-hand outline from top to bottom, closed by its mirror image."""
    return [*points, *((-x, y) for x, y in reversed(points) if x != 0)]


def rounded(x1: float, y1: float, x2: float, y2: float, radius: float) -> np.ndarray:
    """The outline of a rectangle with round corners: (32, 2) float64."""
    turn = np.linspace(0, np.pi / 2, 8)
    corners = [(x2, y2, 0), (x1, y2, 1), (x1, y1, 2), (x2, y1, 3)]
    inset = {x1: x1 + radius, x2: x2 - radius, y1: y1 + radius, y2: y2 - radius}
    return np.concatenate(
        [
            np.stack(
                [
                    inset[x] + radius * np.cos(turn + q * np.pi / 2),
                    inset[y] + radius * np.sin(turn + q * np.pi / 2),
                ],
                1,
            )
            for x, y, q in corners
        ]
    )


class Canvas:
    """``rgba``: float32 (SIZE, SIZE, 4) with premultiplied alpha. ``turn`` rotates all drawn, in degrees."""

    def __init__(self, *, turn: float = 0.0, pattern: np.ndarray | None = None) -> None:
        self.rgba = np.zeros((SIZE, SIZE, 4), np.float32)
        self._pattern = pattern
        angle = np.deg2rad(turn)
        self._spin = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])

    def fill(self, points: np.ndarray | Sequence[Point], colour: Colour, **paint: Any) -> None:
        """A filled polygon."""
        pixels = self._pixels(points)
        mask = np.zeros((SIZE, SIZE), np.uint8)
        cv2.fillPoly(mask, [_fixed(pixels)], 255, cv2.LINE_AA, _SHIFT)
        self._paint(mask, pixels, 1, colour, **paint)

    def disc(
        self, centre: Point, radii: Point | float, colour: Colour, *, tilt: float = 0.0, **paint: Any
    ) -> None:
        """A filled ellipse."""
        self.fill(_arc(centre, radii, (0, 360), tilt)[:-1], colour, **paint)

    def line(self, points: np.ndarray | Sequence[Point], width: float, colour: Colour, **paint: Any) -> None:
        """An open line with round ends."""
        pixels = self._pixels(points)
        thick = max(1, round(width * SIZE / 2 * _REACH))
        mask = np.zeros((SIZE, SIZE), np.uint8)
        cv2.polylines(mask, [_fixed(pixels)], False, 255, thick, cv2.LINE_AA, _SHIFT)
        self._paint(mask, pixels, thick, colour, **paint)

    def arc(
        self, centre: Point, radii: Point | float, span: Point, width: float, colour: Colour, **paint: Any
    ) -> None:
        """A part of an ellipse as a line; angles in degrees, 0 to the right, 90 downwards."""
        self.line(_arc(centre, radii, span, 0), width, colour, **paint)

    def _pixels(self, points: np.ndarray | Sequence[Point]) -> np.ndarray:
        return (np.asarray(points, np.float64) @ self._spin * _REACH + 1) * (SIZE / 2) - 0.5

    def _paint(
        self,
        mask: np.ndarray,
        pixels: np.ndarray,
        grow: int,
        colour: Colour,
        *,
        shade: str = "soft",
        alpha: float = 1.0,
        blur: float = 0.0,
        textured: bool = False,
    ) -> None:
        """Lay ``colour`` over the board where ``mask`` is; ``shade`` is one of flat, soft, round and tube."""
        if blur:
            mask = cv2.GaussianBlur(mask, (0, 0), blur * SIZE / 2)
            grow += round(blur * SIZE * 1.5)
        x1, y1 = np.clip(np.floor(pixels.min(0)).astype(int) - grow, 0, SIZE - 1)
        x2, y2 = np.clip(np.ceil(pixels.max(0)).astype(int) + grow + 1, 1, SIZE)
        place = np.s_[y1:y2, x1:x2]
        rgb = np.asarray(colour, np.float32) * _shading(shade, y2 - y1, x2 - x1)[..., None]
        if textured and self._pattern is not None:
            rgb = rgb * self._pattern[place][..., None]
        cover = mask[place].astype(np.float32)[..., None] * (alpha / 255)
        board = self.rgba[place]
        board *= 1 - cover
        board[..., :3] += np.minimum(rgb, 1) * cover
        board[..., 3:] += cover


def _shading(shade: str, height: int, width: int) -> np.ndarray:
    """Brightness of a shape over its box, light from the upper left: float32 (height, width) or (1, 1)."""
    if shade == "flat":
        return np.ones((1, 1), np.float32)
    u = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    v = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    if shade == "round":
        return 1.22 - 0.4 * np.sqrt((u + 0.4) ** 2 + (v + 0.45) ** 2)
    if shade == "tube":
        return np.broadcast_to(1.16 - 0.42 * (u + 0.35) ** 2, (height, width))
    if shade == "soft":
        return 1.0 - 0.13 * (0.5 * u + v)
    raise ValueError(f"unknown shade {shade!r}")


def _arc(centre: Point, radii: Point | float, span: Point, tilt: float) -> np.ndarray:
    rx, ry = radii if isinstance(radii, tuple) else (radii, radii)
    angle = np.deg2rad(np.linspace(*span, max(9, round((span[1] - span[0]) / 9) + 1)))
    x, y, t = rx * np.cos(angle), ry * np.sin(angle), np.deg2rad(tilt)
    return np.stack([centre[0] + x * np.cos(t) - y * np.sin(t), centre[1] + x * np.sin(t) + y * np.cos(t)], 1)


def _fixed(pixels: np.ndarray) -> np.ndarray:
    return np.round(pixels * 2**_SHIFT).astype(np.int32)
