"""Views: what a model sees of a stored clip, a window of sound and a crop of one frame; and their masks and partners.

Training views follow DeepAVFusion (Mo and Morgado, 2024): a random window, a frame from inside it, a random
resized crop and flip, gain jitter. Every draw is a function of (seed, epoch, index) alone, so that the
samples are the same for any number of workers and after a resume. How a crop and a window become arrays is
``avtool.inputs``'s to say; a class of views says which.

A stored mask holds 0 where nothing sounds, and elsewhere a number. Where the data's first class is ``background``
(AVSBench) that is the class id of what is seen there. Everywhere else (synth, a manifest) number k means the clip's
k-th label, and a mask of other numbers, as 0 and 255, only says that something sounds. A view's mask holds either 1
for all that sounds, or with ``semantic`` class numbers: 0 for the background, then the data's other classes in order.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import cv2
import numpy as np

from avtool.data.dataset import PreparedDataset, Record
from avtool.errors import DataError
from avtool.inputs import (
    Crop,
    Size,
    as_pair,
    centre_crop,
    cropped,
    fit_window,
    white_noise,
    whole_crop,
    window_around,
    window_with,
    window_within,
)

BACKGROUND = "background"
ANY_MASK = "prepare data with masks: avtool prepare synth, avsbench, or a manifest with a column mask"
RATIO = (3 / 4, 4 / 3)
CROP_TRIES = 10
_PARTNERS = 0x9A47  # sets these draws apart from those of the clip's own view
_NEGATIVES = 0x9A11
_SHARED = ("image", "waveform", "index", "label")


class DrawnViews(Protocol):
    """Training views: what sample ``index`` shows in ``epoch``."""

    def sample(self, epoch: int, index: int) -> dict[str, Any]: ...


class FixedViews(Protocol):
    """Evaluation views: what sample ``index`` shows, every time."""

    def sample(self, index: int) -> dict[str, Any]: ...


def draws(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator of all that sample ``index`` draws in ``epoch``."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch, index))))


def start_around(dataset: PreparedDataset, record: Record, time: float, count: int) -> int:
    """The first of ``count`` samples around ``time`` seconds of a clip."""
    return window_around(round(time * dataset.sample_rate), count, record.samples)


def random_crop(generator: np.random.Generator, width: int, height: int, scale: tuple[float, float]) -> Crop:
    """A crop whose share of the frame's area is uniform in ``scale``, its ratio log-uniform in 3/4 to 4/3.

    Where ten tries do not fit the frame: the largest crop of a ratio in that range, in the middle.
    """
    areas = generator.uniform(*scale, CROP_TRIES) * width * height
    ratios = np.exp(generator.uniform(math.log(RATIO[0]), math.log(RATIO[1]), CROP_TRIES))
    place = generator.random(2)
    for area, ratio in zip(areas, ratios, strict=True):
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(place[0] * (width - w + 1)), int(place[1] * (height - h + 1)), w, h
    w = max(1, min(width, round(height * RATIO[1])))
    h = max(1, min(height, round(width / RATIO[0])))
    return (width - w) // 2, (height - h) // 2, w, h


@dataclass(frozen=True, kw_only=True)
class Views:
    """Of clips of ``dataset``: frames in ``image_size`` and windows of ``window_samples``."""

    dataset: PreparedDataset = field(kw_only=False)
    image_size: Size
    window_samples: int

    def show(
        self, index: int, record: Record, *, frame: int, crop: Crop, start: int, flip: bool = False
    ) -> dict[str, Any]:
        """A view of clip ``index``: ``image`` uint8 (3, rows, columns), a crop of a frame; ``waveform`` int16
        (window_samples,) from sample ``start`` on; ``index`` and ``label`` (first class id, -1: none)."""
        sound = self.dataset.waveform(index, start, self.window_samples)
        return {
            "image": cropped(partial(self.dataset.frame, index, frame), crop, self.image_size, flip=flip),
            "waveform": fit_window(sound, self.window_samples),
            "index": index,
            "label": record.label_ids[0] if record.label_ids else -1,
        }


@dataclass(frozen=True, kw_only=True)
class TrainingViews(Views):
    """Random views: a window of sound, a frame from inside it, crop, flip and gain.

    ``sample(epoch, index)``: the keys of ``show``, ``gain_db`` to be applied to the sound later (float32, uniform in
    -gain_db to gain_db) and ``epoch``. With ``semantic`` false or true the frame is one of those that have a mask, the
    window one that holds its time, and ``mask`` uint8 (rows, columns) the same crop of its mask, see ``frame_mask``.
    """

    crop_scale: tuple[float, float] = (0.5, 1.0)
    flip: bool = True
    gain_db: float = 6.0
    seed: int
    semantic: bool | None = None

    def sample(self, epoch: int, index: int) -> dict[str, Any]:
        record = self.dataset.record(index)
        generator = draws(self.seed, epoch, index)
        at, choice, flip, gain = generator.random(4)
        frame, start = self._place(record, at, choice)
        crop = random_crop(generator, record.width, record.height, self.crop_scale)
        flipped = bool(self.flip and flip < 0.5)
        view = self.show(index, record, frame=frame, crop=crop, start=start, flip=flipped)
        view |= {"gain_db": np.float32((2 * gain - 1) * self.gain_db), "epoch": epoch}
        if self.semantic is not None:
            mask = frame_mask(self.dataset, index, frame, semantic=self.semantic)
            view["mask"] = resized_mask(mask, crop, as_pair(self.image_size), flip=flipped)
        return view

    def _place(self, record: Record, at: float, choice: float) -> tuple[int, int]:
        """Frame and first sample: a frame inside the window where there is one, else the nearest; of masks a window
        around the frame."""
        rate, count = self.dataset.sample_rate, self.window_samples
        if self.semantic is not None:
            frame = record.masked[int(choice * len(record.masked))]
            return frame, window_with(round(float(record.times[frame]) * rate), at, count, record.samples)
        start = int(at * (max(0, record.samples - count) + 1))
        begin, seconds = start / rate, count / rate
        within = np.flatnonzero((record.times >= begin) & (record.times < begin + seconds))
        if len(within):
            return int(within[int(choice * len(within))]), start
        return int(np.argmin(np.abs(record.times - (begin + seconds / 2)))), start


@dataclass(frozen=True, kw_only=True)
class EvaluationViews(Views):
    """The same view every time: the key frame (in the middle, or where boxes were drawn) and the sound around it.

    ``sample(index)``: the keys of ``show``, of ``centre_crop``, or with ``whole`` of all of the frame.
    """

    whole: bool = False

    def sample(self, index: int) -> dict[str, Any]:
        record = self.dataset.record(index)
        crop = (whole_crop if self.whole else centre_crop)(record.width, record.height)
        start = start_around(self.dataset, record, record.middle, self.window_samples)
        return self.show(index, record, frame=record.key, crop=crop, start=start)


@dataclass(frozen=True, kw_only=True)
class WindowViews(Views):
    """``windows`` views of every clip, from its first window of sound to its last, each with the frame nearest to the
    window's middle, cropped as evaluation views are. A single one is the clip's middle.

    ``sample(number)`` is window ``number % windows`` of clip ``number // windows``: the keys of ``show``.
    """

    windows: int

    def numbers(self, clips: np.ndarray) -> np.ndarray:
        """The samples of ``clips`` (N,), clip by clip: int64 (N * windows,)."""
        return (clips[:, None] * self.windows + np.arange(self.windows)).reshape(-1)

    def sample(self, number: int) -> dict[str, Any]:
        index, window = divmod(number, self.windows)
        record, count = self.dataset.record(index), self.window_samples
        start = window_within(window / (self.windows - 1) if self.windows > 1 else 0.5, count, record.samples)
        middle = (start + count / 2) / self.dataset.sample_rate
        frame = int(np.argmin(np.abs(record.times - middle)))
        crop = centre_crop(record.width, record.height)
        return self.show(index, record, frame=frame, crop=crop, start=start)


@dataclass(frozen=True, kw_only=True)
class MaskViews(Views):
    """The same view of every masked frame every time: ``sample(number)`` is ``frames[number]``, (clip, frame).

    The keys of ``show``: the whole frame without a crop, the sound around the frame's time; and ``mask`` uint8 of
    ``mask_size``, see ``frame_mask``.
    """

    frames: np.ndarray = field(kw_only=False)
    mask_size: tuple[int, int]
    semantic: bool

    def sample(self, number: int) -> dict[str, Any]:
        index, frame = (int(value) for value in self.frames[number])
        record = self.dataset.record(index)
        crop = whole_crop(record.width, record.height)
        start = start_around(self.dataset, record, float(record.times[frame]), self.window_samples)
        view = self.show(index, record, frame=frame, crop=crop, start=start)
        mask = frame_mask(self.dataset, index, frame, semantic=self.semantic)
        return view | {"mask": resized_mask(mask, crop, self.mask_size)}


# Partners --------------------------------------------------------------------------------------------


class PartnerViews:
    """Training views of a clip and of ``partners`` others drawn from ``chosen``, a function of (seed, epoch, index).

    ``sample(epoch, index)``: what ``views`` gives, and under ``other_image`` uint8 (P, 3, rows, columns),
    ``other_waveform`` int16 (P, N), ``other_gain_db`` (P,), ``other_index`` and ``other_label`` int64 (P,) the same of
    the partners. They are all different clips; with ``other_class`` no two of a sample have the same first label.
    DataError where there are too few clips or classes.
    """

    def __init__(
        self, views: TrainingViews, chosen: np.ndarray, *, partners: int, other_class: bool = False
    ) -> None:
        self.views, self.chosen, self.partners, self.other_class = views, chosen, partners, other_class
        dataset = views.dataset
        self.kinds = np.array([dataset.label_id(int(i)) for i in chosen]) if other_class else chosen
        kinds = len(np.unique(self.kinds))
        if kinds <= partners:
            what = "classes" if other_class else "clips"
            raise DataError(
                f"{dataset.folder} has {kinds} {what} of split {dataset.split} to draw from, {partners + 1} are needed "
                "for a sample",
                hint=f"use more data, or fewer {what} a sample",
            )

    def sample(self, epoch: int, index: int) -> dict[str, Any]:
        own = self.views.dataset.label_id(index) if self.other_class else index
        generator = draws(self.views.seed, epoch, index + (_PARTNERS << 32))
        places = draw_others(self.kinds, own, self.partners, generator)
        others = (self.views.sample(epoch, int(self.chosen[place])) for place in places)
        return self.views.sample(epoch, index) | _stacked(others, (*_SHARED, "gain_db"))


@dataclass(frozen=True)
class SilencedViews:
    """Training views of which a ``share`` has another sound than its frame: digital silence, or as often white noise as
    loud as its own. ``sample(epoch, index)``: what ``views`` gives, and ``negative``, whether it is one of these."""

    views: TrainingViews | PartnerViews
    share: float
    seed: int

    def sample(self, epoch: int, index: int) -> dict[str, Any]:
        view = self.views.sample(epoch, index)
        generator = draws(self.seed, epoch, index + (_NEGATIVES << 32))
        chosen, noisy = generator.random(2)
        if negative := bool(chosen < self.share):
            own = view["waveform"]
            view["waveform"] = white_noise(own, generator) if noisy < 0.5 else np.zeros_like(own)
        return view | {"negative": np.bool_(negative)}


def draw_others(kinds: np.ndarray, own: int, count: int, generator: np.random.Generator) -> list[int]:
    """Places of ``count`` entries of ``kinds`` (M,): draws are repeated until all are of different kinds, none
    of them ``own``."""
    places, taken = list[int](), {own}
    while len(places) < count:
        place = int(generator.integers(len(kinds)))
        if (kind := int(kinds[place])) not in taken:
            places.append(place)
            taken.add(kind)
    return places


@dataclass(frozen=True)
class MixtureViews:
    """Fixed mixtures for evaluation: sample ``i`` is the evaluation view of clip ``mixtures[i, 0]`` with those of the
    others in its row under ``other_``; ``mixtures`` int64 (M, N)."""

    views: FixedViews
    mixtures: np.ndarray

    def sample(self, index: int) -> dict[str, Any]:
        own, *others = (self.views.sample(int(clip)) for clip in self.mixtures[index])
        return own | _stacked(others, _SHARED)


@dataclass(frozen=True)
class NegativeViews:
    """Fixed views beside other sounds: sample ``i`` is that of ``numbers[i]``, ``numbers`` int64 (N,), and
    ``other_waveform`` int16 (1 + K, window_samples): white noise as loud as its own sound, a function of ``seed`` and
    the clip, and the sounds of the samples ``others[i]``, places int64 (N, K) in ``numbers``."""

    views: FixedViews
    numbers: np.ndarray
    others: np.ndarray
    seed: int

    def sample(self, index: int) -> dict[str, Any]:
        own = self.views.sample(int(self.numbers[index]))
        noise = white_noise(own["waveform"], draws(self.seed, 0, own["index"] + (_NEGATIVES << 32)))
        others = (self.views.sample(int(self.numbers[place]))["waveform"] for place in self.others[index])
        return own | {"other_waveform": np.stack([noise, *others])}


def _stacked(others: Iterable[dict[str, Any]], names: Sequence[str]) -> dict[str, np.ndarray]:
    """The partners' views as arrays (P, ...), each under ``other_NAME``."""
    views = list(others)
    return {f"other_{name}": np.stack([view[name] for view in views]) for name in names}


# Masks -----------------------------------------------------------------------------------------------


def class_names(dataset: PreparedDataset) -> list[str]:
    """What the numbers of a semantic mask mean, the background first."""
    return dataset.classes if dataset.classes[:1] == [BACKGROUND] else [BACKGROUND, *dataset.classes]


def masked_clips(dataset: PreparedDataset, clips: Iterable[int]) -> np.ndarray:
    """Those of ``clips`` that have a mask, int64 (N,). DataError where none has."""
    found = np.array([i for i in clips if dataset.record(int(i)).masked], np.int64)
    if not len(found):
        raise DataError(f"{dataset.folder}: no clip of split {dataset.split} has a mask", hint=ANY_MASK)
    return found


def masked_frames(dataset: PreparedDataset, clips: Iterable[int]) -> np.ndarray:
    """Clip and frame of every mask of ``clips``, in order: int64 (M, 2)."""
    pairs = [(int(i), k) for i in clips for k in dataset.record(int(i)).masked]
    return np.array(pairs, np.int64).reshape(-1, 2)


def frame_mask(dataset: PreparedDataset, i: int, k: int, *, semantic: bool) -> np.ndarray:
    """The mask of frame ``k`` of clip ``i``, which has one: uint8 (H, W) of 0 and 1, or with ``semantic`` of class
    numbers. DataError where it names no class."""
    mask = dataset.mask(i, k)
    if mask is None:
        raise DataError(
            f"frame {k} of clip {dataset.record(i).id} of {dataset.folder} has no mask", hint=ANY_MASK
        )
    if not semantic:
        return (mask > 0).astype(np.uint8)
    by_class = dataset.classes[:1] == [BACKGROUND]
    labels = dataset.record(i).label_ids
    numbers = range(len(dataset.classes)) if by_class else [0, *(1 + label for label in labels)]
    if (largest := int(mask.max())) >= len(numbers):
        what = f"there are {len(numbers)} classes" if by_class else f"the clip has {len(labels)} labels"
        raise DataError(
            f"the mask of clip {dataset.record(i).id} of {dataset.folder} holds {largest}, but {what}",
            hint="segment.semantic=false takes all that sounds as one; with classes a mask holds k for the k-th label",
        )
    return np.array(numbers, np.uint8)[mask]


def resized_mask(mask: np.ndarray, crop: Crop, size: tuple[int, int], *, flip: bool = False) -> np.ndarray:
    """A crop of a mask (H, W) in ``size`` (rows, columns), values unmixed: each is its nearest neighbour's."""
    left, top, width, height = crop
    patch = mask[top : top + height, left : left + width]
    patch = cv2.resize(patch, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return np.ascontiguousarray(patch[:, ::-1]) if flip else patch
