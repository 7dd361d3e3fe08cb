"""A clip's scene: what is in view, where, how it moves, which of it sounds; and its pictures.

All of it is a function of (seed, clip number). Nothing about the look, place, size or motion of an object
depends on whether it sounds, so that no picture tells.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from avtool.data.synth.backgrounds import background
from avtool.data.synth.objects import LOOKS, draw

KINDS = tuple(LOOKS)
SIZE = 160  # pixels of the frame's side
FPS = 8
SECONDS = 4
FRAMES = FPS * SECONDS
MIDDLE = FRAMES // 2  # the frame shown at half the clip's length
_SHADOW = 0.08  # of the object's side: how far the shadow falls and how soft it is
_SPRITE = 2  # sprites are kept at this many times the size at which they are shown


@dataclass(frozen=True)
class Thing:
    """One object in view. Lengths are parts of the frame's side, angles are degrees.

    ``voice`` is the number of its source, from 1 in the order of the labels, or 0 where it is silent.
    """

    kind: str
    voice: int
    centre: tuple[float, float]
    side: float
    turn: float
    flip: bool
    sway: tuple[float, ...]  # amplitudes of x, y, angle, size; then their periods in s; then their phases

    def pose(self, t: float) -> tuple[float, float, float, float]:
        """Centre x, centre y, angle and side at time ``t`` in s."""
        sway = np.array(self.sway).reshape(3, 4)
        dx, dy, angle, grow = sway[0] * np.sin(2 * np.pi * t / sway[1] + sway[2])
        return self.centre[0] + dx, self.centre[1] + dy, self.turn + angle, self.side * (1 + grow)


@dataclass(frozen=True)
class Scene:
    """``things`` lie in painting order, the last in front."""

    seed: int
    clip: int
    split: str
    things: tuple[Thing, ...]

    @property
    def sounding(self) -> tuple[Thing, ...]:
        """The objects that sound, in the order of the labels."""
        return tuple(sorted((thing for thing in self.things if thing.voice), key=lambda thing: thing.voice))

    def rng(self, *purpose: int) -> np.random.Generator:
        """The scene's own stream of random numbers for a purpose."""
        return np.random.default_rng([self.seed, self.clip, *purpose])


def describe(seed: int, clip: int) -> Scene:
    """The scene of clip number ``clip``. Every fifth clip is a test clip; classes take turns within each split, so that
    they are balanced."""
    block, part = divmod(clip, 5)
    split, turn = ("test", block) if part == 4 else ("train", block * 4 + part)
    rng = np.random.default_rng([seed, clip, 0])
    order = np.random.default_rng([seed, turn // len(KINDS), split == "test", 1]).permutation(len(KINDS))
    first = order[turn % len(KINDS)]
    voices = 2 if rng.random() < 0.25 else 1
    count = int(rng.integers(voices + 1, 5))
    others = rng.permutation(np.delete(np.arange(len(KINDS)), first))
    cast = [(KINDS[k], j + 1 if j < voices else 0) for j, k in enumerate([first, *others[: count - 1]])]
    shuffled = rng.permutation(count)
    centres, sides = _layout(rng, count)
    things = (_thing(rng, *cast[j], *place) for j, *place in zip(shuffled, centres, sides, strict=True))
    return Scene(seed, clip, split, tuple(things))


def _layout(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Of many random layouts the first with the least overlap: centres (count, 2) and sides (count,)."""
    low, high = {2: (0.34, 0.46), 3: (0.3, 0.42), 4: (0.27, 0.37)}[count]
    sides = rng.uniform(low, high, (300, count))
    edge = sides[..., None] / 2 + 0.05
    centres = edge + rng.random((300, count, 2)) * (1 - 2 * edge)
    apart = np.abs(centres[:, :, None] - centres[:, None]).max(-1)
    overlap = np.maximum(0, (sides[:, :, None] + sides[:, None]) / 2 + 0.02 - apart)
    overlap[:, np.arange(count), np.arange(count)] = 0
    best = int(overlap.sum((1, 2)).argmin())
    return centres[best], sides[best]


def _thing(rng: np.random.Generator, kind: str, voice: int, centre: np.ndarray, side: np.float64) -> Thing:
    x, y = centre.tolist()
    turn, flip = rng.uniform(-16, 16), bool(rng.random() < 0.5)
    amplitudes = rng.uniform((0.01, 0.01, 2, 0.01), (0.035, 0.035, 9, 0.05))
    sway = np.concatenate([amplitudes, rng.uniform(1.6, 4.5, 4), rng.uniform(0, 2 * np.pi, 4)])
    return Thing(kind, voice, (x, y), float(side), turn, flip, tuple(sway.tolist()))


class _Sprite:
    """An object with its shadow, uint8.

    ``image``: (h, w, 4), premultiplied RGB, and how much shows of what is behind object and shadow, of 255.
    ``cover``: (h, w), the alpha of the object alone.
    """

    def __init__(self, thing: Thing, rng: np.random.Generator) -> None:
        self.thing = thing
        image = draw(thing.kind, rng)
        scale = thing.side * SIZE * _SPRITE / max(image.shape[:2])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        if thing.flip:
            image = image[:, ::-1]
        fall = round(_SHADOW * thing.side * SIZE * _SPRITE)
        image = np.pad(image, ((3 * fall, 3 * fall), (3 * fall, 3 * fall), (0, 0)))
        cover = image[..., 3]
        shadow = cv2.GaussianBlur(np.roll(cover, (fall, fall // 2), (0, 1)), (0, 0), fall * 0.7)
        through = (1 - cover) * (1 - 0.4 * shadow)
        layers = np.rint(np.dstack([image[..., :3], through, cover]).clip(0, 1) * 255).astype(np.uint8)
        self.image, self.cover = layers[..., :4].copy(), layers[..., 4].copy()

    def placed(self, t: float) -> tuple[np.ndarray, tuple[slice, slice]]:
        """The affine map (2, 3) from sprite to its window of the frame at time ``t``, and the window."""
        x, y, angle, side = self.thing.pose(t)
        height, width = self.cover.shape
        scale = side / (self.thing.side * _SPRITE)
        matrix = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), angle, scale)
        matrix[:, 2] += np.array((x, y)) * SIZE - 0.5 - (width / 2 - 0.5, height / 2 - 0.5)
        corners = np.array([(0, 0, 1), (width, 0, 1), (0, height, 1), (width, height, 1)]) @ matrix.T
        (left, top), (right, bottom) = corners.min(0), corners.max(0)
        x1, x2 = max(0, math.floor(left)), min(SIZE, math.ceil(right) + 1)
        y1, y2 = max(0, math.floor(top)), min(SIZE, math.ceil(bottom) + 1)
        matrix[:, 2] -= (x1, y1)
        return matrix, (slice(y1, y2), slice(x1, x2))


class Stage:
    """The scene drawn once: background and sprites, from which frames follow quickly."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.background = np.rint(background(scene.rng(2), SIZE) * 255).astype(np.uint8)
        self._sprites = [_Sprite(thing, scene.rng(3, KINDS.index(thing.kind))) for thing in scene.things]

    def frame(self, index: int) -> np.ndarray:
        """Frame ``index``: uint8 (SIZE, SIZE, 3) RGB."""
        picture = self.background.copy()
        for sprite in self._sprites:
            matrix, window = sprite.placed(index / FPS)
            part = picture[window]
            image = cv2.warpAffine(sprite.image, matrix, part.shape[1::-1], borderValue=(0, 0, 0, 255))
            through = cv2.cvtColor(cv2.extractChannel(image, 3), cv2.COLOR_GRAY2RGB)
            cv2.multiply(part, through, dst=part, scale=1 / 255)
            cv2.add(part, cv2.cvtColor(image, cv2.COLOR_RGBA2RGB), dst=part)
        return picture

    def masks(self, index: int = MIDDLE) -> np.ndarray:
        """Where each object is seen on a frame, what stands in front cut out: bool (things, SIZE, SIZE)."""
        masks = np.zeros((len(self._sprites), SIZE, SIZE), bool)
        for k, sprite in enumerate(self._sprites):
            matrix, window = sprite.placed(index / FPS)
            cover = cv2.warpAffine(sprite.cover, matrix, masks[k][window].shape[::-1])
            masks[k][window] = cover > 127
            masks[:k] &= ~masks[k]
        return masks


def box_of(mask: np.ndarray) -> tuple[float, float, float, float]:
    """The normalised x1, y1, x2, y2 round all true pixels of a (height, width) mask."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    return xs[0] / width, ys[0] / height, (xs[-1] + 1) / width, (ys[-1] + 1) / height
