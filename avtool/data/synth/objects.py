"""What the objects look like: one drawing a kind, in colours and textures that do not depend on the kind."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from avtool.data.synth.canvas import SIZE, Canvas, mirrored, rounded, smooth

PALETTE = (
    np.array(
        [
            (228, 103, 88), (44, 150, 140), (234, 182, 78), (62, 98, 158), (134, 84, 132), (112, 162, 92),
            (96, 168, 212), (224, 136, 160), (178, 82, 62), (226, 200, 156), (104, 120, 140), (238, 148, 76),
            (148, 206, 178), (140, 124, 200),
        ],
        np.float32,
    )
    / 255
)  # fmt: skip
INK = np.array([0.13, 0.13, 0.19], np.float32)
CREAM = np.array([0.98, 0.96, 0.9], np.float32)


@dataclass(frozen=True)
class Colours:
    """The two main colours of an object, RGB in 0..1; drawn from one palette whatever the kind."""

    body: np.ndarray
    accent: np.ndarray


def pick_colours(rng: np.random.Generator) -> Colours:
    """Two colours of the palette that can be told apart, each varied a little."""
    first = int(rng.integers(len(PALETTE)))
    apart = np.linalg.norm(PALETTE - PALETTE[first], axis=1)
    second = int(rng.choice(np.flatnonzero(apart > 0.35)))
    vary = np.clip(
        PALETTE[[first, second]] * rng.uniform(0.85, 1.1, (2, 1)) + rng.uniform(-0.05, 0.05, (2, 3)), 0.05, 1
    )
    return Colours(*vary.astype(np.float32))


def draw(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, Colours]:
    """An object of ``kind``: premultiplied RGBA, cropped, float32 (height, width, 4); and its colours."""
    colours = pick_colours(rng)
    canvas = Canvas(turn=TURNS.get(kind, 0.0), pattern=_pattern(rng))
    LOOKS[kind](canvas, colours, rng)
    rgba = _outlined(canvas.rgba)
    ys, xs = np.flatnonzero((rgba[..., 3] > 0.5).any(1)), np.flatnonzero((rgba[..., 3] > 0.5).any(0))
    return rgba[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1], colours


def _pattern(rng: np.random.Generator) -> np.ndarray | None:
    """A texture that multiplies the body's colour: stripes, dots, grain, or none."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE
    angle, pitch, depth = rng.uniform(0, np.pi), rng.uniform(30, 60), rng.uniform(0.06, 0.2)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    match rng.integers(4):
        case 0:
            return 1 - depth * (0.5 + 0.5 * np.clip(4 * np.sin(pitch * along), -1, 1))
        case 1:
            return 1 - depth * np.clip(5 * (np.sin(pitch * along) * np.sin(pitch * across) - 0.3), 0, 1)
        case 2:
            return 1 - depth * (0.5 + 0.5 * np.sin(pitch * 2 * along + 5 * np.sin(4 * across)))
    return None


def _outlined(rgba: np.ndarray) -> np.ndarray:
    """A thin dark line around the object."""
    edge = cv2.dilate(rgba[..., 3], cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5)))
    edge = cv2.GaussianBlur(edge, (0, 0), 0.8)[..., None] * (1 - rgba[..., 3:])
    return rgba + edge * np.append(INK, 1).astype(np.float32)


def _guitar(c: Canvas, k: Colours, rng: np.random.Generator) -> None:
    waist = rng.uniform(0.24, 0.3)
    c.fill(rounded(-0.07, -0.76, 0.07, 0.05, 0.03), k.accent * 0.55, shade="tube")
    c.fill(rounded(-0.12, -1.0, 0.12, -0.72, 0.05), k.accent * 0.7)
    for y in (-0.94, -0.86, -0.78):
        c.disc((-0.15, y), 0.035, CREAM, shade="flat")
        c.disc((0.15, y), 0.035, CREAM, shade="flat")
    side = [
        (0, -0.16),
        (0.24, -0.17),
        (0.36, 0.0),
        (waist, 0.2),
        (0.42, 0.42),
        (0.47, 0.66),
        (0.32, 0.92),
        (0, 0.98),
    ]
    body = smooth(mirrored(side))
    c.fill(body, k.body * 0.6)
    c.fill(body * 0.91 + np.array((0, 0.036)), k.body, shade="round", textured=True)
    c.disc((0, 0.24), 0.17, k.accent, shade="flat")
    c.disc((0, 0.24), 0.13, INK, shade="flat")
    c.fill(rounded(-0.2, 0.62, 0.2, 0.7, 0.03), k.accent * 0.6)
    for x in (-0.045, 0.0, 0.045):
        c.line([(x, -0.9), (x * 1.4, 0.66)], 0.012, CREAM, shade="flat", alpha=0.9)


def _pan_pipes(c: Canvas, k: Colours, rng: np.random.Generator) -> None:
    count = int(rng.integers(5, 8))
    step = 1.8 / count
    lengths = np.linspace(1.75, rng.uniform(0.8, 1.05), count)
    for j, length in enumerate(lengths):
        x, half = -0.9 + step * (j + 0.5), step * 0.44
        c.fill(
            rounded(x - half, -0.85, x + half, -0.85 + length, half * 0.9),
            k.body,
            shade="tube",
            textured=True,
        )
        c.disc((x, -0.84), (half, half * 0.5), k.body * 1.15, shade="flat")
        c.disc((x, -0.83), (half * 0.68, half * 0.3), INK, shade="flat")
    for y in (-0.5, -0.22):
        c.fill(rounded(-0.96, y, 0.94, y + 0.15, 0.05), k.accent)
        c.line([(-0.9, y + 0.075), (0.88, y + 0.075)], 0.02, CREAM, shade="flat", alpha=0.6)


def _bell(c: Canvas, k: Colours, rng: np.random.Generator) -> None:
    flare = rng.uniform(0.78, 0.92)
    c.arc((0, -0.78), (0.15, 0.15), (0, 360), 0.09, k.accent * 0.8)
    c.disc((rng.uniform(-0.12, 0.12), 0.78), 0.17, k.accent, shade="round")
    side = [(0, -0.68), (0.2, -0.64), (0.38, -0.42), (0.46, 0.0), (0.56, 0.32), (flare, 0.58), (flare, 0.68)]
    outline = mirrored(side)
    curve = np.concatenate(
        [smooth(outline[:7], closed=False), smooth(outline[7:], closed=False), [outline[-1]]]
    )
    c.fill(curve, k.body, shade="tube", textured=True)
    c.disc((0, 0.66), (flare, 0.1), k.body * 0.5, shade="flat")
    c.arc((0, 0.62), (flare * 0.98, 0.12), (5, 175), 0.07, k.body * 1.1)
    c.arc((0, 0.2), (0.54, 0.1), (12, 168), 0.07, k.accent)
    c.arc((0, -0.32), (0.42, 0.08), (12, 168), 0.04, k.accent)
    c.line(
        smooth([(-0.24, -0.45), (-0.3, 0.0), (-0.38, 0.3)], closed=False),
        0.08,
        (1, 1, 1),
        alpha=0.45,
        blur=0.02,
    )


def _drum(c: Canvas, k: Colours, rng: np.random.Generator) -> None:
    deep, zigs = rng.uniform(0.5, 0.72), int(rng.integers(5, 8))
    low = -0.12 + deep
    wall = np.concatenate(
        [
            [(-0.88, -0.12)],
            np.stack([0.88 * np.cos(a := np.linspace(np.pi, 0, 24)), low + 0.26 * np.sin(a)], 1),
            [(0.88, -0.12)],
        ]
    )
    c.fill(wall, k.body, shade="tube", textured=True)
    xs = np.linspace(-0.86, 0.86, 2 * zigs + 1)
    sag = 0.26 * np.sqrt(1 - (xs / 0.9) ** 2)
    ys = np.where(np.arange(len(xs)) % 2 == 0, 0.0, deep - 0.16)
    c.line(np.stack([xs, -0.1 + sag + ys], 1), 0.05, CREAM)
    c.arc((0, low), (0.85, 0.25), (2, 178), 0.1, k.accent)
    c.disc((0, -0.12), (0.92, 0.29), k.accent)
    c.disc((0, -0.14), (0.82, 0.23), CREAM * 0.97, shade="round")
    for side in (-1, 1):
        tip = (side * 0.06, -0.2)
        c.line([(side * 0.82, -0.82), tip], 0.075, k.accent * 0.75)
        c.disc(tip, 0.08, k.accent * 0.85, shade="round")


def _kettle(c: Canvas, k: Colours, rng: np.random.Generator) -> None:
    high = rng.uniform(0.5, 0.66)
    c.arc((-0.1, -0.16), (0.5, high), (180, 360), 0.11, INK * 1.8)
    c.arc((-0.1, -0.16), (0.5, high), (225, 315), 0.15, k.accent)
    spout = smooth(
        [(0.3, 0.56), (0.34, 0.16), (0.66, -0.06), (0.76, -0.3), (0.98, -0.24), (0.9, 0.1), (0.62, 0.5)]
    )
    c.fill(spout, k.body * 0.86)
    side = [(0, -0.22), (0.34, -0.2), (0.58, 0.06), (0.72, 0.5), (0.62, 0.86), (0, 0.9)]
    body = smooth(mirrored(side)) - np.array((0.1, 0))
    c.fill(body, k.body, shade="round", textured=True)
    c.arc((-0.1, 0.72), (0.66, 0.12), (10, 170), 0.06, k.accent)
    c.disc((-0.1, -0.2), (0.36, 0.1), k.body * 0.75)
    c.disc((-0.1, -0.25), (0.3, 0.09), k.body * 1.1)
    c.disc((-0.1, -0.36), 0.09, k.accent, shade="round")
    c.disc((-0.42, 0.2), (0.09, 0.22), (1, 1, 1), tilt=20, alpha=0.6, blur=0.02)


def _bird(c: Canvas, k: Colours, rng: np.random.Generator) -> None:
    for x in (-0.08, 0.14):
        c.line([(x, 0.6), (x + 0.03, 0.95)], 0.05, INK * 2)
        c.line([(x - 0.09, 0.96), (x + 0.15, 0.96)], 0.05, INK * 2)
    c.fill([(-0.4, 0.16), (-1.0, -0.22), (-0.96, 0.06), (-0.92, 0.26), (-0.3, 0.5)], k.body * 0.7)
    c.fill([(0.66, -0.58), (0.98, -0.42), (0.66, -0.3)], np.array((0.95, 0.68, 0.25)))
    body = smooth(
        [
            (0.36, -0.84),
            (0.66, -0.72),
            (0.74, -0.42),
            (0.62, 0.1),
            (0.4, 0.52),
            (0.0, 0.7),
            (-0.4, 0.56),
            (-0.58, 0.26),
            (-0.3, 0.0),
            (0.0, -0.3),
            (0.1, -0.68),
        ]
    )
    c.fill(body, k.body, shade="round", textured=True)
    c.disc((0.3, 0.2), (0.2, 0.32), CREAM, tilt=25, alpha=0.75, blur=0.02)
    c.fill(smooth([(0.14, -0.16), (0.24, 0.16), (-0.06, 0.42), (-0.7, 0.36), (-0.36, 0.12)]), k.accent)
    for j in range(3):
        c.line([(0.0 - 0.1 * j, 0.04 + 0.1 * j), (-0.42 + 0.02 * j, 0.22 + 0.07 * j)], 0.03, k.accent * 0.7)
    if rng.random() < 0.5:
        c.fill(smooth([(0.26, -0.8), (0.14, -1.0), (0.38, -0.92), (0.5, -0.98), (0.48, -0.8)]), k.accent)
    c.disc((0.48, -0.54), 0.12, CREAM, shade="flat")
    c.disc((0.51, -0.54), 0.075, INK, shade="flat")
    c.disc((0.535, -0.57), 0.025, (1, 1, 1), shade="flat")


def _singer(c: Canvas, k: Colours, rng: np.random.Generator) -> None:
    skin = k.body * 0.25 + np.array((1.0, 0.84, 0.7)) * rng.uniform(0.45, 0.75)
    wide, tall = rng.uniform(0.2, 0.3), rng.uniform(0.16, 0.28)
    c.fill(
        smooth(mirrored([(0, -0.98), (0.6, -0.86), (0.9, -0.3), (0.88, 0.3), (0.6, 0.62), (0, 0.3)])),
        k.accent * 0.8,
        shade="round",
    )
    for side in (-1, 1):
        c.disc((side * 0.76, 0.06), 0.15, skin * 0.9)
    c.fill(
        smooth(mirrored([(0, -0.76), (0.5, -0.66), (0.74, -0.1), (0.62, 0.5), (0.3, 0.88), (0, 0.95)])),
        skin,
        shade="round",
    )
    fringe = [
        (-0.78, -0.1),
        (-0.66, -0.72),
        (0, -0.97),
        (0.66, -0.72),
        (0.78, -0.1),
        (0.5, -0.46),
        (0.1, -0.52),
        (-0.2, -0.38),
        (-0.5, -0.42),
    ]
    c.fill(smooth(fringe), k.accent, textured=True)
    for side in (-1, 1):
        c.disc((side * 0.3, -0.04), (0.15, 0.17), (1, 1, 1), shade="flat")
        c.disc((side * 0.3 + 0.02, -0.02), 0.09, INK, shade="flat")
        c.disc((side * 0.3 + 0.05, -0.06), 0.03, (1, 1, 1), shade="flat")
        c.arc((side * 0.3, -0.14), (0.18, 0.14), (210, 330), 0.05, k.accent * 0.5)
        c.disc((side * 0.48, 0.3), 0.1, (0.95, 0.45, 0.42), alpha=0.45, blur=0.03)
    c.line(smooth([(0, 0.1), (0.06, 0.24), (-0.03, 0.27)], closed=False), 0.035, skin * 0.65)
    c.disc((0, 0.56), (wide, tall), (0.72, 0.24, 0.26), shade="flat")
    c.disc((0, 0.57), (wide * 0.8, tall * 0.78), (0.34, 0.08, 0.12), shade="flat")
    c.disc((0, 0.56 + tall * 0.5), (wide * 0.5, tall * 0.3), (0.9, 0.48, 0.48), shade="flat")


def _car(c: Canvas, k: Colours, rng: np.random.Generator) -> None:
    roof = rng.uniform(-0.62, -0.5)
    cabin = smooth(
        [(-0.72, -0.06), (-0.5, roof + 0.06), (-0.1, roof), (0.26, roof + 0.05), (0.56, -0.04)], closed=False
    )
    c.fill(np.concatenate([cabin, [(0.56, 0.1), (-0.72, 0.1)]]), k.body * 0.92)
    glass = np.array((0.78, 0.89, 0.95))
    c.fill([(-0.56, -0.06), (-0.4, roof + 0.13), (-0.12, roof + 0.1), (-0.12, -0.06)], glass)
    c.fill([(-0.02, -0.06), (-0.02, roof + 0.1), (0.2, roof + 0.14), (0.4, -0.06)], glass)
    hull = [
        (-0.97, 0.34),
        (-0.96, 0.02),
        (-0.8, -0.1),
        (0.5, -0.08),
        (0.86, 0.02),
        (0.98, 0.18),
        (0.97, 0.38),
        (0.6, 0.44),
        (-0.7, 0.44),
    ]
    c.fill(smooth(hull, steps=6), k.body, textured=True)
    c.fill(rounded(-0.94, 0.14, 0.95, 0.21, 0.03), k.accent)
    c.line([(-0.07, -0.02), (-0.07, 0.36)], 0.02, k.body * 0.6)
    c.line([(0.02, 0.05), (0.13, 0.05)], 0.035, CREAM)
    c.disc((0.89, 0.1), (0.07, 0.09), (1, 0.94, 0.66), shade="round")
    c.disc((-0.92, 0.08), (0.05, 0.08), (0.85, 0.25, 0.2), shade="round")
    for x in (-0.52, 0.54):
        c.disc((x, 0.4), 0.27, INK * 1.3, shade="flat")
        c.disc((x, 0.4), 0.15, CREAM * 0.85, shade="round")
        for a in np.arange(5) * 1.257 + rng.uniform(0, 1):
            c.line([(x, 0.4), (x + 0.12 * np.cos(a), 0.4 + 0.12 * np.sin(a))], 0.03, INK * 3, shade="flat")
        c.disc((x, 0.4), 0.05, k.accent, shade="flat")


def _tap(c: Canvas, k: Colours, rng: np.random.Generator) -> None:
    reach = rng.uniform(0.5, 0.62)
    c.fill(rounded(-0.98, -0.34, -0.78, 0.36, 0.08), k.body * 0.75, shade="tube")
    pipe = smooth([(-0.84, 0.0), (-0.2, 0.0), (reach - 0.2, 0.0), (reach, 0.16), (reach, 0.42)], closed=False)
    pipe = np.concatenate([pipe, [(reach, 0.42)]])
    c.line(pipe, 0.36, k.body)
    c.line(pipe - (0.06, 0.08), 0.07, (1, 1, 1), alpha=0.5, blur=0.015)
    c.fill(rounded(reach - 0.24, 0.3, reach + 0.24, 0.46, 0.05), k.accent, shade="tube")
    c.fill(rounded(-0.32, -0.52, -0.04, -0.1, 0.05), k.body * 0.85, shade="tube")
    c.fill(rounded(-0.66, -0.74, 0.3, -0.54, 0.1), k.accent, textured=True)
    c.disc((-0.18, -0.66), 0.16, k.accent * 1.1, shade="round")
    y, water = rng.uniform(0.74, 0.8), np.array((0.45, 0.74, 0.94))
    c.fill(
        smooth(mirrored([(0, y - 0.24), (0.08, y - 0.06), (0.13, y + 0.06), (0.08, y + 0.16), (0, y + 0.19)]))
        + np.array((reach, 0)),
        water,
        shade="round",
    )
    c.disc((reach - 0.04, y + 0.05), (0.025, 0.05), (1, 1, 1), shade="flat", alpha=0.8)


def _clock(c: Canvas, k: Colours, rng: np.random.Generator) -> None:
    for side in (-1, 1):
        c.line([(side * 0.42, 0.7), (side * 0.6, 0.95)], 0.13, k.accent * 0.7)
        c.line([(side * 0.32, -0.5), (side * 0.46, -0.7)], 0.08, INK * 2)
        half = np.stack([0.32 * np.cos(a := np.linspace(np.pi, 2 * np.pi, 20)), 0.28 * np.sin(a)], 1)
        t = np.deg2rad(side * 35)
        c.fill(
            half @ np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]])
            + np.array((side * 0.5, -0.66)),
            k.accent,
            shade="round",
        )
    c.disc((0, 0.12), 0.8, k.body, shade="round", textured=True)
    c.disc((0, 0.12), 0.63, k.body * 0.6, shade="flat")
    c.disc((0, 0.12), 0.6, CREAM)
    for j, a in enumerate(np.arange(12) * np.pi / 6):
        inner = 0.42 if j % 3 == 0 else 0.48
        way = np.array((np.cos(a), np.sin(a)))
        c.line(
            np.stack([inner * way, 0.54 * way]) + np.array((0, 0.12)),
            0.05 if j % 3 == 0 else 0.03,
            INK,
            shade="flat",
        )
    hour, minute = rng.uniform(0, 2 * np.pi, 2)
    c.line([(0, 0.12), (0.27 * np.cos(hour), 0.12 + 0.27 * np.sin(hour))], 0.08, INK, shade="flat")
    c.line([(0, 0.12), (0.42 * np.cos(minute), 0.12 + 0.42 * np.sin(minute))], 0.05, INK, shade="flat")
    c.disc((0, 0.12), 0.07, k.accent, shade="flat")


LOOKS: dict[str, Callable[[Canvas, Colours, np.random.Generator], None]] = {
    "guitar": _guitar,
    "pan_pipes": _pan_pipes,
    "bell": _bell,
    "drum": _drum,
    "kettle": _kettle,
    "bird": _bird,
    "singer": _singer,
    "car": _car,
    "tap": _tap,
    "clock": _clock,
}
TURNS = {"guitar": 38.0}  # degrees by which a drawing is turned on its board
