"""Image files and mask files as arrays."""

import re
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from avtool.media.unusable import UNDECODABLE, UnusableMedia, check_file

_PICTURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|BM|II[*+]\0|MM\0[*+]|RIFF....WEBP|....ftypavi[fs]"
    rb"|\0\0\0\x0cjP  |\xff\x4f\xff\x51|P[1-7Ff]\s|#\?R|\x59\xa6\x6a\x95",
    re.DOTALL,
)
"""How files begin that OpenCV decodes: it is not asked itself, for it takes no path that is not UTF-8."""


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
