"""What a clip's tags say of its picture: colour, range, depth, orientation, pixel shape, HDR, in the forms that files
have. Everyday forms run always, the others are marked ``proof``."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from PIL import Image

from avtool import media
from avtool.clip import Clip
from avtool.data.catalog import Row
from avtool.data.convert import PreparedClip, Rejected, Settings, convert
from avtool.inputs import from_jpeg
from avtool.media.colour import Look
from avtool.media.frames import to_picture
from tests import clips

COLOURS = np.array(
    [[200, 60, 40], [255, 255, 255], [0, 0, 0], [20, 180, 90], [40, 50, 220], [128, 128, 128]], np.uint8
)
LEVELS = 2
WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
"""Of red and blue in luma, by H.273's number of the matrix: again, not from the code that is tested."""


def patches(height: int = 96, width: int = 192, colours: np.ndarray = COLOURS) -> np.ndarray:
    """A picture (H, W, 3) of two rows of three colours."""
    picture = colours.reshape(2, 3, 3)
    return picture.repeat(height // 2, 0).repeat(width // 3, 1)


def samples(rgb: np.ndarray, matrix: int, full: bool, bits: int) -> np.ndarray:
    """Y, Cb and Cr (H, W, 3) of RGB in 0 to 1, as ITU-T H.273 (8.3) defines them, not rounded."""
    if matrix == 8:
        y, *chroma = np.moveaxis(rgb @ np.array([[1, 2, 1], [-1, 2, -1], [2, 0, -2]]).T / 4, -1, 0)  # YCgCo
    else:
        red, blue = WEIGHTS[matrix]
        y = rgb @ (red, 1 - red - blue, blue)
        chroma = [(rgb[..., 2] - y) / (2 - 2 * blue), (rgb[..., 0] - y) / (2 - 2 * red)]
    step, top = 2 ** (bits - 8), 2**bits - 1
    if full:
        return np.stack([top * y, *(top * one + 128 * step for one in chroma)], -1).clip(0, top)
    return np.stack([219 * y + 16, *(224 * one + 128 for one in chroma)], -1) * step


ORDERS = {"nv12": "yuv420p", "nv21": "yuv420p", "yuyv422": "yuv422p", "uyvy422": "yuv422p", "nv16": "yuv422p",
    "p010le": "yuv420p10le", "y210le": "yuv422p10le", "vuyx": "yuv444p", "nv24": "yuv444p",
    "yuv420p10be": "yuv420p10le"}  # fmt: skip
"""The same samples in another order."""


def coded(form: str, matrix: int = 6, full: bool = False, rgb: np.ndarray | None = None) -> av.VideoFrame:
    """A frame of ``patches`` in a pixel format."""
    rgb = patches() / 255 if rgb is None else rgb
    height, width = rgb.shape[:2]
    layout = av.VideoFormat(form)
    if form in ORDERS:
        planar = coded(ORDERS[form], matrix, full, rgb)
        return VideoReformatter().reformat(planar, format=form, src_colorspace=1, dst_colorspace=1)
    if form.startswith("ya"):
        return VideoReformatter().reformat(coded("gray", 6, True, rgb), format=form)
    if layout.is_rgb or layout.has_palette:
        picture = av.VideoFrame.from_ndarray(np.rint(255 * rgb).astype(np.uint8))
        return VideoReformatter().reformat(picture, format=form)
    bits = layout.components[0].bits
    planes = np.rint(samples(rgb, matrix, full, bits)).astype(np.uint16 if bits > 8 else np.uint8)
    frame = av.VideoFrame(width, height, form)
    for number, plane in enumerate(frame.planes):
        across, down = width // plane.width, height // plane.height
        rows = np.zeros((plane.height, plane.line_size // planes.itemsize), planes.dtype)
        if number < 3:
            rows[:, : plane.width] = planes[::down, ::across, number]
        plane.update(rows.tobytes())
    frame.colorspace, frame.color_range = matrix, 2 if full else 1
    return frame


def write(
    path: Path, codec: str, frame: av.VideoFrame, *, tags: tuple[int, ...] = (2, 2, 2, 0), **options: str
):
    """Five of ``frame``, with ``tags`` of matrix, primaries, transfer and range in the container and in the codec."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=5, options=options)
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, frame.format.name
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = tags
        context.thread_count = 1
        if "qscale" in options:
            context.global_quality, context.flags = 118 * int(options["qscale"]), context.flags | 2
        frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range = tags
        for number in range(5):
            frame.pts, frame.time_base = number, Fraction(1, 5)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def seen(picture: np.ndarray) -> np.ndarray:
    """The six colours of ``patches``, from the middle of each, int (6, 3)."""
    height, width = picture.shape[:2]
    return picture[height // 4 :: height // 2, width // 6 :: width // 3].reshape(6, 3).astype(int)


def as_tagged(matrix: int = 6, *, full: bool = False, transfer: int = 2, primaries: int = 2) -> Look:
    return Look(
        matrix, full, transfer, primaries, (), Fraction(1), turned=False, mirrored=False, flipped=False
    )


def tagged(matrix: int, *, full: bool = False, transfer: int = 1, primaries: int = 1) -> tuple[int, ...]:
    return matrix, primaries, transfer, 2 if full else 1


UNTAGGED = (2, 2, 2, 0)
proof = pytest.mark.proof
X264, X265, VP9 = {"qp": "0"}, {"x265-params": "lossless=1:log-level=none"}, {"lossless": "1"}
AV1 = {"crf": "1", "preset": "10"}


def form(
    name: str,
    codec: str,
    pixels: str,
    matrix: int,
    full: bool = False,
    tags=None,
    *marks,
    lines=96,
    **options,
):
    """A form of ``test_colours``: what is coded, and the tags that say so (None: the right ones)."""
    tags = tagged(matrix, full=full) if tags is None else tags
    what = f"{codec}-{pixels}-{matrix}-{'full' if full else 'limited'}-{'tagged' if tags[0] != 2 else 'untagged'}"
    return pytest.param(
        name, codec, pixels, matrix, full, tags, lines, options, id=f"{what}-{lines}", marks=marks
    )


FORMS = [
    form("a.mp4", "libx264", "yuv420p", 6, **X264),
    form("a.mp4", "libx264", "yuv420p", 1, **X264),
    form("a.mp4", "libx264", "yuv420p", 6, False, UNTAGGED, **X264),
    form("a.mp4", "libx264", "yuv420p", 1, False, UNTAGGED, lines=720, **X264),
    form("a.mkv", "ffv1", "yuv444p12le", 1),
    form("a.mkv", "ffv1", "yuv411p", 6),
    form("a.mkv", "ffv1", "yuv440p", 1, True),
    form("a.avi", "mjpeg", "yuvj420p", 6, True, UNTAGGED, qscale="1"),
    form("a.mov", "qtrle", "gray", 6, True, UNTAGGED),  # a palette of greys
    form("a.mp4", "libx264", "yuv420p", 1, False, UNTAGGED, lines=642, **X264),  # 1284 pixels wide
    form("a.mkv", "mpeg2video", "yuv420p", 1, True, None, qscale="1"),  # only the container can say so
    # and all others
    form("a.mkv", "prores_ks", "yuv422p10le", 1, True, None, proof, profile="3"),
    form("a.webm", "libvpx", "yuv420p", 6, True, None, proof, qmin="0", qmax="1", crf="0"),
    form("a.mp4", "libx264", "yuv420p", 1, False, (12, 1, 1, 1), proof, **X264),  # derived from the primaries
    form("a.mp4", "libx264", "yuv420p", 1, True, None, proof, **X264),
    form("a.mp4", "libx264", "yuv420p", 9, False, None, proof, **X264),
    form("a.mp4", "libx264", "yuv420p", 7, False, None, proof, **X264),
    form("a.mp4", "libx264", "yuv422p", 1, False, None, proof, **X264),
    form("a.mp4", "libx264", "yuv444p", 1, False, None, proof, **X264),
    form("a.mp4", "libx264", "yuvj420p", 6, True, UNTAGGED, proof, **X264),
    form("a.ts", "libx264", "yuv420p10le", 1, False, None, proof, **X264),
    form("a.mp4", "libx264", "yuv420p10le", 1, False, UNTAGGED, proof, lines=720, **X264),
    form("a.mkv", "libx264", "yuv422p10le", 6, False, UNTAGGED, proof, **X264),
    form("a.mkv", "libx264", "yuv444p10le", 1, True, None, proof, **X264),
    form("a.mkv", "libx264", "yuv444p", 8, True, None, proof, **X264),
    form("a.mkv", "libx264", "nv12", 1, False, None, proof, **X264),
    form("a.mkv", "libx264", "gray", 6, False, None, proof, **X264),
    form("a.mkv", "libx264", "gray10le", 6, False, UNTAGGED, proof, **X264),
    form("a.mkv", "libx264rgb", "rgb24", 0, True, UNTAGGED, proof, **X264),
    form("a.mp4", "libx265", "yuv420p", 1, False, None, proof, **X265),
    form("a.mp4", "libx265", "yuv420p10le", 9, False, None, proof, **X265),
    form("a.mp4", "libx265", "yuv422p12le", 1, False, None, proof, **X265),
    form("a.mp4", "libx265", "yuv444p12le", 1, True, None, proof, **X265),
    form("a.mp4", "libx265", "gray", 6, False, UNTAGGED, proof, **X265),
    form("a.mp4", "libx265", "gray", 6, True, None, proof, **X265),
    form("a.mkv", "libx265", "gray12le", 6, False, None, proof, **X265),
    form("a.mkv", "libx265", "gbrp", 0, True, UNTAGGED, proof, **X265),
    form("a.mkv", "libx265", "gbrp", 0, True, (2, 2, 2, 1), proof, **X265),
    form("a.mkv", "libx265", "gbrp12le", 0, True, UNTAGGED, proof, **X265),
    form("a.webm", "libvpx-vp9", "yuv420p", 1, False, None, proof, **VP9),
    form("a.webm", "libvpx-vp9", "yuv440p", 1, False, None, proof, **VP9),
    form("a.webm", "libvpx-vp9", "yuv444p", 9, False, None, proof, **VP9),
    form("a.mp4", "libvpx-vp9", "yuv422p", 6, False, UNTAGGED, proof, **VP9),
    form("a.webm", "libvpx", "yuv420p", 6, False, UNTAGGED, proof, qmin="0", qmax="1", crf="0"),
    form("a.mkv", "libsvtav1", "yuv420p10le", 1, False, None, proof, **AV1),
    form("a.mp4", "libsvtav1", "yuv420p", 6, False, UNTAGGED, proof, **AV1),
    form("a.mov", "prores_ks", "yuv422p10le", 1, False, None, proof, profile="3"),
    form("a.mov", "prores_ks", "yuv444p10le", 1, False, UNTAGGED, proof, lines=720, profile="4"),
    form("a.mov", "dnxhd", "yuv422p", 1, False, None, proof, lines=720, profile="dnxhr_hq"),
    form("a.mov", "dnxhd", "yuv422p10le", 1, False, None, proof, lines=720, profile="dnxhr_hqx"),
    form("a.mov", "v210", "yuv422p10le", 1, False, None, proof),
    form("a.mov", "png", "rgb24", 0, True, UNTAGGED, proof),
    form("a.mov", "png", "rgb48be", 0, True, UNTAGGED, proof),
    form("a.mov", "png", "gray", 6, True, UNTAGGED, proof),
    form("a.mov", "qtrle", "rgb24", 0, True, UNTAGGED, proof),
    form("a.mov", "mjpeg", "yuvj444p", 6, True, UNTAGGED, proof, qscale="1"),
    form("a.mkv", "mjpeg", "yuvj422p", 6, True, UNTAGGED, proof, lines=720, qscale="1"),
    form("a.mov", "mjpeg", "yuvj420p", 1, True, None, proof, qscale="1"),
    form("a.avi", "mpeg4", "yuv420p", 6, False, UNTAGGED, proof, qscale="1"),
    form("a.avi", "mpeg4", "yuv420p", 1, False, UNTAGGED, proof, lines=720, qscale="1"),
    form("a.mpg", "mpeg2video", "yuv420p", 6, False, UNTAGGED, proof, qscale="1"),
    form("a.ts", "mpeg2video", "yuv422p", 1, False, None, proof, qscale="1"),
    form("a.avi", "huffyuv", "yuv422p", 6, False, UNTAGGED, proof),
    form("a.avi", "utvideo", "gbrp", 0, True, UNTAGGED, proof),
    form("a.avi", "utvideo", "yuv420p", 1, False, None, proof),
    form("a.avi", "rawvideo", "yuyv422", 6, False, UNTAGGED, proof),
    *(form("a.mkv", "ffv1", pixels, 1, full, None, proof) for full in (False, True) for pixels in (
        "yuv420p", "yuv422p", "yuv410p", "yuv420p9le", "yuv422p10le", "yuv440p10le", "yuv420p12le", "yuv444p14le",
        "yuv420p16le", "yuva420p", "yuva444p10le", "gray", "gray10le", "gray16le")),
    *(form("a.mkv", "ffv1", pixels, 0, True, UNTAGGED, proof) for pixels in (
        "bgr0", "bgra", "gbrp10le", "gbrp16le", "gbrap12le", "rgb48le", "ya8")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "codec", "pixels", "matrix", "full", "tags", "lines", "options"), FORMS)
def test_colours(tmp_path: Path, name, codec, pixels, matrix, full, tags, lines, options) -> None:
    grey = pixels.startswith(("gray", "ya"))
    colours = COLOURS[[5, 1, 2, 5, 1, 2]] if grey else COLOURS
    truth = patches(lines, 2 * lines, colours)
    path = write(tmp_path / name, codec, coded(pixels, matrix, full, truth / 255), tags=tags, **options)
    for side in (None, 48):
        with media.MediaFile(path) as file:
            read = media.find_frame(file, 0.5).rgb(side)
        np.testing.assert_allclose(seen(read), colours, atol=LEVELS)
        np.testing.assert_allclose(seen(read)[1:3], colours[1:3], atol=1)  # white and black


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    "pixels",
    [*ORDERS, "yuv420p", "yuvj422p", "yuv444p", "yuv410p", "yuv411p", "yuv440p10le", "yuv420p16le", "gbrp"],
)
def test_chroma_layouts_and_depths(pixels: str, full: bool) -> None:
    full = full or pixels.startswith(("yuvj", "gbrp"))
    for matrix in (6, 1, 9, 8):
        frame = coded(pixels, matrix, full)
        for side in (None, 48):
            read = to_picture(frame, as_tagged(matrix, full=full), VideoReformatter(), short_side=side)
            np.testing.assert_allclose(seen(read), COLOURS, atol=LEVELS)
            np.testing.assert_allclose(seen(read)[1:3], COLOURS[1:3], atol=1)


CORNERS = np.zeros((64, 96, 3), np.uint8)
CORNERS[:32, :48], CORNERS[:32, 48:], CORNERS[32:, :48] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
ORIENTATIONS = {  # (a, b, c, d): x goes to a x + c y, y to b x + d y; and the picture that is to be seen
    (1, 0, 0, 1): CORNERS, (-1, 0, 0, 1): CORNERS[:, ::-1], (1, 0, 0, -1): CORNERS[::-1],
    (-1, 0, 0, -1): np.rot90(CORNERS, 2), (0, 1, 1, 0): CORNERS.transpose(1, 0, 2),
    (0, 1, -1, 0): np.rot90(CORNERS, -1), (0, -1, 1, 0): np.rot90(CORNERS),
    (0, -1, -1, 0): np.rot90(CORNERS.transpose(1, 0, 2), 2),
}  # fmt: skip


def assert_corners(picture: np.ndarray, truth: np.ndarray) -> None:
    """The four quarters are of the colours of ``truth``, in shape and place."""
    assert picture.shape[0] / picture.shape[1] == pytest.approx(truth.shape[0] / truth.shape[1], rel=0.03)
    quarters = [
        one[len(one) // 4 :: len(one) // 2, one.shape[1] // 4 :: one.shape[1] // 2]
        for one in (picture, truth)
    ]
    np.testing.assert_allclose(quarters[0].astype(int), quarters[1].astype(int), atol=8)


def corners(path: Path, frames: int = 10) -> Path:
    media.write_clip(path, [CORNERS] * frames, fps=5, waveform=clips.tone(frames / 5), sample_rate=16000)
    return path


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_the_display_matrix_turns_and_mirrors(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    clips.tag_rotation(path := corners(tmp_path / "a.mp4"), matrix)
    truth = ORIENTATIONS[matrix]
    assert_corners(media.read_frame(path)[0], truth)
    found = convert(Row(id="a", split="", labels=(), video=path), Settings(short_side=48))
    assert isinstance(found, PreparedClip) and found.source_size == truth.shape[1::-1]
    assert_corners(from_jpeg(found.jpegs[-1]), truth)
    assert_corners(media.read_frame(clips.remux(path, tmp_path / "a.mkv"))[0], truth)
    told = clips.streams_of(path)["video"]
    again = np.rot90(CORNERS, told["rotation"] // 90)
    assert np.array_equal(again[:, ::-1] if told["mirrored"] else again, truth)


SEI = {
    "rotate=90": np.rot90(CORNERS),
    "flip=horizontal": CORNERS[:, ::-1],
    "rotate=180:flip=vertical": CORNERS[:, ::-1],
}


@pytest.mark.parametrize("words", SEI)
def test_a_codec_message_turns_until_the_next_key_frame(tmp_path: Path, words: str) -> None:
    silent = write(tmp_path / "a.mp4", "libx264", coded("yuv420p", rgb=CORNERS / 255), **X264)
    path = clips.filtered(silent, tmp_path / "b.mp4", f"h264_metadata=display_orientation=insert:{words}")
    for at in (0.1, 0.9):
        assert_corners(media.read_frame(path, at)[0], SEI[words])


def test_a_message_of_hevc_turns(tmp_path: Path) -> None:
    message = (
        0b0_1_0 << 17 | 0x4000 << 1 | 1
    )  # not cancelled, mirrored, a quarter turn counter-clockwise, it persists
    unit = b"\x4e\x01\x2f\x03" + (message << 4 | 8).to_bytes(3) + b"\x80"
    silent = write(tmp_path / "a.mp4", "libx265", coded("yuv420p", rgb=CORNERS / 255), **X265)
    path = clips.filtered(silent, tmp_path / "b.mp4", lambda data: struct.pack(">I", len(unit)) + unit + data)
    with av.open(str(path)) as file:
        assert next(file.decode(video=0)).side_data.get("DISPLAYMATRIX") is not None
    for at in (0.1, 0.9):
        assert_corners(media.read_frame(path, at)[0], np.rot90(CORNERS[:, ::-1]))


def turned_by_exif(picture: np.ndarray, format: str, orientation: int) -> bytes:
    exif, coded = Image.Exif(), io.BytesIO()
    exif[0x112] = orientation
    Image.fromarray(picture).save(coded, format, exif=exif, quality=95)
    return coded.getvalue()


EXIF = dict(enumerate((CORNERS, CORNERS[:, ::-1], CORNERS[::-1, ::-1], CORNERS[::-1], CORNERS.transpose(1, 0, 2),
    np.rot90(CORNERS, -1), np.rot90(CORNERS.transpose(1, 0, 2), 2), np.rot90(CORNERS)), 1))  # fmt: skip


@pytest.mark.parametrize("orientation", EXIF)
def test_still_pictures_come_upright(tmp_path: Path, orientation: int) -> None:
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        path = tmp_path / kind
        path.write_bytes(turned_by_exif(CORNERS, kind, orientation))
        assert_corners(media.read_image(path), EXIF[orientation])
        assert media.is_picture(path)


def test_exif_in_a_clip(tmp_path: Path) -> None:
    silent = write(tmp_path / "a.mkv", "mjpeg", coded("yuvj420p", full=True, rgb=CORNERS / 255))
    path = clips.filtered(silent, tmp_path / "b.mkv", lambda _: turned_by_exif(CORNERS, "JPEG", 5))
    assert_corners(media.read_frame(path, 0.5)[0], EXIF[5])


def box(kind: bytes, *parts: bytes, full: bool = False) -> bytes:
    body = bytes(4 * full) + b"".join(parts)
    return struct.pack(">I4s", len(body) + 8, kind) + body


def heif(
    path: Path,
    silent: Path,
    *marks: bytes,
    tiled: bool = False,
    size: tuple[int, int] = (96, 64),
    primary: int = 1,
) -> Path:
    """The first frame of an mp4 of HEVC, of ``size``, as a HEIF picture with boxes of ``marks``; in one tile, or after
    others without them, if asked."""
    data = silent.read_bytes()
    at = data.index(b"hvcC") - 4
    ispe = box(b"ispe", struct.pack(">II", *size), full=True)
    properties = [data[at:][: struct.unpack(">I", data[at : at + 4])[0]], ispe, *marks]
    with av.open(str(silent)) as file:
        picture = bytes(next(file.demux(video=0)))
    grid = struct.pack(">BBBBHH", 0, 0, 0, 0, *size)
    items = [(b"grid", grid), (b"hvc1", picture)] if tiled else [(b"hvc1", picture)] * primary
    numbered = list(enumerate(items, 1))
    uses = [
        struct.pack(">HB", n, count) + bytes(range(1, count + 1))
        for n, count in [*((n, 2) for n in range(1, primary)), (len(items), len(properties))]
    ]
    start = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    offset = 0
    for _ in range(2):  # offsets are known once the length is
        ends = np.cumsum([offset, *(len(one) for _, one in items)])
        places = [struct.pack(">HHHII", n, 0, 1, ends[n - 1], len(one)) for n, (_, one) in numbered]
        names = [
            box(b"infe", struct.pack(">HH4sB", n, 0, k, 0), full=True).replace(b"infe\0", b"infe\2")
            for n, (k, _) in numbered
        ]
        meta = box(
            b"meta",
            box(b"hdlr", struct.pack(">I4s13x", 0, b"pict"), full=True),
            box(b"pitm", struct.pack(">H", primary), full=True),
            box(b"iloc", struct.pack(">BBH", 0x44, 0, len(items)), *places, full=True),
            box(b"iinf", struct.pack(">H", len(items)), *names, full=True),
            box(b"iref", box(b"dimg", struct.pack(">HHH", 1, 1, 2)), full=True) if tiled else b"",
            box(b"iprp", box(b"ipco", *properties), box(b"ipma", struct.pack(">I", len(uses)), *uses, full=True)),
            full=True,
        )  # fmt: skip
        offset = len(start) + len(meta) + 8
    path.write_bytes(start + meta + box(b"mdat", *(one for _, one in items)))
    return path


def test_heif_comes_upright_or_is_refused_by_name(tmp_path: Path) -> None:
    silent = write(tmp_path / "a.mp4", "libx265", coded("yuv420p", rgb=CORNERS / 255), **X265)
    turned, mirrored = box(b"irot", b"\1"), box(b"imir", b"\1")
    for turns, truth in (
        ((), CORNERS), ((turned,), np.rot90(CORNERS)), ((mirrored,), CORNERS[:, ::-1]),
        ((turned, mirrored), np.rot90(CORNERS)[:, ::-1]),
    ):  # fmt: skip
        path = heif(tmp_path / "a.heic", silent, *turns)
        assert_corners(media.read_image(path), truth)
        assert media.is_picture(path)
    assert_corners(media.read_image(heif(path, silent, turned, primary=2)), np.rot90(CORNERS))
    with pytest.raises(media.UnusableMedia, match="tiles"):
        media.read_image(heif(tmp_path / "b.heic", silent, tiled=True))


def test_what_fills_up_a_heif_picture_is_cut_off(tmp_path: Path) -> None:
    """x265 takes even sizes only, and fills up those below 64 pixels."""
    filled = np.zeros((64, 96, 3), np.uint8)
    filled[:33, :51] = CORNERS[15:48, 20:71]
    silent = write(tmp_path / "a.mp4", "libx265", coded("yuv420p", rgb=filled / 255), **X265)
    seen_of_it = box(b"clap", struct.pack(">8i", 51, 1, 33, 1, 51 - 96, 2, 33 - 64, 2))
    for turns, truth in ((), filled[:33, :51]), ((box(b"irot", b"\1"),), np.rot90(filled[:33, :51])):
        picture = media.read_image(heif(tmp_path / "a.heic", silent, seen_of_it, *turns))
        assert picture.shape == truth.shape
        assert_corners(picture, truth)


@pytest.mark.parametrize(("pixels", "full"), [("yuv420p", False), ("gbrp", True), ("gbrp", False)])
def test_colours_of_heif(tmp_path: Path, pixels: str, full: bool) -> None:
    """Its rules: BT.601 where nothing is said, of any size; RGB of limited range is what it says."""
    rgb = patches(720, 1440) / 255
    if pixels == "gbrp" and not full:
        rgb = (16 + 219 * rgb) / 255
    silent = write(tmp_path / "a.mp4", "libx265", coded(pixels, 6, rgb=rgb), **X265)
    marks = [box(b"colr", b"nclx", struct.pack(">HHHB", 1, 13, 0, 128 * full))] if pixels == "gbrp" else []
    picture = media.read_image(heif(tmp_path / "a.heic", silent, *marks, size=(1440, 720)))
    np.testing.assert_allclose(seen(picture), COLOURS, atol=LEVELS)


def oblong(
    path: Path, aspect: Fraction, codec: str = "libx264", size: tuple[int, int] = (72, 48), **options: str
) -> Path:
    """A clip with sound whose pixels are ``aspect`` times as wide as high."""
    with av.open(str(path), "w") as file:
        video = file.add_stream(codec, rate=5, options=options)
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        video.codec_context.sample_aspect_ratio = aspect
        sound = file.add_stream("aac" if path.suffix != ".avi" else "pcm_s16le", rate=16000, layout="mono")
        frame = coded("yuv420p", rgb=patches(*size[::-1]) / 255)
        for number in range(10):
            frame.pts, frame.time_base = number, Fraction(1, 5)
            file.mux(video.encode(frame))
        heard = av.AudioFrame.from_ndarray(
            (clips.tone(2)[None] * 32767).astype(np.int16), format="s16", layout="mono"
        )
        heard.sample_rate, heard.pts = 16000, 0
        for stream, last in ((video, None), (sound, heard), (sound, None)):
            file.mux(stream.encode(last))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "aspect", "size"),
    [
        ("a.mp4", "libx264", Fraction(16, 11), (105, 48)), ("a.mp4", "libx264", Fraction(2, 3), (72, 72)),
        ("a.mkv", "libx264", Fraction(16, 11), (105, 48)), ("a.ts", "libx264", Fraction(16, 11), (105, 48)),
        ("a.avi", "mpeg4", Fraction(16, 11), (105, 48)), ("a.mp4", "libx264", Fraction(60, 1), (72, 48)),
        ("a.mp4", "libx264", Fraction(401, 400), (72, 48)),
    ],
)  # fmt: skip
def test_pixels_are_made_square(
    tmp_path: Path, name: str, codec: str, aspect: Fraction, size: tuple[int, int]
) -> None:
    path = oblong(tmp_path / name, aspect, codec)
    assert media.read_frame(path)[0].shape[1::-1] == size
    for mask_size in ((72, 48), size):  # drawn on the frames as they are in the file, or as they are shown
        Image.new("L", mask_size, 1).save(tmp_path / "mask.png")
        row = Row(id="a", split="", labels=(), video=path, masks=(tmp_path / "mask.png",))
        found = convert(row, Settings(short_side=24))
        assert isinstance(found, PreparedClip) and found.source_size == size
        assert found.size[0] / found.size[1] == pytest.approx(size[0] / size[1], rel=0.02)
        mask = cv2.imdecode(np.frombuffer(next(iter(found.masks.values())), np.uint8), cv2.IMREAD_UNCHANGED)
        assert mask.shape[::-1] == found.size


def test_the_containers_pixel_shape_goes_first(tmp_path: Path) -> None:
    path = clips.filtered(
        oblong(tmp_path / "a.mp4", Fraction(2, 1)),
        tmp_path / "b.mp4",
        "h264_metadata=sample_aspect_ratio=1/1",
    )
    assert media.read_frame(path)[0].shape == (48, 144, 3)


def test_a_clip_that_changes_its_shape_keeps_square_pixels(tmp_path: Path) -> None:
    paths = [oblong(tmp_path / f"{k}.ts", Fraction(k, 1)) for k in (1, 2)]
    with av.open(str(tmp_path / "both.ts"), "w") as written:
        for offset, path in enumerate(paths):
            with av.open(str(path)) as read:
                if not offset:
                    out = {
                        kind: written.add_stream_from_template(getattr(read.streams, kind)[0])
                        for kind in ("video", "audio")
                    }
                for packet in read.demux():
                    if packet.size:
                        packet.pts, packet.dts = (
                            time + 3 * 90000 * offset for time in (packet.pts, packet.dts)
                        )
                        packet.stream = out[packet.stream.type]
                        written.mux(packet)
    clip = media.decode_clip(tmp_path / "both.ts", frame_rate=5, short_side=48, sample_rate=16000)
    assert {frame.shape for frame in clip.frames} == {(48, 72, 3)}
    first, last = clip.frames[0].astype(int), clip.frames[-1].astype(int)
    np.testing.assert_allclose(seen(first), COLOURS, atol=12)
    np.testing.assert_allclose(seen(last[12:36]), COLOURS, atol=12)  # half as high, between bars
    assert last[:11].max() < 12 and last[37:].max() < 12


def pq(light: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084 of cd/m2."""
    power = (light / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def hlg(light: np.ndarray) -> np.ndarray:
    """ARIB STD-B67 of cd/m2 on a display of 1,000, for grey."""
    scene = (light / 1000) ** (1 / 1.2)
    return np.where(
        scene <= 1 / 12,
        np.sqrt(3 * scene),
        0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073,
    )


def linear(rgb: np.ndarray) -> np.ndarray:
    value = rgb / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
"""Linear BT.709 to BT.2020: ITU-R BT.2087, table 2."""


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_becomes_sdr_with_white_at_203_nits(tmp_path: Path, transfer: int) -> None:
    colours = COLOURS if transfer == 16 else COLOURS[[5, 1, 2, 5, 1, 2]]
    light = 203 * linear(patches(colours=colours)) @ TO_BT2020.T
    frame = coded("yuv420p10le", 9, rgb=(pq if transfer == 16 else hlg)(light))
    tags = tagged(9, transfer=transfer, primaries=9)
    silent = write(tmp_path / "a.mp4", "libx265", frame, tags=tags, **X265)
    np.testing.assert_allclose(seen(media.read_frame(silent)[0]), colours, atol=6)  # of 10 bits
    path = with_sound(silent, tmp_path / "b.mp4")
    found, kept, refused = (
        convert(Row(id="a", split="", labels=(), video=path), Settings(hdr=hdr))
        for hdr in ("tonemap", "keep", "refuse")
    )
    assert (
        isinstance(found, PreparedClip) and isinstance(kept, PreparedClip) and isinstance(refused, Rejected)
    )
    assert "hdr" in found.flags and "hdr" in kept.flags and refused.reason == "hdr"
    np.testing.assert_allclose(seen(from_jpeg(found.jpegs[0])), colours, atol=7)
    assert 140 < seen(from_jpeg(kept.jpegs[0]))[1].mean() < 200
    assert found.colour == {
        "matrix": "bt2020",
        "range": "limited",
        "assumed": [],
        "transfer": {16: "pq", 18: "hlg"}[transfer],
    }


def hdr_png(path: Path, rgb: np.ndarray) -> Path:
    """16 bits a sample, and the chunk cICP, which says PQ in BT.2020."""
    data = cv2.imencode(".png", np.rint(rgb[..., ::-1] * 65535).astype(np.uint16))[1].tobytes()
    chunk = b"cICP" + bytes([9, 16, 0, 1])
    chunk = struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(data[:33] + chunk + data[33:])
    return path


def test_hdr_is_flagged_in_pictures_and_said_of_clips(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    light = pq(203 * linear(patches(64)) @ TO_BT2020.T)
    tags = tagged(9, primaries=9, transfer=16)
    silent = write(tmp_path / "a.mp4", "libx265", coded("yuv420p10le", 9, rgb=light), tags=tags, **X265)
    clips.clip(tmp_path / "sound.mp4")
    for path in (heif(tmp_path / "a.heic", silent, size=(192, 64)), hdr_png(tmp_path / "a.png", light)):
        row = Row(id="a", split="", labels=(), image=path, audio=tmp_path / "sound.mp4")
        found, kept, refused = (convert(row, Settings(hdr=hdr)) for hdr in ("tonemap", "keep", "refuse"))
        assert isinstance(found, PreparedClip) and isinstance(kept, PreparedClip)
        assert "hdr" in found.flags and "hdr" in kept.flags
        assert isinstance(refused, Rejected) and refused.reason == "hdr"
        np.testing.assert_allclose(seen(media.read_image(path)), COLOURS, atol=7)
        np.testing.assert_allclose(seen(from_jpeg(found.jpegs[0])), COLOURS, atol=7)
        assert 140 < seen(from_jpeg(kept.jpegs[0]))[1].mean() < 200
    for path in (with_sound(silent, tmp_path / "b.mp4"), tmp_path / "a.heic"):
        with Clip(path, alone=True) as clip:
            clip.frame(0.0), clip.frame(0.5)
        assert capsys.readouterr().err.count(f"warning: {path} is HDR") == 1


def with_sound(silent: Path, path: Path) -> Path:
    with av.open(str(silent)) as read, av.open(str(path), "w") as file:
        video = file.add_stream_from_template(read.streams.video[0])
        sound = file.add_stream("aac", rate=16000, layout="mono")
        for packet in read.demux(video=0):
            if packet.size:
                packet.stream = video
                file.mux(packet)
        heard = av.AudioFrame.from_ndarray(clips.tone(1)[None], format="fltp", layout="mono")
        heard.sample_rate, heard.pts = 16000, 0
        for last in (heard, None):
            file.mux(sound.encode(last))
    return path


METADATA = {
    "libx264": "h264_metadata=matrix_coefficients=2:colour_primaries=2:transfer_characteristics=2",
    "libx265": "hevc_metadata=matrix_coefficients=2:colour_primaries=2:transfer_characteristics=2",
    "libvpx-vp9": "vp9_metadata=color_space=unknown",
    "libsvtav1": "av1_metadata=matrix_coefficients=2:color_primaries=2:transfer_characteristics=2",
    "mpeg2video": "mpeg2_metadata=matrix_coefficients=2:colour_primaries=2:transfer_characteristics=2",
}
QUALITY = {
    "libx264": X264,
    "libx265": X265,
    "libvpx-vp9": VP9,
    "libsvtav1": AV1,
    "mpeg2video": {"qscale": "1"},
}


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("codec", METADATA)
def test_tags_of_the_container_count(tmp_path: Path, codec: str, suffix: str) -> None:
    tags = tagged(9, primaries=9, transfer=14)
    path = write(tmp_path / f"a{suffix}", codec, coded("yuv420p", 9), tags=tags, **QUALITY[codec])
    path = clips.filtered(path, tmp_path / f"b{suffix}", METADATA[codec])
    np.testing.assert_allclose(seen(media.read_frame(path)[0]), COLOURS, atol=LEVELS)


def test_what_is_assumed_is_a_fact_of_the_clip(tmp_path: Path) -> None:
    path = with_sound(write(tmp_path / "a.mp4", "libx264", coded("yuv420p"), **X264), tmp_path / "b.mp4")
    found = convert(Row(id="a", split="", labels=(), video=path), Settings())
    assert isinstance(found, PreparedClip)
    assert found.facts(Settings())["colour"] == {
        "matrix": "bt601",
        "range": "limited",
        "assumed": ["matrix", "range"],
    }
    np.testing.assert_allclose(seen(from_jpeg(found.jpegs[0])), COLOURS, atol=3)


@pytest.mark.parametrize("lines", [96, 642, 720])
def test_what_is_written_carries_its_tags(tmp_path: Path, lines: int) -> None:
    picture = patches(lines, 2 * lines)
    media.write_clip(tmp_path / "a.mp4", [picture] * 3, fps=5, waveform=None, sample_rate=16000)
    assert clips.streams_of(tmp_path / "a.mp4")["video"]["colour"] == {
        "matrix": "bt601" if lines == 96 else "bt709", "range": "limited", "assumed": [],
    }  # fmt: skip
    np.testing.assert_allclose(seen(media.read_frame(tmp_path / "a.mp4")[0]), COLOURS, atol=3)
