"""Views: what a model sees of a stored clip, a window of sound and a crop of one frame.

Training views follow DeepAVFusion (Mo and Morgado, 2024): a random window, a frame from inside it, a random
resized crop and flip, gain jitter. Every draw is a function of (seed, epoch, index) alone, so that the
samples are the same for any number of workers and after a resume.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np

from avtool.data.dataset import PreparedDataset

RATIO = (3 / 4, 4 / 3)
CROP_TRIES = 10
EVALUATION_CROP = 224 / 256
"""The side of the evaluation crop, relative to the frame's short side."""

Crop = tuple[int, int, int, int]
"""left, top, width, height in pixels of the stored frame."""
Size = int | tuple[int, int]
"""The side of a square view, or its (rows, columns)."""


def draws(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator of all that sample ``index`` draws in ``epoch``."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch, index))))


def fit_window(waveform: np.ndarray, count: int) -> np.ndarray:
    """Sound (N,) as ``count`` samples: the first ones, or padded at its end by (repeated) reflection."""
    if len(waveform) == 0:
        raise ValueError("there is no sound to make a window of")
    if len(waveform) >= count:
        return waveform[:count]
    return np.pad(waveform, (0, count - len(waveform)), mode="reflect")


def middle_sound(dataset: PreparedDataset, i: int, count: int) -> np.ndarray:
    """At most ``count`` samples of clip ``i`` around its key frame: int16 (N,)."""
    record = dataset.record(i)
    start = round(record.middle * dataset.sample_rate) - count // 2
    return dataset.waveform(i, min(max(0, start), max(0, record.samples - count)), count)


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


def centre_crop(width: int, height: int) -> Crop:
    """The square in the middle that resizing to 256 and cropping to 224 leaves, in proportion."""
    side = max(1, round(min(width, height) * EVALUATION_CROP))
    return (width - side) // 2, (height - side) // 2, side, side


def crop_boxes(boxes: np.ndarray, crop: Crop, width: int, height: int) -> np.ndarray:
    """Boxes (M, 4) as fractions of the frame to fractions of the crop; those outside it are left out."""
    left, top, w, h = crop
    scaled = boxes * np.array([width, height, width, height], np.float32) - np.array([left, top, left, top])
    scaled = np.clip(scaled / np.array([w, h, w, h]), 0, 1).astype(np.float32)
    return scaled[(scaled[:, 2] > scaled[:, 0]) & (scaled[:, 3] > scaled[:, 1])]


def cropped(
    dataset: PreparedDataset, i: int, k: int, crop: Crop, size: Size, *, flip: bool = False
) -> np.ndarray:
    """A crop of frame ``k`` of clip ``i``, resized: uint8 (3, rows, columns) RGB.

    The JPEG decoder does the coarse part of shrinking (1/2, 1/4, 1/8): less than a factor of 2 is left.
    """
    left, top, width, height = crop
    rows, columns = (size, size) if isinstance(size, int) else size
    shrink = min(width / columns, height / rows)
    reduce = next(factor for factor in (8, 4, 2, 1) if factor == 1 or shrink >= factor)
    frame = dataset.frame(i, k, reduce=reduce)
    right, bottom = round((left + width) / reduce), round((top + height) / reduce)
    patch = frame[round(top / reduce) : bottom, round(left / reduce) : right]
    if patch.shape[:2] != (rows, columns):
        patch = cv2.resize(patch, (columns, rows), interpolation=cv2.INTER_LINEAR)
    if flip:
        patch = cv2.flip(patch, 1)
    planes = np.empty((3, rows, columns), np.uint8)
    cv2.split(patch, list(planes))
    return planes


class TrainingViews:
    """Random views: a window of sound, a frame from inside it, crop, flip and gain.

    ``sample(epoch, index)``: ``image`` uint8 (3, rows, columns), ``waveform`` int16 (window_samples,),
    ``gain_db`` to be applied to it later (float32, uniform in -gain_db to gain_db), ``index``, ``epoch`` and
    ``label`` (first class id, -1: none).
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
    ) -> None:
        self.dataset, self.seed = dataset, seed
        self.image_size, self.window_samples = image_size, window_samples
        self.crop_scale, self.flip, self.gain_db = crop_scale, flip, gain_db

    def sample(self, epoch: int, index: int) -> dict[str, Any]:
        dataset, record = self.dataset, self.dataset.record(index)
        generator = draws(self.seed, epoch, index)
        at, choice, flip, gain = generator.random(4)
        start = int(at * (max(0, record.samples - self.window_samples) + 1))
        waveform = dataset.waveform(index, start, self.window_samples)
        frame = self._frame_within(record.times, start, choice)
        crop = random_crop(generator, record.width, record.height, self.crop_scale)
        return {
            "image": cropped(dataset, index, frame, crop, self.image_size, flip=self.flip and flip < 0.5),
            "waveform": fit_window(waveform, self.window_samples),
            "gain_db": np.float32((2 * gain - 1) * self.gain_db),
            "index": index,
            "epoch": epoch,
            "label": record.label_ids[0] if record.label_ids else -1,
        }

    def _frame_within(self, times: np.ndarray, start: int, choice: float) -> int:
        """One of the frames inside the window that begins at sample ``start``, else the nearest."""
        begin = start / self.dataset.sample_rate
        seconds = self.window_samples / self.dataset.sample_rate
        within = np.flatnonzero((times >= begin) & (times < begin + seconds))
        if len(within):
            return int(within[int(choice * len(within))])
        return int(np.argmin(np.abs(times - (begin + seconds / 2))))


class EvaluationViews:
    """The same view every time: the key frame (in the middle, or where boxes were drawn) and the sound around
    it.

    ``sample(index)``: ``image`` uint8 (3, rows, columns), the square in the middle of the frame (resize 256,
    crop 224 in proportion), or with ``whole`` all of the frame, squeezed to that size; ``waveform`` int16
    (window_samples,); ``index`` and ``label``; with ``boxes`` also ``boxes``, float32 (M, 4) as fractions of what
    of the frame is shown.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        *,
        image_size: Size,
        window_samples: int,
        boxes: bool = False,
        whole: bool = False,
    ) -> None:
        self.dataset, self.boxes, self.whole = dataset, boxes, whole
        self.image_size, self.window_samples = image_size, window_samples

    def sample(self, index: int) -> dict[str, Any]:
        dataset, record = self.dataset, self.dataset.record(index)
        size = record.width, record.height
        crop = (0, 0, *size) if self.whole else centre_crop(*size)
        view = {
            "image": cropped(dataset, index, record.key, crop, self.image_size),
            "waveform": fit_window(middle_sound(dataset, index, self.window_samples), self.window_samples),
            "index": index,
            "label": record.label_ids[0] if record.label_ids else -1,
        }
        if self.boxes:
            view["boxes"] = crop_boxes(record.boxes, crop, record.width, record.height)
        return view
