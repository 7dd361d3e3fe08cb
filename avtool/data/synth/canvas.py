"""A small drawing board with antialiased, shaded shapes; what the looks of the objects are drawn on.

Coordinates: x to the right, y downwards, both in -1..1, as arrays (N, 2) or as SVG writes points ("x,y x,y");
colours are RGB in 0..1. Shapes are antialiased by OpenCV, on a board well above the size at which the object is
shown: the reduction smooths again.
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
Points = str | Sequence[Point] | np.ndarray


def _array(points: Points) -> np.ndarray:
    if isinstance(points, str):
        points = [(float(x), float(y)) for x, y in (pair.split(",") for pair in points.split())]
    return np.asarray(points, np.float64)


def smooth(points: Points, *, closed: bool = True, steps: int = 8) -> np.ndarray:
    """A Catmull-Rom curve through ``points``: (len(points) * steps, 2) float64."""
    p = _array(points)
    ring = np.concatenate([p[-1:], p, p[:2]]) if closed else np.concatenate([p[:1], p, p[-1:]])
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    a, b, c, d = (ring[k : len(ring) - 3 + k, None] for k in range(4))
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return curve.reshape(-1, 2)


def mirrored(points: Points) -> np.ndarray:
    """A right-hand outline from top to bottom, closed by its mirror image: (N, 2) float64."""
    right = _array(points)
    left = right[right[:, 0] != 0][::-1] * (-1, 1)
    return np.concatenate([right, left])


def rounded(x1: float, y1: float, x2: float, y2: float, radius: float) -> np.ndarray:
    """The outline of a rectangle with round corners: (32, 2) float64."""
    left, top, right, bottom = x1 + radius, y1 + radius, x2 - radius, y2 - radius
    centres = np.array([(right, bottom), (left, bottom), (left, top), (right, top)])
    angle = np.linspace(0, np.pi / 2, 8) + np.arange(4)[:, None] * np.pi / 2
    return (centres[:, None] + radius * np.stack([np.cos(angle), np.sin(angle)], -1)).reshape(-1, 2)


def ellipse(
    centre: Point, radii: Point | float, span: Point = (0, 360), tilt: float = 0, steps: int | None = None
) -> np.ndarray:
    """Part of an ellipse, (steps, 2) float64; angles in degrees, 0 to the right, 90 downwards."""
    rx, ry = radii if isinstance(radii, tuple) else (radii, radii)
    angle = np.deg2rad(np.linspace(*span, steps or max(9, round((span[1] - span[0]) / 9) + 1)))
    x, y, t = rx * np.cos(angle), ry * np.sin(angle), np.deg2rad(tilt)
    return np.stack([centre[0] + x * np.cos(t) - y * np.sin(t), centre[1] + x * np.sin(t) + y * np.cos(t)], 1)


def spoke(centre: Point, angle: float, inner: float, outer: float) -> list[Point]:
    """The two ends of a line that points away from ``centre`` at ``angle``, in radians."""
    return [(centre[0] + r * np.cos(angle), centre[1] + r * np.sin(angle)) for r in (inner, outer)]


class Canvas:
    """``rgba``: float32 (SIZE, SIZE, 4) with premultiplied alpha. ``turn`` rotates what is drawn, in degrees.

    ``pattern``, (SIZE, SIZE), multiplies the colour of what is ``textured``.
    """

    def __init__(self, pattern: np.ndarray | None = None) -> None:
        self.rgba = np.zeros((SIZE, SIZE, 4), np.float32)
        self.turn = 0.0
        self._pattern = pattern

    def disc(
        self,
        centre: Point,
        radii: Point | float,
        colour: Colour,
        shade: str = "soft",
        tilt: float = 0,
        **paint: Any,
    ) -> None:
        """A filled ellipse."""
        self.fill(ellipse(centre, radii, tilt=tilt)[:-1], colour, shade, **paint)

    def line(self, points: Points, width: float, colour: Colour, shade: str = "soft", **paint: Any) -> None:
        """An open line with round ends."""
        self.fill(points, colour, shade, width=width, **paint)

    def fill(
        self,
        points: Points,
        colour: Colour,
        shade: str = "soft",
        *,
        width: float | None = None,
        alpha: float = 1.0,
        blur: float = 0.0,
        textured: bool = False,
    ) -> None:
        """Lay ``colour`` over a polygon or a line of ``width``; ``shade`` is one of flat, soft, round and tube."""
        angle = np.deg2rad(self.turn)
        spin = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        pixels = (_array(points) @ spin * _REACH + 1) * (SIZE / 2) - 0.5
        fixed = np.round(pixels * 2**_SHIFT).astype(np.int32)
        mask = np.zeros((SIZE, SIZE), np.uint8)
        if width is None:
            grow = 1
            cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, _SHIFT)
        else:
            grow = max(1, round(width * SIZE / 2 * _REACH))
            cv2.polylines(mask, [fixed], False, 255, grow, cv2.LINE_AA, _SHIFT)
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
    u = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    v = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    match shade:
        case "flat":
            return np.ones((1, 1), np.float32)
        case "round":
            return 1.22 - 0.4 * np.sqrt((u + 0.4) ** 2 + (v + 0.45) ** 2)
        case "tube":
            return np.broadcast_to(1.16 - 0.42 * (u + 0.35) ** 2, (height, width))
        case "soft":
            return 1.0 - 0.13 * (0.5 * u + v)
    raise ValueError(f"unknown shade {shade!r}")
