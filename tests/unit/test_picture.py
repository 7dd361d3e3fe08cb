"""What a clip's tags say of its picture: colour, range, depth, orientation, pixel shape, HDR, in the forms that files
have. Everyday forms run always, the others are marked ``proof``."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from avtool import media
from avtool.data.catalog import Row
from avtool.data.convert import PreparedClip, Settings, convert
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
        return VideoReformatter().reformat(coded(ORDERS[form], matrix, full, rgb), format=form)
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
    # and all others
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


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    "pixels",
    [*ORDERS, "yuv420p", "yuvj422p", "yuv444p", "yuv410p", "yuv411p", "yuv440p10le", "yuv420p16le", "gbrp"],
)
def test_chroma_layouts_and_depths(pixels: str, full: bool) -> None:
    full = full or pixels.startswith("yuvj")
    for matrix in (6, 1, 9):
        frame = coded(pixels, matrix, full)
        for side in (None, 48):
            read = to_picture(frame, as_tagged(matrix, full=full), VideoReformatter(), short_side=side)
            np.testing.assert_allclose(seen(read), COLOURS, atol=LEVELS)


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
