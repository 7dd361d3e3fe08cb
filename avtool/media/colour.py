"""How frames are to be shown: what their tags say of colour, shape and orientation, what is assumed where they say
nothing, and from their samples to RGB. Numbers of colour tags are those of ITU-T H.273."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, Literal, cast

import av
import cv2
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

Hdr = Literal["tonemap", "keep", "refuse"]
"""What becomes of high dynamic range: it is mapped to SDR, read as if it were SDR (pale), or refused."""
HD = 1280, 720
"""Pictures so wide or so high without a tag are taken for BT.709, smaller ones for BT.601, as makers and players do."""
WHITE = 203.0
"""Luminance of SDR's white in HDR, cd/m2 (ITU-R BT.2408). What is brighter becomes white."""
OBLONG = 5
"""A tag that says that pixels are so many times as wide as high, or as high as wide, is wrong."""
_TAGS = ("colorspace", "color_trc", "color_primaries")
_RGB, BT709, _UNSPECIFIED, _BT601, _YCGCO, _DERIVED, _PQ, _HLG = 0, 1, 2, 6, 8, 12, 16, 18
_MATRICES = {0: "rgb", 1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 8: "ycgco"}
_MATRICES |= {9: "bt2020", 10: "bt2020", _DERIVED: "p3"}
_HDR = {_PQ: "pq", _HLG: "hlg"}
_BT2020 = (0.2627, 0.0593)
_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    7: (0.212, 0.087),
    9: _BT2020,
    10: _BT2020,
    _DERIVED: (0.2290, 0.0793),
}
"""Weights of red and blue in luma for the matrices of table 4 that do not have BT.601's."""
_PRIMARIES = {
    1: ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
"""Chromaticities x, y of red, green and blue in table 2: BT.709, BT.2020, P3."""
_ALWAYS_BT601, _ALWAYS_LIMITED = ("mjpeg", "vp8"), ("mpeg1video", "mpeg2video", "prores", "vp8")
"""Decoders that say so of every picture, whatever its container says."""


@dataclass(frozen=True)
class Look:
    """How a frame is to be shown: ``matrix``, ``transfer`` and ``primaries`` by number, ``full`` range or limited, what
    of matrix and range is ``assumed``; ``aspect``, the width of a pixel relative to its height; then ``turned`` over
    the diagonal, ``mirrored`` left-right and ``flipped`` top-bottom, in this order."""

    matrix: int
    full: bool
    transfer: int
    primaries: int
    assumed: tuple[str, ...]
    aspect: Fraction
    turned: bool
    mirrored: bool
    flipped: bool

    @property
    def hdr(self) -> bool:
        return self.transfer in _HDR

    def facts(self) -> dict[str, Any]:
        """What is said of its colour: ``matrix``, ``range``, which of them are ``assumed``, and HDR's ``transfer``."""
        facts: dict[str, Any] = {
            "matrix": _MATRICES[self.matrix],
            "range": "full" if self.full else "limited",
        }
        facts["assumed"] = list(self.assumed)
        return facts | {"transfer": _HDR[self.transfer]} if self.hdr else facts

    def size(self, wide: int, high: int, *, square: bool = True) -> tuple[int, int]:
        """Width and height of a frame as it is coded once it is upright, and its pixels ``square``: the shorter side of
        a pixel grows, so that nothing is lost."""
        if square and self.aspect > 1:
            wide = round(wide * self.aspect)
        elif square:
            high = round(high / self.aspect)
        return (high, wide) if self.turned else (wide, high)

    def upright(self, picture: np.ndarray) -> np.ndarray:
        """A picture (H, W, 3) as it is coded, turned and mirrored."""
        picture = picture.transpose(1, 0, 2) if self.turned else picture
        return np.ascontiguousarray(picture[:: -1 if self.flipped else 1, :: -1 if self.mirrored else 1])


class Looks:
    """What is known of how a stream's frames are to be shown. It is made before any of them is decoded: a decoder may
    write over what the container says. ``still``: it is of an AVIF or HEIF picture, whose rules are their own."""

    def __init__(self, stream: VideoStream, *, still: bool = False) -> None:
        self.context, self.still = stream.codec_context, still
        self.tags, self.range = [getattr(self.context, name) for name in _TAGS], self.context.color_range
        self.coded_wins = self.context.name not in _ALWAYS_BT601
        shape = stream.sample_aspect_ratio
        self.shape = shape if shape != self.context.sample_aspect_ratio else None
        self.changes: dict[int, tuple[bytes | None, Fraction | None]] = {}
        self.latest: tuple[bytes | None, Fraction | None] | None = None
        self.known: dict[tuple[Any, ...], Look] = {}

    def note(self, frame: av.VideoFrame) -> None:
        """This frame was just decoded: what its codec says of shape and orientation may come with key frames only, and
        holds until the next one."""
        if frame.key_frame or not self.changes:
            found = _display_matrix(frame), self.context.sample_aspect_ratio
            if found != self.latest:
                self.latest = self.changes[frame.pts or 0] = found

    def of(self, frame: av.VideoFrame) -> Look:
        """How a frame that was noted is to be shown."""
        at = frame.pts or 0
        before = [pts for pts in self.changes if pts <= at] or list(self.changes)
        matrix, shape = self.changes[max(before)] if before else (None, None)
        tags = (*(getattr(frame, name) for name in _TAGS), frame.color_range)
        says = _display_matrix(frame) or matrix, shape, tags, frame.format.name, frame.width, frame.height
        if (look := self.known.get(says)) is None:
            look = self.known[says] = self._look(frame, *says[:2])
        return look

    def _look(self, frame: av.VideoFrame, matrix: bytes | None, shape: Fraction | None) -> Look:
        # x' = ax + cy, y' = bx + dy
        a, b, c, d = struct.unpack("=2i4x2i", matrix[:20]) if matrix else (1, 0, 0, 1)
        turned = abs(b) + abs(c) > abs(a) + abs(d)
        aspect = self.shape or shape or Fraction(1)
        if not 1 / OBLONG <= aspect <= OBLONG or abs(aspect - 1) < 0.005:  # a rounded display size
            aspect = Fraction(1)
        sides = (c, b) if turned else (a, d)
        return Look(*self._colour(frame), aspect, turned, mirrored=sides[0] < 0, flipped=sides[1] < 0)

    def _colour(self, frame: av.VideoFrame) -> tuple[int, bool, int, int, tuple[str, ...]]:
        """Matrix, full range, transfer, primaries, and what of it is assumed: as coded, else as the container says."""
        tags = [int(getattr(frame, name)) for name in _TAGS], self.tags
        matrix, transfer, primaries = (
            next((tag for tag in pair if tag not in (0, _UNSPECIFIED)), 0)
            for pair in zip(*(tags if self.coded_wins else tags[::-1]), strict=True)
        )
        kind, _ = _kind(frame.format.name)
        span = int(frame.color_range) or self.range
        if frame.format.name.startswith("yuvj") or (self.context.name in _ALWAYS_LIMITED and self.range == 2):
            span = 2
        if kind == "rgb":  # in clips FFmpeg writes it in full, whatever is said of it
            return _RGB, not (self.still and self.range == 1), transfer, primaries, ()
        full = span == 2 or (kind == "grey" and span == 0)
        assumed = () if span else ("range",)
        if matrix == _DERIVED:  # from its primaries; those known have the numbers of their matrices
            matrix = primaries if primaries in _PRIMARIES else 0
        if not matrix or matrix not in _MATRICES:
            assumed = assumed if kind == "grey" else ("matrix", *assumed)
            matrix = _BT601 if self.still else matrix_by_size(frame.width, frame.height)
            matrix = 9 if primaries == 9 or transfer in _HDR else matrix
        return matrix, full, transfer, primaries, assumed


def matrix_by_size(width: int, height: int) -> int:
    """The matrix, BT.709's or BT.601's, that a picture without a tag is taken to have."""
    return BT709 if width >= HD[0] or height >= HD[1] else _BT601


def _display_matrix(frame: av.VideoFrame) -> bytes | None:
    try:
        found = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # it has data of a kind that PyAV does not know: EXIF, for one
        graph = av.filter.Graph()
        source = last = graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=frame.time_base or Fraction(1),
        )
        for number in range(len(Type), len(Type) + 16):
            link = graph.add("sidedata", f"mode=delete:type={number}")
            last.link_to(link)
            last = link
        last.link_to(sink := graph.add("buffersink"))
        graph.configure()
        source.push(frame)
        found = sink.pull().side_data.get("DISPLAYMATRIX")
    return None if found is None else bytes(cast(Any, found))


@cache
def _kind(name: str) -> tuple[str, bool]:
    """Whether a pixel format is "yuv", "grey" or "rgb", and has more than 8 bits a sample."""
    form = av.VideoFormat(name)
    colours = [one for one in form.components if not one.is_alpha]
    deep = max(one.bits for one in colours) > 8
    if form.is_rgb or form.has_palette or name.startswith("xyz"):
        return "rgb", deep
    return "yuv" if len(colours) == 3 else "grey", deep


_TARGETS = {
    ("yuv", False): "yuv444p", ("yuv", True): "yuv444p16le", ("grey", False): "gray", ("grey", True): "gray16le",
    ("rgb", False): "rgb24", ("rgb", True): "rgb48le",
}  # fmt: skip


def to_rgb(
    frame: av.VideoFrame, look: Look, size: tuple[int, int], scaler: VideoReformatter, *, tonemap: bool = True
) -> np.ndarray:
    """The frame uint8 (H, W, 3) as it lies, scaled to ``size`` (width, height); ``scaler`` keeps what it set up for the
    frame before.

    FFmpeg scales samples as they are, and brings all to 4:4:4; its own way to RGB takes three times as long, and is up
    to three levels off.
    """
    kind, deep = _kind(frame.format.name)
    target = "yuvj444p" if kind == "yuv" and not deep and look.full else _TARGETS[kind, deep]
    width, height = (frame.width, frame.height) if kind == "rgb" else size  # it would scale RGB as YCbCr
    span = 2 if look.full else 1
    # One thread: processes share the cores, and to start threads takes longer than to scale.
    scaled = scaler.reformat(
        frame, width, height, format=target, interpolation=Interpolation.AREA, threads=1,
        src_colorspace=1, dst_colorspace=1, src_color_range=span, dst_color_range=span,
    )  # fmt: skip
    planes: list[Any] = []
    for plane in scaled.planes:
        rows = np.frombuffer(cast(bytes, plane), np.uint16 if deep else np.uint8)
        rows = rows.reshape(-1, plane.line_size // rows.itemsize)[:height]
        planes.append(rows[:, : width * 3].reshape(height, width, 3) if kind == "rgb" else rows[:, :width])
    samples = cv2.merge(planes) if len(planes) > 1 else planes[0]
    if kind != "rgb" or not look.full:
        samples = cv2.transform(samples, _matrix(kind, look.matrix, look.full, deep))
    if samples.shape[1::-1] != size:
        samples = cv2.resize(samples, size, interpolation=cv2.INTER_AREA)
    if tonemap and look.hdr:
        return _tone_mapped(samples if deep else samples.astype(np.uint16) * 257, look)
    return cv2.convertScaleAbs(samples, alpha=1 / 257) if deep else samples


@cache
def _matrix(kind: str, matrix: int, full: bool, deep: bool) -> np.ndarray:
    """What takes samples, of 8 bits or filled up to 16, and 1, to R, G and B of as many bits: float32 (3, C + 1);
    H.273, 8.3."""
    step, white = (256, 65535) if deep else (1, 255)
    luma, chroma, black = (1.0, 1.0, 0) if full else (white / 219 / step, white / 224 / step, 16 * step)
    if kind == "grey":
        return np.array([[luma, -luma * black]] * 3, np.float32)
    if kind == "rgb":
        return np.column_stack([luma * np.eye(3), [-luma * black] * 3]).astype(np.float32)
    if matrix == _YCGCO:
        weights = [[luma, -chroma, chroma], [luma, chroma, 0], [luma, -chroma, -chroma]]
    else:
        red, blue = _WEIGHTS.get(matrix, (0.299, 0.114))
        green, to_red, to_blue = 1 - red - blue, 2 * (1 - red) * chroma, 2 * (1 - blue) * chroma
        weights = [
            [luma, 0, to_red],
            [luma, -to_blue * blue / green, -to_red * red / green],
            [luma, to_blue, 0],
        ]
    return np.column_stack([weights, -np.array(weights) @ (black, 128 * step, 128 * step)]).astype(np.float32)


def _tone_mapped(picture: np.ndarray, look: Look) -> np.ndarray:
    """PQ or HLG uint16 (H, W, 3) to sRGB uint8: BT.2020 or P3 to BT.709, ``WHITE`` to 255, what is outside clipped."""
    light = _light(look.transfer)[picture]
    if look.transfer == _HLG:  # what a display of 1,000 cd/m2 makes of the scene: ITU-R BT.2100, table 5
        light *= (
            1000
            / WHITE
            * np.maximum(light @ np.array([0.2627, 0.6780, 0.0593], np.float32), 1e-6)[..., None] ** 0.2
        )
    source = _to_xyz(look.primaries if look.primaries in _PRIMARIES else 9)
    light = cv2.transform(light, np.linalg.inv(_to_xyz(BT709)) @ source)
    return _srgb()[np.rint(np.clip(light, 0, 1) * 65535).astype(np.uint16)]


@cache
def _light(transfer: int) -> np.ndarray:
    """Linear light of 16-bit values, float32 (65536,): of PQ relative to ``WHITE``, of HLG to the scene's peak; ITU-R
    BT.2100, tables 4 and 5."""
    value = np.arange(65536) / 65535
    if transfer == _PQ:
        power = value ** (1 / 78.84375)
        light = (
            10000
            / WHITE
            * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
        )
    else:
        light = np.where(
            value <= 0.5, value**2 / 3, (np.exp((value - 0.55991073) / 0.17883277) + 0.28466892) / 12
        )
    return light.astype(np.float32)


@cache
def _srgb() -> np.ndarray:
    """8-bit sRGB of 16-bit linear light, uint8 (65536,); IEC 61966-2-1."""
    light = np.arange(65536) / 65535
    return np.rint(
        255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    ).astype(np.uint8)


def _to_xyz(primaries: int) -> np.ndarray:
    """From linear RGB to CIE XYZ, float64 (3, 3), with the white of D65; SMPTE RP 177."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in (*_PRIMARIES[primaries], (0.3127, 0.3290))]).T
    return columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])
