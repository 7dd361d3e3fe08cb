"""What a clip is, and its frames: at a time, or the whole of it at even moments."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from avtool.errors import MediaError
from avtool.media.container import CLOCK, FARTHER, MediaFile
from avtool.media.pictures import resized
from avtool.media.unusable import UNDECODABLE, UnusableMedia

_PLANAR = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12")
"""Formats of 8 bits a sample, scaled plane by plane: FFmpeg's own way to RGB takes three times as long there."""
_BT601 = (0.299, 0.114)
_BT2020 = (0.2627, 0.0593)
_WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: _BT2020, 10: _BT2020}
"""Weights of red and blue in luma for the colour spaces of ITU-T H.273, table 4, that do not have BT.601's."""


@dataclass(frozen=True)
class ClipInfo:
    """What a clip is: ``duration`` in seconds as its header says, sizes upright, zeros for a stream it lacks."""

    duration: float
    width: int
    height: int
    fps: float
    sound_rate: int
    channels: int
    has_video: bool
    has_sound: bool


def probe(path: Path) -> ClipInfo:
    """What a clip or sound file is, from its header and first frame. Raises MediaError where it is unusable."""
    with MediaFile(path) as file:
        video, sound = file.video, file.sound
        width = height = 0
        if video is not None:
            with file.reading():
                frame = next(file.decoded_video(), None)
            if frame is None:
                raise _no_frame(file)
            width, height = upright_size(frame)
        return ClipInfo(
            duration=file.duration(),
            width=width,
            height=height,
            fps=file.frame_rate(),
            sound_rate=sound.sample_rate if sound is not None else 0,
            channels=sound.channels if sound is not None else 0,
            has_video=video is not None,
            has_sound=sound is not None,
        )


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
    """The frame uint8 (H, W, 3) RGB shown ``at`` seconds (None: the clip's middle) and the time it appears
    at.

    The frame shown at a time is the last one that appears at or before it. Raises MediaError where the clip
    has no video, cannot be decoded or is shorter than ``at``.
    """
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
    with file.reading():
        if (
            run is not None
            and run.last is not None
            and run.last.time <= time + CLOCK < run.last.time + FARTHER
        ):
            return run.until(time) or run.last
        for at_start in file.positions(time):
            run = _Run(file)
            if found := run.until(time) or (run.next if at_start else None):
                file.run = run
                return found
    raise _no_frame(file)


class _Run:
    """Frames that are decoded one after the other: the ``last`` one passed, and the ``next`` where it is known."""

    def __init__(self, file: MediaFile) -> None:
        self.file, self.frames = file, file.decoded_video()
        self.last: Picture | None = None
        self.next: Picture | None = None

    def until(self, time: float) -> Picture | None:
        """The last frame that appears at or before ``time``."""
        while True:
            if self.next is None:
                frame = next(self.frames, None)
                if frame is None:
                    return self.last
                self.next = Picture(frame, self.file.time_of(frame, default=0.0), self.file)
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
    """What a clip shows ``rate`` times a second from its first frame on, and when.

    At each moment that is the last frame to appear at or before it; one that lasts longer comes several times. One
    frame is held at a time. MediaError where nothing can be decoded.
    """
    file.need(video=True)
    next(file.positions(0.0))
    moments: Moments | None = None
    last, interval = None, 1 / rate
    with file.reading():
        for frame in file.decoded_video():
            picture = Picture(frame, file.time_of(frame, default=last.time if last else 0.0), file)
            if last is None or moments is None:
                moments = Moments(picture.time, rate)
            else:
                for moment in moments.until(picture.time - CLOCK):
                    yield last, moment
                interval = picture.time - last.time if picture.time > last.time else interval
            last = picture
    if last is None or moments is None:
        raise _no_frame(file)
    for moment in moments.until(last.time + interval - CLOCK):
        yield last, moment


def _no_frame(file: MediaFile) -> UnusableMedia:
    return UnusableMedia(f"{file.path}: no frame of its video can be decoded", reason=UNDECODABLE)


def quarter_turns(frame: av.VideoFrame) -> int:
    """Counter-clockwise quarter turns that bring the frame upright."""
    return round(frame.rotation / 90) % 4


def scaled_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """(width, height) scaled down, never up, to a short side of ``short_side`` (None: as it is)."""
    if short_side is None or min(width, height) <= short_side:
        return width, height
    scale = short_side / min(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def upright_size(frame: av.VideoFrame) -> tuple[int, int]:
    """Width and height of a frame that is upright."""
    size = frame.width, frame.height
    return size[::-1] if quarter_turns(frame) % 2 else size


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
        picture = cv2.transform(cv2.merge(_planes(scaled)), _to_rgb(frame.colorspace, full))
    else:
        picture = scaled.to_ndarray()
    turns = quarter_turns(frame)
    return np.ascontiguousarray(np.rot90(picture, turns) if turns else picture)


def _planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """The planes of a frame of 8 bits a sample, not copied: uint8 (H, W) each."""
    planes = []
    for plane in frame.planes:
        rows = np.frombuffer(cast(bytes, plane), np.uint8).reshape(-1, plane.line_size)
        planes.append(rows[: plane.height, : plane.width])
    return planes


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
