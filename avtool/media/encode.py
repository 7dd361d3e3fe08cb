"""Writing clips."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from avtool.errors import MediaError
from avtool.files import atomic_file

AUDIO_CHUNK = 1024
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
) -> None:
    """Write an H.264 (yuv420p) + AAC mp4; the same input gives the same bytes.

    ``frames``: uint8 (H, W, 3) RGB, all of one size, H and W even. ``waveform``: float32 (N,) or (N, C) in
    [-1, 1], or None for a clip without a sound track.
    """
    with atomic_file(path) as partial, av.open(f"file:{partial}", "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(30000)
        video = container.add_stream("libx264", rate=rate, options={"crf": str(crf), **X264})
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1
        chunks = iter(())
        if waveform is not None:
            planes = np.atleast_2d(np.asarray(waveform, np.float32).T)
            coder = {"aac_coder": "fast"}  # half the time, and closer to the original here
            audio = container.add_stream("aac", rate=sample_rate, layout=_layout(len(planes)), options=coder)
            chunks = _audio_chunks(planes, sample_rate)
        sounded = 0.0
        for number, frame in enumerate(frames):
            if number == 0:
                video.height, video.width = _even_size(path, frame)
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = number, 1 / rate
            container.mux(video.encode(picture))
            while sounded <= number / rate and (chunk := next(chunks, None)) is not None:
                container.mux(audio.encode(chunk))
                sounded = (chunk.pts + chunk.samples) / sample_rate
        container.mux(video.encode(None))
        for chunk in chunks:
            container.mux(audio.encode(chunk))
        if waveform is not None:
            container.mux(audio.encode(None))


def _layout(channels: int) -> str:
    layouts = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
    if channels not in layouts:
        raise MediaError(f"a clip is written with 1, 2, 6 or 8 channels of sound, not {channels}")
    return layouts[channels]


def _even_size(path: Path, frame: np.ndarray) -> tuple[int, int]:
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        raise MediaError(f"cannot write {path}: frames are {width} x {height}, H.264 needs even numbers")
    return height, width


def _audio_chunks(planes: np.ndarray, sample_rate: int) -> Iterable[av.AudioFrame]:
    layout = _layout(len(planes))
    for start in range(0, planes.shape[1], AUDIO_CHUNK):
        block = np.ascontiguousarray(planes[:, start : start + AUDIO_CHUNK])
        chunk = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
        chunk.sample_rate, chunk.pts, chunk.time_base = sample_rate, start, Fraction(1, sample_rate)
        yield chunk
