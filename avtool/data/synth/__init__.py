"""The embedded data set: clips of sounding objects that avtool renders itself, with the truth for everything.

``avtool prepare synth`` stores frames and sound as they are drawn and made here. ``render`` writes real H.264 + AAC
files of the same clips, and a manifest that ``avtool prepare manifest`` reads like any other. Ten kinds of objects
(``KINDS``) differ in look and in the physics of their sound; two to four are in view, one or two of them sound, the
others are silent distractors of the same kinds. Everything about a clip follows from the seed and the clip's number:
clip 7 of 10 is clip 7 of 1000. ``describe(seed, clip)`` is a clip's scene, and ``Stage(describe(seed,
clip)).frame(MIDDLE)`` its middle frame. Version 2 (``avtool prepare synth --subset scenes``) draws the same objects in
larger frames, and each of its clips has a scenario: see ``casts``.

The folder that ``render`` writes:

- ``clips/ID.mp4``: 4 s, 8 frames/s of 160 x 160 pixels (version 2: 256 x 256), 16 kHz mono
- ``masks/ID.png``: uint8, on the middle frame: 0 elsewhere, k where the k-th sounding object is seen
- ``stems/ID.K.wav``: the waveform of the k-th sounding object, 16 bit, 16 kHz; they add up to the clip's
  sound
- ``manifest.csv``: id, split, label, video, boxes, mask, stems, view, and of version 2 scenario. ``label``, ``boxes``
  and ``stems`` (a JSON list of paths) go through the sounding objects in one order. ``view`` is a JSON list of all
  objects in view, in painting order: kind, box, sounding.
"""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import soundfile

from avtool import media
from avtool.data.synth.backgrounds import background
from avtool.data.synth.casts import KINDS, cast_of
from avtool.data.synth.objects import draw
from avtool.data.synth.sounds import SAMPLE_RATE, source
from avtool.errors import UsageError
from avtool.files import atomic_file, json_text

SIZE, LARGE = 160, 256  # pixels of the frame's side, in version 1 and 2
FPS = 8
SECONDS = 4
FRAMES = FPS * SECONDS
MIDDLE = FRAMES // 2  # the frame shown at half the clip's length
RENDERING = 2  # 1 was prepared from the H.264 + AAC files
_SHADOW = 0.08  # of the object's side: how far the shadow falls and how soft it is
_BOARD = 6 / 5  # of the frame's side: the side of the board that an object is drawn on
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
    """``things`` lie in painting order, the last in front; ``labels``: the kinds of what sounds, also out of view."""

    seed: int
    clip: int
    split: str
    things: tuple[Thing, ...]
    labels: tuple[str, ...]
    size: int = SIZE
    scenario: str = ""

    @property
    def sounding(self) -> tuple[Thing, ...]:
        """The objects in view that sound, in the order of the labels."""
        return tuple(sorted((thing for thing in self.things if thing.voice), key=lambda thing: thing.voice))

    def rng(self, *purpose: int) -> np.random.Generator:
        """The scene's own stream of random numbers for a purpose."""
        return np.random.default_rng([self.seed, self.clip, *purpose])


def describe(seed: int, clip: int, version: int = 1) -> Scene:
    """The scene of clip number ``clip``, with the cast that ``cast_of`` gives it."""
    rng = np.random.default_rng([seed, clip, 0])
    cast = cast_of(seed, clip, version, rng)
    count = len(cast.seen)
    shuffled = rng.permutation(count)
    centres, sides = _layout(rng, count)
    things = []
    for j, (x, y), side in zip(shuffled, centres.tolist(), sides.tolist(), strict=True):
        kind, voice = cast.seen[j]
        turn, flip = rng.uniform(-16, 16), bool(rng.random() < 0.5)
        amplitudes = rng.uniform((0.01, 0.01, 2, 0.01), (0.035, 0.035, 9, 0.05))
        sway = np.concatenate([amplitudes, rng.uniform(1.6, 4.5, 4), rng.uniform(0, 2 * np.pi, 4)])
        things.append(Thing(kind, voice, (x, y), side, turn, flip, tuple(sway.tolist())))
    size = SIZE if version == 1 else LARGE
    return Scene(seed, clip, cast.split, tuple(things), cast.labels, size, cast.scenario)


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


class _Sprite:
    """An object with its shadow, uint8.

    ``image``: (h, w, 4), premultiplied RGB, and how much shows of what is behind object and shadow, of 255.
    ``cover``: (h, w), the alpha of the object alone.
    """

    def __init__(self, thing: Thing, rng: np.random.Generator, size: int) -> None:
        self.thing, self.size = thing, size
        image = draw(thing.kind, rng, round(_BOARD * size))
        scale = thing.side * size * _SPRITE / max(image.shape[:2])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        if thing.flip:
            image = image[:, ::-1]
        fall = round(_SHADOW * thing.side * size * _SPRITE)
        edge = 3 * fall
        image = cv2.copyMakeBorder(image, edge, edge, edge, edge, cv2.BORDER_CONSTANT, value=(0, 0, 0, 0))
        cover = cv2.extractChannel(image, 3)
        shadow = cv2.GaussianBlur(np.roll(cover, (fall, fall // 2), (0, 1)), (0, 0), fall * 0.7)
        through = (1 - cover) * (1 - 0.4 * shadow)
        image[..., 3], self.cover = through, cv2.convertScaleAbs(cover, alpha=255)
        self.image = cv2.convertScaleAbs(image, alpha=255)

    def placed(self, t: float) -> tuple[np.ndarray, tuple[slice, slice]]:
        """The affine map (2, 3) from sprite to its window of the frame at time ``t``, and the window."""
        x, y, angle, side = self.thing.pose(t)
        height, width = self.cover.shape
        scale = side / (self.thing.side * _SPRITE)
        matrix = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), angle, scale)
        matrix[:, 2] += np.array((x, y)) * self.size - 0.5 - (width / 2 - 0.5, height / 2 - 0.5)
        corners = np.array([(0, 0, 1), (width, 0, 1), (0, height, 1), (width, height, 1)]) @ matrix.T
        (left, top), (right, bottom) = corners.min(0), corners.max(0)
        x1, x2 = max(0, math.floor(left)), min(self.size, math.ceil(right) + 1)
        y1, y2 = max(0, math.floor(top)), min(self.size, math.ceil(bottom) + 1)
        matrix[:, 2] -= (x1, y1)
        return matrix, (slice(y1, y2), slice(x1, x2))


class Stage:
    """The scene drawn once: background and sprites, from which frames follow quickly."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.background = np.rint(background(scene.rng(2), scene.size) * 255).astype(np.uint8)
        self._sprites = []
        for k, thing in enumerate(scene.things):  # another of a kind looks different
            twins = sum(other.kind == thing.kind for other in scene.things[:k])
            rng = scene.rng(3, KINDS.index(thing.kind), *((twins,) if twins else ()))
            self._sprites.append(_Sprite(thing, rng, scene.size))

    def frame(self, index: int) -> np.ndarray:
        """Frame ``index``: uint8 (size, size, 3) RGB."""
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
        """Where each object is seen on a frame, what stands in front cut out: bool (things, size, size)."""
        masks = np.zeros((len(self._sprites), self.scene.size, self.scene.size), bool)
        for k, sprite in enumerate(self._sprites):
            matrix, window = sprite.placed(index / FPS)
            cover = cv2.warpAffine(sprite.cover, matrix, masks[k][window].shape[::-1])
            masks[k][window] = cover > 127
            masks[:k] &= ~masks[k]
        return masks

    def truth(self) -> tuple[np.ndarray, list[dict[str, Any]], list[list[float]]]:
        """Of the middle frame: uint8 (size, size), k where the k-th sounding object is seen; ``view``; its boxes."""
        label_map = np.zeros((self.scene.size, self.scene.size), np.uint8)
        view: list[dict[str, Any]] = []
        for thing, mask in zip(self.scene.things, self.masks(), strict=True):
            label_map[mask] = thing.voice
            box = [round(float(value), 5) for value in box_of(mask)]
            view.append({"kind": thing.kind, "box": box, "sounding": thing.voice > 0})
        return label_map, view, [view[self.scene.things.index(thing)]["box"] for thing in self.scene.sounding]


def frames_kept(rate: float) -> list[int]:
    """The frames shown at the middle and at every 1 / ``rate`` seconds before and after it, each once."""
    half = rate * SECONDS / 2
    steps = np.arange(-math.floor(half + 1e-6), math.ceil(half - 1e-6))
    return np.unique(np.floor(MIDDLE + steps * FPS / rate + 1e-6).astype(int)).tolist()


def box_of(mask: np.ndarray) -> tuple[float, float, float, float]:
    """The normalised x1, y1, x2, y2 round all true pixels of a (height, width) mask."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    return xs[0] / width, ys[0] / height, (xs[-1] + 1) / width, (ys[-1] + 1) / height


def stems_of(scene: Scene) -> np.ndarray:
    """Each source's own waveform, in the labels' order: int16 (sources, samples); their sum never clips."""
    samples = SECONDS * SAMPLE_RATE
    waves = [source(kind, scene.rng(4, KINDS.index(kind)), samples) for kind in scene.labels]
    return np.rint(np.reshape(waves, (-1, samples)) * 32767).astype(np.int16)


def mixture(stems: np.ndarray) -> np.ndarray:
    """The clip's sound: the sum of its ``stems``, int16 (samples,)."""
    return stems.sum(0).clip(-32768, 32767).astype(np.int16)


def name_of(clip: int) -> str:
    """The id of clip number ``clip``."""
    return f"synth-{clip:06d}"


def check(clips: int, seed: int) -> None:
    """UsageError where ``clips`` is below 1 or ``seed`` negative."""
    if clips < 1:
        raise UsageError(f"cannot render {clips} clips", hint="ask for at least one: --clips 300")
    if seed < 0:
        raise UsageError(f"the seed {seed} is negative", hint="choose a seed of 0 or more: --seed 0")


def write_video(path: Path, stage: Stage, stems: np.ndarray) -> None:
    """All frames and the sound of a clip as an H.264 + AAC file."""
    frames, sound = map(stage.frame, range(FRAMES)), (stems.sum(0) / 32768).astype(np.float32)
    media.write_clip(path, frames, fps=FPS, waveform=sound, sample_rate=SAMPLE_RATE)


def render(folder: Path, *, clips: int, seed: int, version: int = 1) -> Path:
    """Render ``clips`` clips into ``folder`` and return the path of its manifest, which is written last: where it is,
    all clips are there. UsageError as of ``check``."""
    check(clips, seed)
    for name in ("clips", "masks", "stems"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = [_render_clip(folder, describe(seed, clip, version)) for clip in range(clips)]
    with atomic_file(folder / "manifest.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "manifest.csv"


def _render_clip(folder: Path, scene: Scene) -> dict[str, str]:
    """Write one clip's files; return its row of the manifest."""
    name = name_of(scene.clip)
    video, masks = f"clips/{name}.mp4", f"masks/{name}.png"
    stage, stems = Stage(scene), stems_of(scene)
    write_video(folder / video, stage, stems)
    label_map, view, boxes = stage.truth()
    (folder / masks).write_bytes(cv2.imencode(".png", label_map)[1].tobytes())
    files = [f"stems/{name}.{k}.wav" for k in range(1, len(stems) + 1)]
    for file, stem in zip(files, stems, strict=True):
        wav = io.BytesIO()  # so that a full disk is an OSError
        soundfile.write(wav, stem, SAMPLE_RATE, format="WAV", subtype="PCM_16")
        (folder / file).write_bytes(wav.getvalue())
    return {
        "id": name,
        "split": scene.split,
        "label": ";".join(scene.labels),
        "video": video,
        "boxes": json_text(boxes),
        "mask": masks,
        "stems": json_text(files),
        "view": json_text(view),
    } | ({"scenario": scene.scenario} if scene.scenario else {})
