"""Pictures as arrays: decoded frames, image files and mask files."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from PIL import Image

from avtool.media.unusable import UNDECODABLE, UnusableMedia, check_file

_PICTURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|BM|II[*+]\0|MM\0[*+]|RIFF....WEBP|....ftypavi[fs]"
    rb"|\0\0\0\x0cjP  |\xff\x4f\xff\x51|P[1-7Ff]\s|#\?R|\x59\xa6\x6a\x95",
    re.DOTALL,
)
"""How files begin that OpenCV decodes: it is not asked itself, for it takes no path that is not UTF-8."""

_PLANAR = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12")
"""Formats of 8 bits a sample, scaled plane by plane: FFmpeg's own way to RGB takes three times as long there."""
_BT601 = (0.299, 0.114)
_BT2020 = (0.2627, 0.0593)
_WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: _BT2020, 10: _BT2020}
"""Weights of red and blue in luma for the colour spaces of ITU-T H.273, table 4, that do not have BT.601's."""


def is_picture(path: Path) -> bool:
    """Whether the file is a picture by what it begins with, whatever its name."""
    with path.open("rb") as file:
        return _PICTURE.match(file.read(16)) is not None


def quarter_turns(frame: av.VideoFrame) -> int:
    """Counter-clockwise quarter turns that bring the frame upright."""
    return round(frame.rotation / 90) % 4


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


def scaled_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """(width, height) scaled down, never up, to a short side of ``short_side`` (None: as it is)."""
    if short_side is None or min(width, height) <= short_side:
        return width, height
    scale = short_side / min(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


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
        raise UnusableMedia(f"{path} cannot be decoded: {error.err}", reason=UNDECODABLE) from error
    if picture is None:
        raise UnusableMedia(f"{path} cannot be decoded as a picture", reason=UNDECODABLE)
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def read_mask(path: Path) -> np.ndarray:
    """A mask file as uint8 (H, W): grey values, the indices of a palette, 0 and 255 of a two-valued picture, or the
    first channel of a colour one."""
    check_file(path)
    try:
        with Image.open(path) as picture:
            mode, mask = picture.mode, np.array(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnusableMedia(f"{path} is not a picture: {error}", reason=UNDECODABLE) from error
    if mode not in ("L", "P", "1", "RGB", "RGBA"):
        raise UnusableMedia(f"{path} is not an 8-bit mask but {mode}", reason=UNDECODABLE)
    if mask.dtype == bool:
        return mask.astype(np.uint8) * 255
    return mask if mask.ndim == 2 else mask[..., 0]
