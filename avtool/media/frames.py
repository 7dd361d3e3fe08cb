"""Pictures: those of a clip at a time, or at even moments of all of it, and image and mask files."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from PIL import Image

from avtool.errors import MediaError
from avtool.media.clock import CLOCK
from avtool.media.container import FARTHER, MediaFile, UnusableMedia, check_file

_PLANAR = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12")
"""Formats of 8 bits a sample, scaled plane by plane: FFmpeg's own way to RGB takes three times as long there."""
_BT601 = (0.299, 0.114)
_BT2020 = (0.2627, 0.0593)
_WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: _BT2020, 10: _BT2020}
"""Weights of red and blue in luma for the colour spaces of ITU-T H.273, table 4, that do not have BT.601's."""
_PICTURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|BM|II[*+]\0|MM\0[*+]|RIFF....WEBP|....ftypavi[fs]"
    rb"|\0\0\0\x0cjP  |\xff\x4f\xff\x51|P[1-7Ff]\s|#\?R|\x59\xa6\x6a\x95",
    re.DOTALL,
)
"""How files begin that OpenCV decodes: it is not asked itself, for it takes no path that is not UTF-8."""


@dataclass(frozen=True)
class Picture:
    """A picture uint8 (H, W, 3), or a frame of ``file`` that is not in RGB yet, and the seconds at which it appears."""

    source: np.ndarray | av.VideoFrame
    time: float = 0.0
    file: MediaFile | None = None

    def rgb(self, short_side: int | None = None) -> np.ndarray:
        """uint8 (H, W, 3), upright, with a short side of at most so many pixels (None: as it is)."""
        if isinstance(self.source, np.ndarray):
            return resized(self.source, scaled_size(self.source.shape[1], self.source.shape[0], short_side))
        assert self.file is not None
        with self.file.reading():
            return to_picture(self.source, self.file.scalers[short_side], short_side=short_side)


def read_frame(path: Path, at: float | None = None) -> tuple[np.ndarray, float]:
    """The frame uint8 (H, W, 3) RGB shown ``at`` seconds (None: the clip's middle), as by ``find_frame``, and the time
    it appears at. Raises MediaError where the clip has no video, cannot be decoded or is shorter than ``at``."""
    with MediaFile(path) as file:
        file.need(video=True)
        picture = find_frame(file, check_time(path, file.duration(), at))
        return picture.rgb(), picture.time


def check_time(path: Path, length: float, at: float | None, *, what: str = "frame") -> float:
    """``at``, or for None the middle of ``length`` seconds. MediaError for a time outside it."""
    time = length / 2 if at is None else at
    if not 0 <= time <= length + CLOCK:
        raise MediaError(
            f"{path} is {length:.2f} s long: there is no {what} at {time:g} s",
            hint=f"choose a time from 0 to {math.floor(100 * length) / 100:g}",
        )
    return time


def find_frame(file: MediaFile, time: float) -> Picture:
    """The frame of ``file``, which has video, that is shown at ``time`` seconds: the last one to appear at or before
    it, the first one where there is none. One a little later than the one found before is come to without a seek."""
    run: _Run | None = file.run
    last = None if run is None else run.last
    with file.reading():
        if run is not None and last is not None and last.time <= time + CLOCK < last.time + FARTHER:
            return run.until(time) or last
        for at_start in file.positions(time):
            run = _Run(file)
            if found := run.until(time) or (run.next if at_start else None):
                file.run = run
                return found
    raise no_frame(file.path)


class _Run:
    """Frames that are decoded one after the other: the ``last`` one passed, and the ``next`` where it is known."""

    def __init__(self, file: MediaFile) -> None:
        self.file, self.frames = file, file.decoded(file.video)
        self.last: Picture | None = None
        self.next: Picture | None = None

    def until(self, time: float) -> Picture | None:
        """The last frame that appears at or before ``time``."""
        while True:
            if self.next is None:
                if (found := next(self.frames, None)) is None:
                    return self.last
                self.next = Picture(*found, self.file)
            if self.next.time > time + CLOCK:
                return self.last
            self.last, self.next = self.next, None


class Moments:
    """The moments ``origin`` + k / ``rate`` in seconds, for every whole k from ``step`` on, one after the other."""

    def __init__(self, origin: float, rate: float, step: int = 0) -> None:
        self.origin, self.rate, self.step = origin, rate, step

    def until(self, stop: float) -> Iterator[float]:
        """Those before ``stop`` that have not come yet."""
        while (moment := self.origin + self.step / self.rate) < stop:
            yield moment
            self.step += 1


def shown_frames(file: MediaFile, *, rate: float) -> Iterator[tuple[Picture, float]]:
    """What a clip shows ``rate`` times a second from its first frame on, but not before 0 s, and when.

    At each moment that is the last frame to appear at or before it; one that lasts longer comes several times. One
    frame is held at a time. MediaError where nothing can be decoded.
    """
    file.need(video=True)
    next(file.positions(0.0))
    last: Picture | None = None
    moments, interval = Moments(0.0, rate), 1 / rate
    with file.reading():
        for frame, time in file.decoded(file.video):
            if last is None:
                moments = Moments(time, rate, step=math.ceil(max(0.0, -time - CLOCK) * rate))
            else:
                for moment in moments.until(time - CLOCK):
                    yield last, moment
                interval = time - last.time
            last = Picture(frame, time, file)
    if last is None:
        raise no_frame(file.path)
    for moment in moments.until(last.time + interval - CLOCK):
        yield last, moment


def no_frame(path: Path) -> UnusableMedia:
    """The error where there is none."""
    return UnusableMedia(f"{path}: no frame of its video can be decoded")


def scaled_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """(width, height) scaled down, never up, to a short side of ``short_side`` (None: as it is)."""
    if short_side is None or min(width, height) <= short_side:
        return width, height
    scale = short_side / min(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def upright_size(frame: av.VideoFrame) -> tuple[int, int]:
    """Width and height of the frame once it is upright."""
    size = frame.width, frame.height
    return size[::-1] if round(frame.rotation / 90) % 2 else size


def to_picture(
    frame: av.VideoFrame, scaler: VideoReformatter, *, short_side: int | None = None
) -> np.ndarray:
    """The frame in RGB, scaled and upright; ``scaler`` keeps what it set up for the frame before."""
    size = scaled_size(frame.width, frame.height, short_side)
    planar = frame.format.name in _PLANAR
    full = frame.color_range == ColorRange.JPEG
    target = ("yuvj444p" if full else "yuv444p") if planar else "rgb24"
    # One thread: processes share the cores, and to start threads takes longer than to scale.
    scaled = scaler.reformat(frame, *size, format=target, interpolation=Interpolation.AREA, threads=1)
    if planar:
        rows = [np.frombuffer(cast(bytes, one), np.uint8).reshape(-1, one.line_size) for one in scaled.planes]
        planes = [row[: size[1], : size[0]] for row in rows]
        picture = cv2.transform(cv2.merge(planes), _to_rgb(frame.colorspace, full))
    else:
        picture = scaled.to_ndarray()
    turns = round(frame.rotation / 90) % 4  # counter-clockwise
    return np.ascontiguousarray(np.rot90(picture, turns) if turns else picture)


@cache
def _to_rgb(colorspace: int, full: bool) -> np.ndarray:
    """What takes Y, Cb and Cr of 8 bits, and 1, to R, G and B: float32 (3, 4); ITU-T H.273, 8.3."""
    red, blue = _WEIGHTS.get(colorspace, _BT601)
    green = 1 - red - blue
    luma, chroma, black = (1, 1, 0) if full else (255 / 219, 255 / 224, 16)
    to_red, to_blue = 2 * (1 - red) * chroma, 2 * (1 - blue) * chroma
    matrix = np.array(
        [[luma, 0, to_red], [luma, -to_blue * blue / green, -to_red * red / green], [luma, to_blue, 0]]
    )
    return np.column_stack([matrix, -matrix @ (black, 128, 128)]).astype(np.float32)


def is_picture(path: Path) -> bool:
    """Whether the file is a picture by what it begins with, whatever its name."""
    with path.open("rb") as file:
        return _PICTURE.match(file.read(16)) is not None


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture in ``size`` (width, height)."""
    if picture.shape[1::-1] == size:
        return picture
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def read_image(path: Path) -> np.ndarray:
    """A picture file as uint8 (H, W, 3) RGB: upright (EXIF), grey in three channels, alpha left out."""
    check_file(path)
    try:
        picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:  # larger than OpenCV takes, or of a kind that it was built without
        raise UnusableMedia(f"{path} cannot be decoded: {error.err}") from error
    if picture is None:
        raise UnusableMedia(f"{path} cannot be decoded as a picture")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def read_mask(path: Path) -> np.ndarray:
    """A mask file as uint8 (H, W): grey values, the indices of a palette, 0 and 255 of a two-valued picture, or the
    first channel of a colour one."""
    check_file(path)
    try:
        with Image.open(path) as picture:
            mode, mask = picture.mode, np.array(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnusableMedia(f"{path} is not a picture: {error}") from error
    if mode not in ("L", "P", "1", "RGB", "RGBA"):
        raise UnusableMedia(f"{path} is not an 8-bit mask but {mode}")
    if mask.dtype == bool:
        return mask.astype(np.uint8) * 255
    return mask if mask.ndim == 2 else mask[..., 0]
