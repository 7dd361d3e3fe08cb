"""Writing clips."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

from avtool.errors import MediaError
from avtool.files import atomic_file
from avtool.media.colour import BT709, matrix_by_size

AUDIO_CHUNK = 1024
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
X264 = {"preset": "veryfast", "x264-params": "mbtree=0"}
"""Without x264's macroblock tree, which reads memory nothing was written to: same frames, same bytes."""


def write_clip(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    fps: float,
    waveform: np.ndarray | None,
    sample_rate: int,
    crf: int = 18,
    start: float = 0.0,
) -> None:
    """Write an H.264 (yuv420p, its colours tagged) + AAC mp4; the same input gives the same bytes.

    ``frames``: uint8 (H, W, 3) RGB, all of one size, H and W even. ``waveform``: float32 (N,) or (N, C) in
    [-1, 1], or int16, or None for a clip without a sound track. The picture begins ``start`` seconds after the sound.
    MediaError where they are not so.
    """
    with atomic_file(path) as partial, av.open(f"file:{partial}", "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(30000)
        video = container.add_stream("libx264", rate=rate, options={"crf": str(crf), **X264})
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1
        chunks: Iterator[av.AudioFrame] = iter(())
        if waveform is not None:
            planes, layout = _planes(path, waveform)
            coder = {"aac_coder": "fast"}  # half the time, and closer to the original here
            audio = container.add_stream("aac", rate=sample_rate, layout=layout, options=coder)
            chunks = _audio_chunks(planes, layout, sample_rate)
        tick = 1 / rate / (1000 if start else 1)
        if start:
            video.codec_context.time_base = tick
        scaler, space, sounded = VideoReformatter(), Colorspace.ITU601, 0.0
        for number, frame in enumerate(frames):
            if number == 0:
                video.height, video.width = frame.shape[:2]
                space = _tag(video.codec_context)
            _check_frame(path, frame, (video.height, video.width, 3))
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture = scaler.reformat(
                picture, format="yuv420p", dst_colorspace=space, dst_color_range=ColorRange.MPEG
            )
            picture.pts, picture.time_base = round((start + number / rate) / tick), tick
            container.mux(video.encode(picture))
            while sounded <= start + number / rate and (chunk := next(chunks, None)) is not None:
                container.mux(audio.encode(chunk))
                sounded = ((chunk.pts or 0) + chunk.samples) / sample_rate
        container.mux(video.encode(None))
        for chunk in chunks:
            container.mux(audio.encode(chunk))
        if waveform is not None:
            container.mux(audio.encode(None))


def _tag(context: VideoCodecContext) -> Colorspace:
    """Say in the file which colours these are, and choose the matrix that a reader of no tags would take."""
    matrix = matrix_by_size(context.width, context.height)
    context.colorspace, context.color_range = matrix, ColorRange.MPEG
    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    return Colorspace.ITU709 if matrix == BT709 else Colorspace.ITU601


def _check_frame(path: Path, frame: np.ndarray, shape: tuple[int, ...]) -> None:
    height, width = shape[:2]
    if height % 2 or width % 2:
        raise MediaError(
            f"cannot write {path}: frames are {width} x {height}, H.264 needs even numbers",
            hint=f"crop or scale them to {max(2, width - width % 2)} x {max(2, height - height % 2)}",
        )
    if frame.shape != shape or frame.dtype != np.uint8:
        raise MediaError(
            f"cannot write {path}: a frame is {frame.dtype} of shape {frame.shape}, not uint8 of {shape}",
            hint="give RGB frames of one size, values 0 to 255",
        )


def _planes(path: Path, waveform: np.ndarray) -> tuple[np.ndarray, str]:
    """The sound as float32 or int16 (C, N), and the name of such channels."""
    floats = np.issubdtype(waveform.dtype, np.floating)
    if waveform.dtype != np.int16 and not (floats and np.isfinite(waveform).all()):
        raise MediaError(
            f"cannot write {path}: its sound is {'not finite' if floats else waveform.dtype}",
            hint="give finite floating point numbers in [-1, 1], or int16",
        )
    planes = np.atleast_2d((waveform.astype(np.float32) if floats else waveform).T)
    if (layout := LAYOUTS.get(len(planes))) is None:
        raise MediaError(f"a clip is written with 1, 2, 6 or 8 channels of sound, not {len(planes)}")
    return planes, layout


def _audio_chunks(planes: np.ndarray, layout: str, sample_rate: int) -> Iterator[av.AudioFrame]:
    for start in range(0, planes.shape[1], AUDIO_CHUNK):
        block = np.ascontiguousarray(planes[:, start : start + AUDIO_CHUNK])
        if block.dtype == np.int16:
            block = block.astype(np.float32) / 32768  # here, as an hour of sound takes twice the room so
        chunk = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
        chunk.sample_rate, chunk.pts, chunk.time_base = sample_rate, start, Fraction(1, sample_rate)
        yield chunk
