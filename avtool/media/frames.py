"""Pictures: those of a clip at a time, or at even moments of all of it, and image and mask files."""

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageOps

from avtool.errors import MediaError
from avtool.media.clock import CLOCK
from avtool.media.colour import Hdr, Look, Looks, to_rgb
from avtool.media.container import FARTHER, HDR, MediaFile, UnusableMedia, check_file
from avtool.media.sound import refuse_hole

_PICTURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|BM|II[*+]\0|MM\0[*+]|RIFF....WEBP|....ftyp(?:avi[fs]|hei[cxms]|mif1)"
    rb"|\0\0\0\x0cjP  |\xff\x4f\xff\x51|P[1-7Ff]\s|#\?R|\x59\xa6\x6a\x95",
    re.DOTALL,
)
"""How pictures begin: OpenCV is not asked itself, for it takes no path that is not UTF-8."""

_HEIF = re.compile(rb"....ftyp(?:avi[fs]|he[iv][cxms]|mif1|msf1)", re.DOTALL)

_HDR_PNG = re.compile(rb"\x89PNG\r\n.{,999}cICP.[\x10\x12]", re.DOTALL)

_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


SOFT_MASK = "soft mask, cut at half"
COLOURED_MASK = "mask in colours, all taken as one"
HALF, JPEG_LEVELS = 128, 16


@dataclass(frozen=True)
class Picture:
    """A picture uint8 (H, W, 3), or a frame of ``file`` that is not in RGB yet, and the seconds at which it appears."""

    source: np.ndarray | av.VideoFrame
    time: float = 0.0
    file: MediaFile | None = None
    look: Look | None = None
    """How a picture was to be shown, where its file says so."""

    @property
    def hdr(self) -> bool:
        """Whether it is HDR, which ``rgb`` makes SDR."""
        look = self.look
        if isinstance(self.source, av.VideoFrame) and self.file is not None:
            look = self.file.looks.of(self.source)
        return look is not None and look.hdr

    def rgb(self, short_side: int | None = None) -> np.ndarray:
        """uint8 (H, W, 3), upright, with a short side of at most so many pixels (None: as it is)."""
        if isinstance(self.source, np.ndarray):
            return resized(self.source, scaled_size(self.source.shape[1], self.source.shape[0], short_side))
        assert self.file is not None
        with self.file.reading():
            look = self.file.looks.of(self.source)
            return to_picture(self.source, look, self.file.scalers[short_side], short_side=short_side)


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
        self.next = origin + step / rate

    def until(self, stop: float) -> list[float]:
        """Those before ``stop`` that have not come yet."""
        passed = []
        while self.next < stop:
            passed.append(self.next)
            self.step += 1
            self.next = self.origin + self.step / self.rate
        return passed


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
                refuse_hole(file.path, last.time, time, "a new picture")
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


def to_picture(
    frame: av.VideoFrame,
    look: Look,
    scaler: VideoReformatter,
    *,
    short_side: int | None = None,
    tonemap: bool = True,
) -> np.ndarray:
    """The frame in RGB, upright, with square pixels, scaled; ``scaler`` keeps what it set up for the frame before."""
    size = scaled_size(*look.size(frame.width, frame.height), short_side)
    picture = to_rgb(frame, look, size[::-1] if look.turned else size, scaler, tonemap=tonemap)
    return look.upright(picture)


def is_picture(path: Path) -> bool:
    """Whether the file is a picture by what it begins with, whatever its name."""
    with path.open("rb") as file:
        return _PICTURE.match(file.read(16)) is not None


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture in ``size`` (width, height)."""
    if picture.shape[1::-1] == size:
        return picture
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def fitted(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture in ``size`` (width, height): between black bars where it is of another shape."""
    height, width = picture.shape[:2]
    scale = min(size[0] / width, size[1] / height)
    inner = [min(round(side * scale), most) for side, most in zip((width, height), size, strict=True)]
    if max(size[0] - inner[0], size[1] - inner[1]) <= 2:  # rounding
        return resized(picture, size)
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    framed = np.zeros((size[1], size[0], 3), np.uint8)
    framed[top : top + inner[1], left : left + inner[0]] = resized(picture, (inner[0], inner[1]))
    return framed


def read_image(path: Path) -> np.ndarray:
    """A picture file as uint8 (H, W, 3) RGB: upright (EXIF; AVIF and HEIF say it otherwise), grey in three channels,
    alpha left out."""
    return read_picture(path).rgb()


def read_picture(path: Path, hdr: Hdr = "tonemap") -> Picture:
    """The same, and its ``look`` where it may be HDR: with ``hdr`` "refuse", MediaError where it is."""
    check_file(path)
    data = np.fromfile(path, np.uint8)
    head = data[:65536].tobytes()
    if (heif := _HEIF.match(head) is not None) or _HDR_PNG.match(head):
        return _by_ffmpeg(path, head, heif=heif, hdr=hdr)
    try:
        if head[8:12] == b"WEBP":  # OpenCV 4.10 leaves it as it lies
            with Image.open(path) as webp:
                return Picture(np.array(ImageOps.exif_transpose(webp).convert("RGB")))
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except _PILLOW_ERRORS as error:
        raise UnusableMedia(f"{path} cannot be decoded: {error}") from error
    except cv2.error as error:  # larger than OpenCV takes, or of a kind that it was built without
        raise UnusableMedia(f"{path} cannot be decoded: {error.err}") from error
    if picture is None:
        raise UnusableMedia(f"{path} cannot be decoded as a picture")
    return Picture(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))


def _by_ffmpeg(path: Path, head: bytes, *, heif: bool, hdr: Hdr) -> Picture:
    """What an AVIF, HEIF or HDR PNG file that begins with ``head`` shows; OpenCV reads not all of them, none upright
    and none as HDR."""
    with MediaFile(path) as file, file.reading():
        file.need(video=True)
        main = [one for one in file.videos if one.disposition & Disposition.default] if heif else file.videos
        if not main:
            what = f"{path} holds its picture in tiles, which is not supported"
            raise UnusableMedia(what, hint="save it as JPEG or PNG")
        file.video, file.looks = main[0], Looks(main[0], still=heif)
        frame = find_frame(file, 0.0).source
        assert isinstance(frame, av.VideoFrame)
        look = file.looks.of(frame)
        refuse_hdr(path, look, hdr)
        size = frame.width, frame.height
        picture = _cropped(to_rgb(frame, look, size, file.scalers[None], tonemap=hdr == "tonemap"), head)
        return Picture(resized(look.upright(picture), look.size(*picture.shape[1::-1])), look=look)


def _cropped(picture: np.ndarray, head: bytes) -> np.ndarray:
    """What is to be seen of the picture of a HEIF file: codecs of even sizes or whole blocks fill up others."""
    at = head.find(b"clap") + 4
    if at < 4 or len(head) < at + 32:
        return picture
    numbers = struct.unpack(">2I2I2i2i", head[at : at + 32])
    wide, high, right, down = (n / (d or 1) for n, d in zip(numbers[::2], numbers[1::2], strict=True))
    height, width = picture.shape[:2]
    top, left = round((height - high) / 2 + down), round((width - wide) / 2 + right)
    inside = picture[max(0, top) :, max(0, left) :][: round(high), : round(wide)]
    return inside if inside.size else picture


def refuse_hdr(path: Path, look: Look, hdr: Hdr) -> None:
    """MediaError where the picture is HDR and ``hdr`` refuses that."""
    if look.hdr and hdr == "refuse":
        raise UnusableMedia(f"{path} is HDR", reason=HDR, hint="prepare it with hdr=tonemap")


def read_mask(path: Path) -> tuple[np.ndarray, str]:
    """A mask file as uint8 (H, W), and of SOFT_MASK and COLOURED_MASK what holds for it, "" for neither.

    Values are grey values, the indices of a palette, or 0 and 255 of a two-valued picture. A JPEG, and grey that is not
    all light or dark, is no row of numbers but how much each pixel is of it: it is cut at half, to 0 and 255. Where
    only one channel of colours is used it has the values; of others all that is not black counts, as 255.
    """
    check_file(path)
    try:
        with Image.open(path) as picture:
            mode, lossy, mask = picture.mode, picture.format == "JPEG", np.array(picture)
    except _PILLOW_ERRORS as error:
        raise UnusableMedia(f"{path} is not a picture: {error}") from error
    if mode not in ("L", "LA", "P", "1", "RGB", "RGBA"):
        raise UnusableMedia(f"{path} is not an 8-bit mask but {mode}")
    if mask.dtype == bool:
        return mask.astype(np.uint8) * 255, ""
    if mask.ndim == 3:
        planes = [mask[..., k] for k in range(3 if mode.startswith("RGB") else 1)]
        coloured = [plane for plane in planes if plane.any()]
        if any(cv2.absdiff(plane, planes[0]).max() > (JPEG_LEVELS if lossy else 0) for plane in planes[1:]):
            if lossy:
                what = f"{path} is a JPEG in colours, which are not exact in one"
                raise UnusableMedia(what, hint="write the mask as PNG")
            if len(coloured) > 1:
                return np.where(np.any(planes, axis=0), 255, 0).astype(np.uint8), COLOURED_MASK
            planes = coloured
        mask = planes[0]
    if lossy and 0 < mask.max() < HALF:
        what = f"{path} is a JPEG of values up to {mask.max()}, which are not exact in one"
        raise UnusableMedia(what, hint="write the mask as PNG")
    levels = np.unique(mask) if mode != "P" else ()
    soft = any(HALF // 2 <= level < 3 * HALF // 2 for level in levels) and mask.max() >= HALF
    if lossy or soft:
        return np.where(mask >= HALF, 255, 0).astype(np.uint8), SOFT_MASK if len(np.unique(mask)) > 2 else ""
    return mask, ""
