"""Views of frames that have a mask: what of a frame sounds, and of which class it is.

A stored mask holds 0 where nothing sounds, and elsewhere a number. Where the data's first class is ``background``
(AVSBench) that is the class id of what is seen there. Everywhere else (synth, a manifest) number k means the clip's
k-th label, and a mask of other numbers, as 0 and 255, only says that something sounds. A view's mask holds either 1
for all that sounds, or with ``semantic`` class numbers: 0 for the background, then the data's other classes in order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np

from avtool.data.dataset import PreparedDataset
from avtool.data.views import Crop, Size, TrainingViews, cropped, draws, fit_window, random_crop
from avtool.errors import DataError

BACKGROUND = "background"
ANY_MASK = "prepare data with masks: avtool prepare synth, avsbench, or a manifest with a column mask"


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
    numbers = _numbers(dataset, i)
    if (largest := int(mask.max())) >= len(numbers):
        by_class = dataset.classes[:1] == [BACKGROUND]
        what = f"there are {len(numbers)} classes" if by_class else f"the clip has {len(numbers) - 1} labels"
        raise DataError(
            f"the mask of clip {dataset.record(i).id} of {dataset.folder} holds {largest}, but {what}",
            hint="segment.semantic=false takes all that sounds as one; with classes a mask holds k for the k-th label",
        )
    return numbers[mask]


def _numbers(dataset: PreparedDataset, i: int) -> np.ndarray:
    """The class number of each value of a mask of clip ``i``, uint8."""
    if dataset.classes[:1] == [BACKGROUND]:
        return np.arange(len(dataset.classes), dtype=np.uint8)
    return np.array([0, *(1 + label for label in dataset.record(i).label_ids)], np.uint8)


def resized_mask(mask: np.ndarray, crop: Crop, size: tuple[int, int], *, flip: bool = False) -> np.ndarray:
    """A crop of a mask (H, W) in ``size`` (rows, columns), values unmixed: each is its nearest neighbour's."""
    left, top, width, height = crop
    patch = mask[top : top + height, left : left + width]
    patch = cv2.resize(patch, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return np.ascontiguousarray(patch[:, ::-1]) if flip else patch


class DrawnMaskViews:
    """Training views of masked frames, with the sizes, crops, flips and gain of ``views``.

    ``sample(epoch, index)``, a function of (seed, epoch, index): one of the masked frames of clip ``index``, cropped
    and flipped at random; a random window of sound that holds the frame's time; and under ``mask`` uint8 (rows,
    columns) the same crop of its mask. The other keys are those of ``TrainingViews``.
    """

    def __init__(self, views: TrainingViews, *, semantic: bool) -> None:
        self.views, self.semantic = views, semantic

    def sample(self, epoch: int, index: int) -> dict[str, Any]:
        views, dataset = self.views, self.views.dataset
        record = dataset.record(index)
        generator = draws(views.seed, epoch, index)
        at, choice, flip, gain = generator.random(4)
        frame = record.masked[int(choice * len(record.masked))]
        start = window_with(
            float(record.times[frame]), at, record.samples, views.window_samples, dataset.sample_rate
        )
        waveform = dataset.waveform(index, start, views.window_samples)
        crop = random_crop(generator, record.width, record.height, views.crop_scale)
        flipped = bool(views.flip and flip < 0.5)
        mask = frame_mask(dataset, index, frame, semantic=self.semantic)
        return {
            "image": cropped(dataset, index, frame, crop, views.image_size, flip=flipped),
            "mask": resized_mask(mask, crop, _pair(views.image_size), flip=flipped),
            "waveform": fit_window(waveform, views.window_samples),
            "gain_db": np.float32((2 * gain - 1) * views.gain_db),
            "index": index,
            "epoch": epoch,
        }


class MaskViews:
    """The same view of every masked frame every time: ``sample(number)`` is ``frames[number]``, (clip, frame).

    The whole frame without a crop, as ``image`` uint8 (3, rows, columns); ``mask`` uint8 of ``mask_size``; ``waveform``
    int16 (window_samples,), the sound around the frame's time; ``index`` of the clip, ``label`` its first (-1: none).
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
        self.image_size, self.mask_size, self.window_samples = image_size, mask_size, window_samples

    def sample(self, number: int) -> dict[str, Any]:
        index, frame = (int(value) for value in self.frames[number])
        dataset, record = self.dataset, self.dataset.record(index)
        start = round(float(record.times[frame]) * dataset.sample_rate) - self.window_samples // 2
        start = min(max(0, start), max(0, record.samples - self.window_samples))
        whole = (0, 0, record.width, record.height)
        mask = frame_mask(dataset, index, frame, semantic=self.semantic)
        return {
            "image": cropped(dataset, index, frame, whole, self.image_size),
            "mask": resized_mask(mask, whole, self.mask_size),
            "waveform": fit_window(dataset.waveform(index, start, self.window_samples), self.window_samples),
            "index": index,
            "label": record.label_ids[0] if record.label_ids else -1,
        }


def window_with(time: float, at: float, samples: int, length: int, rate: int) -> int:
    """The first sample of a window of ``length`` of ``samples`` that holds ``time`` seconds, ``at`` in 0 to 1 of the
    way from the earliest such window to the latest."""
    moment, last = round(time * rate), max(0, samples - length)
    earliest, latest = min(max(0, moment - length + 1), last), min(moment, last)
    return earliest + int(at * (latest - earliest + 1))


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
