"""Masks that somebody else predicted, as the protocols of segmentation take them."""

import cv2
import numpy as np
import torch

from avtool.data.dataset import Record
from avtool.errors import DataError
from avtool.tasks.given import Predictions, as_grey
from avtool.tasks.segment.train import EVALUATION_SIZE, resized

AXES = "a mask is (rows, columns), or all of a clip's are one array (frames, rows, columns)"


def masks_of(given: Predictions, record: Record) -> tuple[list[np.ndarray], str]:
    """The masks that are ``given`` of a clip's masked frames, in their order, and where they lie. DataError where there
    are more or fewer."""
    arrays, where = given.of(record.id)
    if len(arrays) == 1 and arrays[0].ndim == 3 and not _is_colour(arrays[0]):
        arrays = list(arrays[0])
    if len(arrays) != len(record.masked):
        raise DataError(
            f"{where}: clip {record.id} has {len(arrays)} masks, the data have {len(record.masked)} frames with one",
            hint="give a mask for each of these frames, in their order",
        )
    return arrays, where


def probabilities(mask: np.ndarray, where: str, *, binary: bool) -> np.ndarray:
    """A mask of values from 0 to 1 or of whole numbers, at the evaluation's size: float32 (224, 224). Whole numbers are
    0 and 1 where all are ``binary``, else of 0 to 255, or 65535 in more than a byte. DataError for other values."""
    mask = as_grey(mask, where)
    if mask.ndim != 2:
        raise DataError(f"{where}: a mask is of shape {mask.shape}", hint=AXES)
    if mask.dtype.kind in "ui" and not binary:
        mask = mask / np.float32(255 if mask.dtype == np.uint8 else 65535)
    mask = mask.astype(np.float32)
    if mask.min() < 0 or mask.max() > 1:
        raise DataError(
            f"{where}: a mask holds values from {mask.min():g} to {mask.max():g}, they are to be from 0 to 1",
            hint="of logits, give 1 / (1 + exp(-logits))",
        )
    return resized(torch.from_numpy(mask)[None, None], EVALUATION_SIZE)[0, 0].clamp(0, 1).numpy()


def class_numbers(mask: np.ndarray, classes: int, where: str) -> np.ndarray:
    """A mask of class numbers or of the palette's colours, at the evaluation's size: int64 (224, 224); a colour that
    resizing has mixed is the nearest one. DataError for numbers of no class."""
    if _is_colour(mask):
        colours, place = np.unique(mask.reshape(-1, 3), axis=0, return_inverse=True)
        far = np.square(colours[:, None].astype(np.int64) - palette(classes)).sum(axis=-1)
        pure = np.flatnonzero((far == 0).any(axis=0))  # colours between two of these are of a border
        mask = pure[far[:, pure].argmin(axis=1)][place].reshape(mask.shape[:2]) if len(pure) else mask
    if mask.ndim != 2 or (mask != np.floor(mask)).any():
        raise DataError(f"{where}: a mask of shape {mask.shape} holds no class numbers", hint=AXES)
    if mask.min() < 0 or mask.max() >= classes:
        bad = mask.max() if mask.max() >= classes else mask.min()
        raise DataError(
            f"{where}: a mask holds {bad:g}, the data have classes 0 to {classes - 1}",
            hint="0 is the background, then the classes follow in the order of the data",
        )
    fine = cv2.resize(mask.astype(np.uint8), EVALUATION_SIZE[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return fine.astype(np.int64)


def palette(classes: int) -> np.ndarray:
    """The colours (classes, 3) of PASCAL VOC's palette, in which AVSBench draws class numbers: bit 3 k of a number is
    bit 7 - k of red, those beside it of green and blue."""
    numbers = np.arange(classes)[:, None]
    bits = [((numbers >> (3 * k + np.arange(3))) & 1) << (7 - k) for k in range(8)]
    return np.sum(bits, axis=0)


def _is_colour(mask: np.ndarray) -> bool:
    return mask.dtype == np.uint8 and mask.ndim == 3 and mask.shape[-1] == 3
