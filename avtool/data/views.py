"""Views: what a model sees of a stored clip, a window of sound and a crop of one frame.

Training views follow DeepAVFusion (Mo and Morgado, 2024): a random window, a frame from inside it, a random
resized crop and flip, gain jitter. Every draw is a function of (seed, epoch, index) alone, so that the
samples are the same for any number of workers and after a resume. How a crop and a window become arrays is
``avtool.inputs``'s to say; a class of views says which.
"""

import math
from functools import partial
from typing import Any

import numpy as np

from avtool.data.dataset import PreparedDataset, Record
from avtool.data.masks import frame_mask, resized_mask
from avtool.inputs import (
    Crop,
    Size,
    as_pair,
    centre_crop,
    cropped,
    fit_window,
    whole_crop,
    window_around,
    window_with,
    window_within,
)

RATIO = (3 / 4, 4 / 3)
CROP_TRIES = 10


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


def show(
    dataset: PreparedDataset,
    index: int,
    record: Record,
    *,
    frame: int,
    crop: Crop,
    start: int,
    image_size: Size,
    window_samples: int,
    flip: bool = False,
) -> dict[str, Any]:
    """A view of clip ``index``: ``image`` uint8 (3, rows, columns), a crop of a frame; ``waveform`` int16
    (window_samples,) from sample ``start`` on; ``index`` and ``label`` (first class id, -1: none)."""
    return {
        "image": cropped(partial(dataset.frame, index, frame), crop, image_size, flip=flip),
        "waveform": fit_window(dataset.waveform(index, start, window_samples), window_samples),
        "index": index,
        "label": record.label_ids[0] if record.label_ids else -1,
    }


class TrainingViews:
    """Random views: a window of sound, a frame from inside it, crop, flip and gain.

    ``sample(epoch, index)``: the keys of ``show``, ``gain_db`` to be applied to the sound later (float32, uniform in
    -gain_db to gain_db) and ``epoch``. With ``semantic`` false or true the frame is one of those that have a mask, the
    window one that holds its time, and ``mask`` uint8 (rows, columns) the same crop of its mask, see ``frame_mask``.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        *,
        image_size: Size,
        window_samples: int,
        crop_scale: tuple[float, float] = (0.5, 1.0),
        flip: bool = True,
        gain_db: float = 6.0,
        seed: int,
        semantic: bool | None = None,
    ) -> None:
        self.dataset, self.seed, self.semantic = dataset, seed, semantic
        self.image_size, self.window_samples = image_size, window_samples
        self.show = partial(show, dataset, image_size=image_size, window_samples=window_samples)
        self.crop_scale, self.flip, self.gain_db = crop_scale, flip, gain_db

    def sample(self, epoch: int, index: int) -> dict[str, Any]:
        dataset, record = self.dataset, self.dataset.record(index)
        generator = draws(self.seed, epoch, index)
        at, choice, flip, gain = generator.random(4)
        frame, start = self._place(record, at, choice)
        crop = random_crop(generator, record.width, record.height, self.crop_scale)
        flipped = bool(self.flip and flip < 0.5)
        view = self.show(index, record, frame=frame, crop=crop, start=start, flip=flipped)
        view |= {"gain_db": np.float32((2 * gain - 1) * self.gain_db), "epoch": epoch}
        if self.semantic is not None:
            mask = frame_mask(dataset, index, frame, semantic=self.semantic)
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


class EvaluationViews:
    """The same view every time: the key frame (in the middle, or where boxes were drawn) and the sound around
    it.

    ``sample(index)``: the keys of ``show``, of ``centre_crop``, or with ``whole`` of all of the frame.
    """

    def __init__(
        self, dataset: PreparedDataset, *, image_size: Size, window_samples: int, whole: bool = False
    ) -> None:
        self.dataset, self.crop = dataset, whole_crop if whole else centre_crop
        self.window_samples = window_samples
        self.show = partial(show, dataset, image_size=image_size, window_samples=window_samples)

    def sample(self, index: int) -> dict[str, Any]:
        record = self.dataset.record(index)
        crop = self.crop(record.width, record.height)
        start = start_around(self.dataset, record, record.middle, self.window_samples)
        return self.show(index, record, frame=record.key, crop=crop, start=start)


class WindowViews:
    """``windows`` views of every clip, from its first window of sound to its last, each with the frame nearest to the
    window's middle, cropped as evaluation views are. A single one is the clip's middle.

    ``sample(number)`` is window ``number % windows`` of clip ``number // windows``: the keys of ``show``.
    """

    def __init__(
        self, dataset: PreparedDataset, *, image_size: Size, window_samples: int, windows: int
    ) -> None:
        self.dataset, self.windows = dataset, windows
        self.window_samples = window_samples
        self.show = partial(show, dataset, image_size=image_size, window_samples=window_samples)

    def numbers(self, clips: np.ndarray) -> np.ndarray:
        """The samples of ``clips`` (N,), clip by clip: int64 (N * windows,)."""
        return (clips[:, None] * self.windows + np.arange(self.windows)).reshape(-1)

    def sample(self, number: int) -> dict[str, Any]:
        index, window = divmod(number, self.windows)
        record, count = self.dataset.record(index), self.window_samples
        share = window / (self.windows - 1) if self.windows > 1 else 0.5
        start = window_within(share, count, record.samples)
        middle = (start + count / 2) / self.dataset.sample_rate
        frame = int(np.argmin(np.abs(record.times - middle)))
        crop = centre_crop(record.width, record.height)
        return self.show(index, record, frame=frame, crop=crop, start=start)


class MaskViews:
    """The same view of every masked frame every time: ``sample(number)`` is ``frames[number]``, (clip, frame).

    The keys of ``show``: the whole frame without a crop, the sound around the frame's time; and ``mask`` uint8 of
    ``mask_size``, see ``frame_mask``.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        frames: np.ndarray,
        *,
        image_size: Size,
        mask_size: tuple[int, int],
        window_samples: int,
        semantic: bool,
    ) -> None:
        self.dataset, self.frames, self.semantic = dataset, frames, semantic
        self.mask_size, self.window_samples = mask_size, window_samples
        self.show = partial(show, dataset, image_size=image_size, window_samples=window_samples)

    def sample(self, number: int) -> dict[str, Any]:
        index, frame = (int(value) for value in self.frames[number])
        record = self.dataset.record(index)
        crop = whole_crop(record.width, record.height)
        start = start_around(self.dataset, record, float(record.times[frame]), self.window_samples)
        mask = frame_mask(self.dataset, index, frame, semantic=self.semantic)
        return self.show(index, record, frame=frame, crop=crop, start=start) | {
            "mask": resized_mask(mask, crop, self.mask_size)
        }
