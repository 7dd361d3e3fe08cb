"""Masks of frames: what of a frame sounds, and of which class it is.

A stored mask holds 0 where nothing sounds, and elsewhere a number. Where the data's first class is ``background``
(AVSBench) that is the class id of what is seen there. Everywhere else (synth, a manifest) number k means the clip's
k-th label, and a mask of other numbers, as 0 and 255, only says that something sounds. A view's mask holds either 1
for all that sounds, or with ``semantic`` class numbers: 0 for the background, then the data's other classes in order.
"""

from collections.abc import Iterable

import cv2
import numpy as np

from avtool.data.dataset import PreparedDataset
from avtool.errors import DataError
from avtool.inputs import Crop

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
