"""What the objects look like: one drawing a kind, in colours and textures that do not depend on the kind.

Drawings are made on a small board with antialiased, shaded shapes. Coordinates: x to the right, y downwards, both in
-1..1, as arrays (N, 2) or as SVG writes points ("x,y x,y"); colours are RGB in 0..1. Shapes are antialiased by OpenCV,
on a board well above the size at which the object is shown: the reduction smooths again.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

_HEX = "e46758 2c968c eab64e 3e629e 865484 70a25c 60a8d4 e088a0 b2523e e2c89c 68788c ee944c 94ceb2 8c7cc8"
PALETTE = np.array([[*bytes.fromhex(colour)] for colour in _HEX.split()], np.float32) / 255
_APART = [np.flatnonzero(np.linalg.norm(PALETTE - colour, axis=1) > 0.35) for colour in PALETTE]
INK = np.array([0.13, 0.13, 0.19], np.float32)
CREAM = np.array([0.98, 0.96, 0.9], np.float32)
WHITE = np.ones(3, np.float32)
SIZE = 192  # pixels of the board's side where nothing else is said
_SHIFT = 4  # cv2's fractional bits
_REACH = 0.94  # the part of the board that -1..1 covers

Colour = Sequence[float] | np.ndarray
Point = tuple[float, float]
Radii = Point | float
Place = tuple[slice, slice]
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
    centre: Point, radii: Radii, span: Point = (0, 360), tilt: float = 0, steps: int = 0
) -> np.ndarray:
    """Part of an ellipse, (steps, 2) float64; angles in degrees, 0 to the right, 90 downwards."""
    rx, ry = radii if isinstance(radii, tuple) else (radii, radii)
    cosine, sine = _arc(*span, steps or max(9, round((span[1] - span[0]) / 9) + 1))
    x, y, t = rx * cosine, ry * sine, math.radians(tilt)
    points = np.empty((len(x), 2))
    points[:, 0] = centre[0] + x * math.cos(t) - y * math.sin(t)
    points[:, 1] = centre[1] + x * math.sin(t) + y * math.cos(t)
    return points


@lru_cache(64)
def _arc(begin: float, end: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of ``steps`` angles from ``begin`` to ``end`` degrees."""
    angle = np.deg2rad(np.linspace(begin, end, steps))
    return np.cos(angle), np.sin(angle)


def spoke(centre: Point, angle: float, inner: float, outer: float) -> list[Point]:
    """The two ends of a line that points away from ``centre`` at ``angle``, in radians."""
    return [(centre[0] + r * np.cos(angle), centre[1] + r * np.sin(angle)) for r in (inner, outer)]


class Canvas:
    """``rgba``: float32 (4, size, size) with premultiplied alpha. ``turn`` rotates what is drawn, in degrees.

    ``pattern`` gives, for a part of the board, what multiplies the colour of what is ``textured``.
    """

    def __init__(self, pattern: Callable[[Place], np.ndarray], size: int = SIZE) -> None:
        self.rgba = np.zeros((4, size, size), np.float32)
        self.turn, self._pattern, self._size = 0.0, pattern, size

    def disc(self, centre: Point, radii: Radii, colour: Colour, shade: str = "soft", **paint: Any) -> None:
        """A filled ellipse."""
        self.fill(ellipse(centre, radii)[:-1], colour, shade, **paint)

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
        place, cover = _covered(_array(points).tobytes(), (self.turn, self._size), width, alpha, blur)
        rgb = np.asarray(colour, np.float32)[:, None, None] * _shading(shade, *cover.shape)
        if textured:
            rgb = rgb * self._pattern(place)
        board = self.rgba[:, *place]
        board *= 1 - cover
        board[:3] += np.minimum(rgb, 1) * cover
        board[3] += cover


@lru_cache(1024)
def _covered(
    points: bytes, board: tuple[float, int], width: float | None, alpha: float, blur: float
) -> tuple[Place, np.ndarray]:
    """The box of a shape, and how much of what is behind it the shape covers there: float32 (height, width). Most
    shapes of a kind are the same in every drawing of it."""
    turn, size = board
    pixels = np.frombuffer(points).reshape(-1, 2)
    if turn:
        angle = np.deg2rad(turn)
        pixels = pixels @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    pixels = (pixels * _REACH + 1) * (size / 2) - 0.5
    fixed = np.rint(pixels * 2**_SHIFT).astype(np.int32)
    thick = 1 if width is None else max(1, round(width * size / 2 * _REACH))
    grow = thick + round(blur * size * 1.5)
    (left, top), (right, bottom) = pixels.min(0).tolist(), pixels.max(0).tolist()
    x1, y1 = (min(max(math.floor(low) - grow, 0), size - 1) for low in (left, top))
    x2, y2 = (min(max(math.ceil(high) + grow + 1, 1), size) for high in (right, bottom))
    place = np.s_[y1:y2, x1:x2]
    mask: np.ndarray = np.zeros((y2 - y1, x2 - x1), np.uint8)
    fixed -= np.array((x1, y1), np.int32) << _SHIFT
    if width is None:
        cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, _SHIFT)
    else:
        cv2.polylines(mask, [fixed], False, 255, thick, cv2.LINE_AA, _SHIFT)
    if blur:
        mask = cv2.GaussianBlur(mask, (0, 0), blur * size / 2)
    return place, mask.astype(np.float32) * (alpha / 255)


@lru_cache(256)
def _shading(shade: str, height: int, width: int) -> np.ndarray:
    """Brightness of a shape over its box, light from the upper left: float32, broadcasts to (height, width)."""
    u, v = _axis(width)[None, :], _axis(height)[:, None]
    match shade:
        case "flat":
            return np.ones((1, 1), np.float32)
        case "soft":
            return 1.0 - 0.13 * (0.5 * u + v)
        case "round":
            return 1.22 - 0.4 * np.sqrt((u + 0.4) ** 2 + (v + 0.45) ** 2)
        case _:  # tube
            return 1.16 - 0.42 * (u + 0.35) ** 2


@lru_cache(SIZE)
def _axis(size: int) -> np.ndarray:
    return np.linspace(-1, 1, size, dtype=np.float32)


def pick_colours(rng: np.random.Generator) -> np.ndarray:
    """Two colours of the palette that can be told apart, each varied a little: float32 (2, 3), body and accent."""
    first = int(rng.integers(len(PALETTE)))
    second = int(rng.choice(_APART[first]))
    varied = PALETTE[[first, second]] * rng.uniform(0.85, 1.1, (2, 1)) + rng.uniform(-0.05, 0.05, (2, 3))
    return np.clip(varied, 0.05, 1).astype(np.float32)


def draw(kind: str, rng: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """An object of ``kind`` from a board of ``size``: premultiplied RGBA, cropped, float32 (height, width, 4)."""
    (body, accent), canvas = pick_colours(rng), Canvas(_pattern(rng, size), size)
    LOOKS[kind](canvas, body, accent, rng)
    # a thin dark line around all of it
    cover, reach = canvas.rgba[3], 1 + 2 * round(2 * size / SIZE)
    pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    line = cv2.GaussianBlur(cv2.dilate(cover, pen), (0, 0), 0.8 * size / SIZE) * (1 - cover)
    seen = cover + line > 0.5
    ys, xs = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    place = np.s_[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
    inks = zip(canvas.rgba, (*INK, np.float32(1)), strict=True)
    return cv2.merge([plane[place] + line[place] * ink for plane, ink in inks])


def _pattern(rng: np.random.Generator, size: int) -> Callable[[Place], np.ndarray]:
    """A texture that multiplies the body's colour: stripes, dots, grain, or none."""
    angle, pitch, depth = rng.uniform(0, np.pi), rng.uniform(30, 60), rng.uniform(0.06, 0.2)
    style = int(rng.integers(4))

    def within(place: Place) -> np.ndarray:
        y, x = (part.astype(np.float32) / size for part in np.ogrid[place])
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        match style:
            case 0:
                texture = 0.5 + 0.5 * np.clip(4 * np.sin(pitch * along), -1, 1)
            case 1:
                texture = np.clip(5 * (np.sin(pitch * along) * np.sin(pitch * across) - 0.3), 0, 1)
            case 2:
                texture = 0.5 + 0.5 * np.sin(pitch * 2 * along + 5 * np.sin(4 * across))
            case _:
                return np.ones((1, 1), np.float32)
        return 1 - depth * texture

    return within


def guitar(c: Canvas, body: np.ndarray, accent: np.ndarray, rng: np.random.Generator) -> None:
    c.turn = 38.0
    c.fill(rounded(-0.07, -0.76, 0.07, 0.05, 0.03), accent * 0.55, "tube")
    c.fill(rounded(-0.12, -1.0, 0.12, -0.72, 0.05), accent * 0.7)
    for y in (-0.94, -0.86, -0.78):
        c.disc((-0.15, y), 0.035, CREAM, "flat")
        c.disc((0.15, y), 0.035, CREAM, "flat")
    waist = rng.uniform(0.24, 0.3)
    side = f"0,-0.16 0.24,-0.17 0.36,0 {waist},0.2 0.42,0.42 0.47,0.66 0.32,0.92 0,0.98"
    outline = smooth(mirrored(side))
    c.fill(outline, body * 0.6)
    c.fill(outline * 0.91 + (0, 0.036), body, "round", textured=True)
    c.disc((0, 0.24), 0.17, accent, "flat")
    c.disc((0, 0.24), 0.13, INK, "flat")
    c.fill(rounded(-0.2, 0.62, 0.2, 0.7, 0.03), accent * 0.6)
    for x in (-0.045, 0.0, 0.045):
        c.line([(x, -0.9), (x * 1.4, 0.66)], 0.012, CREAM, "flat", alpha=0.9)


def pan_pipes(c: Canvas, body: np.ndarray, accent: np.ndarray, rng: np.random.Generator) -> None:
    count = int(rng.integers(5, 8))
    step = 1.8 / count
    half = step * 0.44
    for j, length in enumerate(np.linspace(1.75, rng.uniform(0.8, 1.05), count)):
        x = -0.9 + step * (j + 0.5)
        c.fill(rounded(x - half, -0.85, x + half, -0.85 + length, half * 0.9), body, "tube", textured=True)
        c.disc((x, -0.84), (half, half * 0.5), body * 1.15, "flat")
        c.disc((x, -0.83), (half * 0.68, half * 0.3), INK, "flat")
    for y in (-0.5, -0.22):
        c.fill(rounded(-0.96, y, 0.94, y + 0.15, 0.05), accent)
        c.line([(-0.9, y + 0.075), (0.88, y + 0.075)], 0.02, CREAM, "flat", alpha=0.6)


def bell(c: Canvas, body: np.ndarray, accent: np.ndarray, rng: np.random.Generator) -> None:
    flare = rng.uniform(0.78, 0.92)
    c.line(ellipse((0, -0.78), 0.15), 0.09, accent * 0.8)
    c.disc((rng.uniform(-0.12, 0.12), 0.78), 0.17, accent, "round")
    outline = mirrored(f"0,-0.68 0.2,-0.64 0.38,-0.42 0.46,0 0.56,0.32 {flare},0.58 {flare},0.68")
    right, left = (smooth(side, closed=False) for side in (outline[:7], outline[7:]))
    c.fill(np.concatenate([right, left, outline[-1:]]), body, "tube", textured=True)
    c.disc((0, 0.66), (flare, 0.1), body * 0.5, "flat")
    c.line(ellipse((0, 0.62), (flare * 0.98, 0.12), (5, 175)), 0.07, body * 1.1)
    c.line(ellipse((0, 0.2), (0.54, 0.1), (12, 168)), 0.07, accent)
    c.line(ellipse((0, -0.32), (0.42, 0.08), (12, 168)), 0.04, accent)
    c.line(smooth("-0.24,-0.45 -0.3,0 -0.38,0.3", closed=False), 0.08, WHITE, alpha=0.45, blur=0.02)


def drum(c: Canvas, body: np.ndarray, accent: np.ndarray, rng: np.random.Generator) -> None:
    deep, zigs = rng.uniform(0.5, 0.72), int(rng.integers(5, 8))
    low = -0.12 + deep
    curve = ellipse((0, low), (0.88, 0.26), (180, 0), steps=24)
    c.fill(np.concatenate([[(-0.88, -0.12)], curve, [(0.88, -0.12)]]), body, "tube", textured=True)
    xs = np.linspace(-0.86, 0.86, 2 * zigs + 1)
    sag = 0.26 * np.sqrt(1 - (xs / 0.9) ** 2)
    ys = np.where(np.arange(len(xs)) % 2 == 0, 0.0, deep - 0.16)
    c.line(np.stack([xs, -0.1 + sag + ys], 1), 0.05, CREAM)
    c.line(ellipse((0, low), (0.85, 0.25), (2, 178)), 0.1, accent)
    c.disc((0, -0.12), (0.92, 0.29), accent)
    c.disc((0, -0.14), (0.82, 0.23), CREAM * 0.97, "round")
    for side in (-1, 1):
        c.line([(side * 0.82, -0.82), (side * 0.06, -0.2)], 0.075, accent * 0.75)
        c.disc((side * 0.06, -0.2), 0.08, accent * 0.85, "round")


def kettle(c: Canvas, body: np.ndarray, accent: np.ndarray, rng: np.random.Generator) -> None:
    handle = (-0.1, -0.16), (0.5, rng.uniform(0.5, 0.66))
    c.line(ellipse(*handle, (180, 360)), 0.11, INK * 1.8)
    c.line(ellipse(*handle, (225, 315)), 0.15, accent)
    c.fill(smooth("0.3,0.56 0.34,0.16 0.66,-0.06 0.76,-0.3 0.98,-0.24 0.9,0.1 0.62,0.5"), body * 0.86)
    outline = smooth(mirrored("0,-0.22 0.34,-0.2 0.58,0.06 0.72,0.5 0.62,0.86 0,0.9")) - (0.1, 0)
    c.fill(outline, body, "round", textured=True)
    c.line(ellipse((-0.1, 0.72), (0.66, 0.12), (10, 170)), 0.06, accent)
    c.disc((-0.1, -0.2), (0.36, 0.1), body * 0.75)
    c.disc((-0.1, -0.25), (0.3, 0.09), body * 1.1)
    c.disc((-0.1, -0.36), 0.09, accent, "round")
    c.fill(ellipse((-0.42, 0.2), (0.09, 0.22), tilt=20)[:-1], WHITE, alpha=0.6, blur=0.02)


def bird(c: Canvas, body: np.ndarray, accent: np.ndarray, rng: np.random.Generator) -> None:
    for x in (-0.08, 0.14):
        c.line([(x, 0.6), (x + 0.03, 0.95)], 0.05, INK * 2)
        c.line([(x - 0.09, 0.96), (x + 0.15, 0.96)], 0.05, INK * 2)
    c.fill("-0.4,0.16 -1,-0.22 -0.96,0.06 -0.92,0.26 -0.3,0.5", body * 0.7)
    c.fill("0.66,-0.58 0.98,-0.42 0.66,-0.3", (0.95, 0.68, 0.25))
    outline = "0.36,-0.84 0.66,-0.72 0.74,-0.42 0.62,0.1 0.4,0.52 0,0.7 -0.4,0.56 -0.58,0.26 -0.3,0 0,-0.3 0.1,-0.68"
    c.fill(smooth(outline), body, "round", textured=True)
    c.fill(ellipse((0.3, 0.2), (0.2, 0.32), tilt=25)[:-1], CREAM, alpha=0.75, blur=0.02)
    c.fill(smooth("0.14,-0.16 0.24,0.16 -0.06,0.42 -0.7,0.36 -0.36,0.12"), accent)
    for j in range(3):
        c.line([(0.0 - 0.1 * j, 0.04 + 0.1 * j), (-0.42 + 0.02 * j, 0.22 + 0.07 * j)], 0.03, accent * 0.7)
    if rng.random() < 0.5:
        c.fill(smooth("0.26,-0.8 0.14,-1 0.38,-0.92 0.5,-0.98 0.48,-0.8"), accent)
    c.disc((0.48, -0.54), 0.12, CREAM, "flat")
    c.disc((0.51, -0.54), 0.075, INK, "flat")
    c.disc((0.535, -0.57), 0.025, WHITE, "flat")


def singer(c: Canvas, body: np.ndarray, accent: np.ndarray, rng: np.random.Generator) -> None:
    skin = body * 0.25 + np.array((1.0, 0.84, 0.7)) * rng.uniform(0.45, 0.75)
    wide, tall = rng.uniform(0.2, 0.3), rng.uniform(0.16, 0.28)
    hair = smooth(mirrored("0,-0.98 0.6,-0.86 0.9,-0.3 0.88,0.3 0.6,0.62 0,0.3"))
    face = smooth(mirrored("0,-0.76 0.5,-0.66 0.74,-0.1 0.62,0.5 0.3,0.88 0,0.95"))
    fringe = smooth(
        "-0.78,-0.1 -0.66,-0.72 0,-0.97 0.66,-0.72 0.78,-0.1 0.5,-0.46 0.1,-0.52 -0.2,-0.38 -0.5,-0.42"
    )
    c.fill(hair, accent * 0.8, "round")
    for side in (-1, 1):
        c.disc((side * 0.76, 0.06), 0.15, skin * 0.9)
    c.fill(face, skin, "round")
    c.fill(fringe, accent, textured=True)
    for x in (-0.3, 0.3):
        c.disc((x, -0.04), (0.15, 0.17), WHITE, "flat")
        c.disc((x + 0.02, -0.02), 0.09, INK, "flat")
        c.disc((x + 0.05, -0.06), 0.03, WHITE, "flat")
        c.line(ellipse((x, -0.14), (0.18, 0.14), (210, 330)), 0.05, accent * 0.5)
        c.disc((x * 1.6, 0.3), 0.1, (0.95, 0.45, 0.42), alpha=0.45, blur=0.03)
    c.line(smooth("0,0.1 0.06,0.24 -0.03,0.27", closed=False), 0.035, skin * 0.65)
    c.disc((0, 0.56), (wide, tall), (0.72, 0.24, 0.26), "flat")
    c.disc((0, 0.57), (wide * 0.8, tall * 0.78), (0.34, 0.08, 0.12), "flat")
    c.disc((0, 0.56 + tall * 0.5), (wide * 0.5, tall * 0.3), (0.9, 0.48, 0.48), "flat")


def car(c: Canvas, body: np.ndarray, accent: np.ndarray, rng: np.random.Generator) -> None:
    roof, glass = rng.uniform(-0.62, -0.5), (0.78, 0.89, 0.95)
    cabin = f"-0.72,-0.06 -0.5,{roof + 0.06} -0.1,{roof} 0.26,{roof + 0.05} 0.56,-0.04"
    hull = "-0.97,0.34 -0.96,0.02 -0.8,-0.1 0.5,-0.08 0.86,0.02 0.98,0.18 0.97,0.38 0.6,0.44 -0.7,0.44"
    c.fill(np.concatenate([smooth(cabin, closed=False), [(0.56, 0.1), (-0.72, 0.1)]]), body * 0.92)
    c.fill(f"-0.56,-0.06 -0.4,{roof + 0.13} -0.12,{roof + 0.1} -0.12,-0.06", glass)
    c.fill(f"-0.02,-0.06 -0.02,{roof + 0.1} 0.2,{roof + 0.14} 0.4,-0.06", glass)
    c.fill(smooth(hull, steps=6), body, textured=True)
    c.fill(rounded(-0.94, 0.14, 0.95, 0.21, 0.03), accent)
    c.line("-0.07,-0.02 -0.07,0.36", 0.02, body * 0.6)
    c.line("0.02,0.05 0.13,0.05", 0.035, CREAM)
    c.disc((0.89, 0.1), (0.07, 0.09), (1, 0.94, 0.66), "round")
    c.disc((-0.92, 0.08), (0.05, 0.08), (0.85, 0.25, 0.2), "round")
    for hub in ((-0.52, 0.4), (0.54, 0.4)):
        c.disc(hub, 0.27, INK * 1.3, "flat")
        c.disc(hub, 0.15, CREAM * 0.85, "round")
        for angle in np.arange(5) * 1.257 + rng.uniform(0, 1):
            c.line(spoke(hub, angle, 0, 0.12), 0.03, INK * 3, "flat")
        c.disc(hub, 0.05, accent, "flat")


def tap(c: Canvas, body: np.ndarray, accent: np.ndarray, rng: np.random.Generator) -> None:
    reach, y = rng.uniform(0.5, 0.62), rng.uniform(0.74, 0.8)
    pipe = smooth(f"-0.84,0 -0.2,0 {reach - 0.2},0 {reach},0.16 {reach},0.42", closed=False)
    pipe = np.concatenate([pipe, [(reach, 0.42)]])
    drop = smooth(mirrored(f"0,{y - 0.24} 0.08,{y - 0.06} 0.13,{y + 0.06} 0.08,{y + 0.16} 0,{y + 0.19}"))
    c.fill(rounded(-0.98, -0.34, -0.78, 0.36, 0.08), body * 0.75, "tube")
    c.line(pipe, 0.36, body)
    c.line(pipe - (0.06, 0.08), 0.07, WHITE, alpha=0.5, blur=0.015)
    c.fill(rounded(reach - 0.24, 0.3, reach + 0.24, 0.46, 0.05), accent, "tube")
    c.fill(rounded(-0.32, -0.52, -0.04, -0.1, 0.05), body * 0.85, "tube")
    c.fill(rounded(-0.66, -0.74, 0.3, -0.54, 0.1), accent, textured=True)
    c.disc((-0.18, -0.66), 0.16, accent * 1.1, "round")
    c.fill(drop + np.array((reach, 0)), (0.45, 0.74, 0.94), "round")
    c.disc((reach - 0.04, y + 0.05), (0.025, 0.05), WHITE, "flat", alpha=0.8)


def clock(c: Canvas, body: np.ndarray, accent: np.ndarray, rng: np.random.Generator) -> None:
    middle = (0, 0.12)
    for side in (-1, 1):
        c.line([(side * 0.42, 0.7), (side * 0.6, 0.95)], 0.13, accent * 0.7)
        c.line([(side * 0.32, -0.5), (side * 0.46, -0.7)], 0.08, INK * 2)
        c.fill(ellipse((side * 0.5, -0.66), (0.32, 0.28), (180, 360), side * 35, steps=20), accent, "round")
    c.disc(middle, 0.8, body, "round", textured=True)
    c.disc(middle, 0.63, body * 0.6, "flat")
    c.disc(middle, 0.6, CREAM)
    for j, angle in enumerate(np.arange(12) * np.pi / 6):
        inner, width = (0.42, 0.05) if j % 3 == 0 else (0.48, 0.03)
        c.line(spoke(middle, angle, inner, 0.54), width, INK, "flat")
    for long, width in ((0.27, 0.08), (0.42, 0.05)):
        c.line(spoke(middle, rng.uniform(0, 2 * np.pi), 0, long), width, INK, "flat")
    c.disc(middle, 0.07, accent, "flat")


LOOKS = {f.__name__: f for f in (guitar, pan_pipes, bell, drum, kettle, bird, singer, car, tap, clock)}
