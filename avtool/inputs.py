"""From a frame and a sound to what a model takes: one rule for training, evaluation and inference.

Every frame is first made a JPEG with a short side of 256 pixels, as prepared data hold it, also when it comes straight
from a clip at inference: a model sees the same pixels everywhere. A crop of it is resized to the model's size; training
draws the crop, evaluation takes ``centre_crop``, and where a place in the frame is asked for ``whole_crop``. A sound is
a window of so many samples that lies inside what there is to hear, or is filled up by reflection.
"""

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np

SHORT_SIDE, JPEG_QUALITY = 256, 90
"""How frames are stored unless asked otherwise, and what one's own are seen as."""
EVALUATION_CROP = 224 / 256
"""The side of the evaluation crop, relative to the frame's short side."""

Crop = tuple[int, int, int, int]
"""left, top, width, height in pixels of the stored frame."""
Size = int | tuple[int, int]
"""The side of a square view, or its (rows, columns)."""

_JPEG = b"\xff\xd8"
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def to_jpeg(picture: np.ndarray, quality: int = JPEG_QUALITY) -> bytes:
    """Picture uint8 (H, W, 3) RGB as a JPEG."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def from_jpeg(data: bytes, reduce: int = 1) -> np.ndarray | None:
    """The picture uint8 (H, W, 3) RGB at 1 / ``reduce`` (1, 2, 4, 8) of its size; None where it does not decode."""
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), _REDUCED[reduce]) if data[:2] == _JPEG else None
    return None if picture is None else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def centre_crop(width: int, height: int) -> Crop:
    """The square in the middle that resizing to 256 and cropping to 224 leaves, in proportion."""
    side = max(1, round(min(width, height) * EVALUATION_CROP))
    return (width - side) // 2, (height - side) // 2, side, side


def whole_crop(width: int, height: int) -> Crop:
    """All of the frame: squeezed to the model's shape, by no more than training's crops are for a frame of 4:3."""
    return 0, 0, width, height


def cropped(
    read: Callable[[int], np.ndarray | None], crop: Crop, size: Size, *, flip: bool = False
) -> np.ndarray:
    """A crop of a frame, resized: uint8 (3, rows, columns) RGB.

    ``read`` decodes the frame at 1 / 1, 2, 4 or 8 of its size: the JPEG decoder does the coarse part of shrinking, and
    less than a factor of 2 is left.
    """
    left, top, width, height = crop
    rows, columns = as_pair(size)
    shrink = min(width / columns, height / rows)
    reduce = next(factor for factor in (8, 4, 2, 1) if factor == 1 or shrink >= factor)
    frame = read(reduce)
    assert frame is not None
    right, bottom = round((left + width) / reduce), round((top + height) / reduce)
    patch = frame[round(top / reduce) : bottom, round(left / reduce) : right]
    if patch.shape[:2] != (rows, columns):
        patch = cv2.resize(patch, (columns, rows), interpolation=cv2.INTER_LINEAR)
    if flip:
        patch = cv2.flip(patch, 1)
    planes = np.empty((3, rows, columns), np.uint8)
    cv2.split(patch, list(planes))
    return planes


def shown(frame: np.ndarray, size: Size, crop: Callable[[int, int], Crop]) -> np.ndarray:
    """A frame uint8 (H, W, 3) of one's own, of ``SHORT_SIDE``, as evaluation shows it: uint8 (3, rows, columns)."""
    return cropped(partial(from_jpeg, to_jpeg(frame)), crop(frame.shape[1], frame.shape[0]), size)


def as_pair(size: Size) -> tuple[int, int]:
    """Rows and columns."""
    return (size, size) if isinstance(size, int) else size


def window_around(moment: int, count: int, length: int) -> int:
    """Where a window of ``count`` samples begins that has sample ``moment`` in its middle, or where that would reach
    beyond the ``length`` samples there are, lies inside them."""
    return min(max(0, moment - count // 2), max(0, length - count))


def window_with(moment: int, at: float, count: int, length: int) -> int:
    """Where a window of ``count`` of ``length`` samples begins that holds sample ``moment``, ``at`` in 0 to 1 of the
    way from the earliest such window to the latest."""
    last = max(0, length - count)
    earliest, latest = min(max(0, moment - count + 1), last), min(moment, last)
    return earliest + int(at * (latest - earliest + 1))


def window_within(share: float, count: int, length: int) -> int:
    """Where a window of ``count`` of ``length`` samples begins, ``share`` in 0 to 1 of the way from first to last."""
    return round(share * max(0, length - count))


def window_starts(length: int, count: int, every: float, *, whole: bool = False) -> list[int]:
    """Where windows of ``count`` samples begin: one ``every`` so many of ``length`` samples, the last at the end, up to
    a quarter of a step later than its turn. A length that is less than an eighth longer than one has one, in its
    middle, unless ``whole`` says that no sample may be left out."""
    room = max(0, length - count)
    if room < (1 if whole else count / 8):
        return [window_within(0.5, count, length)]
    return [0, *(round(start) for start in np.arange(every, room - every / 4, every)), room]


def fit_window(waveform: np.ndarray, count: int) -> np.ndarray:
    """Sound (N,) as ``count`` samples: the first ones, or padded at its end by (repeated) reflection."""
    if len(waveform) == 0:
        raise ValueError("there is no sound to make a window of")
    if len(waveform) >= count:
        return waveform[:count]
    return np.pad(waveform, (0, count - len(waveform)), mode="reflect")


def white_noise(waveform: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """White Gaussian noise int16 (N,) as loud as ``waveform`` int16 (N,): of its root mean square."""
    level = np.sqrt(np.square(waveform, dtype=np.float64).mean())
    return np.clip(np.rint(level * generator.standard_normal(len(waveform))), -32768, 32767).astype(np.int16)
