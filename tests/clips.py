"""Small clips made on the fly, odd ones included."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

from avtool.media import AS_IT_IS, MediaFile, Sound, describe_container, hear, write_clip

RATE = 16000
TEST_DATA = Path(os.environ.get("AVTOOL_TEST_DATA", "/nonexistent"))
needs_test_data = pytest.mark.skipif(not TEST_DATA.is_dir(), reason="AVTOOL_TEST_DATA is not set")


def level_frames(count: int, height: int = 48, width: int = 64) -> Iterator[np.ndarray]:
    """Frame k is of one grey level, 20 + 4 k: a frame says which one it is."""
    for k in range(count):
        yield np.full((height, width, 3), 20 + 4 * k, np.uint8)


def level_of(frame: np.ndarray) -> int:
    """Which of ``level_frames`` this is."""
    return round((float(frame.mean()) - 20) / 4)


def moving_frames(count: int, height: int = 48, width: int = 64, seed: int = 0) -> Iterator[np.ndarray]:
    """A coarse pattern that moves."""
    pattern = np.random.default_rng(seed).integers(40, 216, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    pattern = pattern.repeat(8, 0).repeat(8, 1)[:height, :width]
    for k in range(count):
        yield np.roll(pattern, 3 * k, 1)


def tone(seconds: float, *, frequency: float = 440.0, rate: int = RATE, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(
        np.float32
    )


def click(seconds: float, at: float, rate: int = RATE) -> np.ndarray:
    """Silence but for a burst of 10 ms around ``at``."""
    times = np.arange(round(seconds * rate)) / rate
    return (0.8 * np.sin(2 * np.pi * 1000 * times) * (np.abs(times - at) < 0.005)).astype(np.float32)


def where_is_click(waveform: np.ndarray, rate: int = RATE) -> float:
    """Seconds: the centre of what is loud."""
    power = np.square(waveform.astype(np.float64))
    return float((power * np.arange(len(power))).sum() / power.sum() / rate)


def clip(
    path: Path, seconds: float = 4.0, *, fps: float = 5, size: tuple[int, int] = (48, 64), seed: int = 0
) -> Path:
    """An ordinary clip: moving picture of ``size`` (H, W), a tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = moving_frames(max(1, round(seconds * fps)), *size, seed=seed)
    sound = tone(seconds, frequency=300 + 50 * seed)
    write_clip(path, frames, fps=fps, waveform=sound, sample_rate=RATE)
    return path


def streams_of(path: Path) -> dict[str, dict]:
    """What the header says of its streams, by ``video`` and ``audio``."""
    return {stream["type"]: stream for stream in describe_container(path)["streams"]}


def read_track(path: Path) -> Sound:
    """All channels of a sound."""
    with MediaFile(path) as file:
        return hear(file, [AS_IT_IS])[0]


def tag_rotation(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write (a, b, c, d) of the display matrix into the header of an mp4's first track."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    struct.pack_into(">9i", data, at, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


CLOCKWISE = (0, 1, -1, 0)
"""x right goes to down, y down goes to left: a quarter turn clockwise brings the picture upright."""


def filtered(source: Path, target: Path, change: str | Callable[[bytes], bytes]) -> Path:
    """The packets of a silent clip through one of FFmpeg's bitstream filters, or a function of each key frame's."""
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        video = read.streams.video[0]
        out = written.add_stream_from_template(video, opaque=True)
        through = BitStreamFilterContext(change, video, out) if isinstance(change, str) else None
        for packet in read.demux(video):
            if through is not None:
                packets = through.filter(packet if packet.size else None)
            else:
                packets = [_changed(packet, change)] if packet.size else []
            for one in packets:
                one.stream = out
                written.mux(one)
    return target


def _changed(packet: av.Packet, change: Callable[[bytes], bytes]) -> av.Packet:
    if not packet.is_keyframe:
        return packet
    changed = av.Packet(change(bytes(packet)))
    changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
    changed.duration, changed.is_keyframe = packet.duration, True
    return changed


def remux(source: Path, target: Path, *, delay_sound: float = 0.0, delay_video: float = 0.0) -> Path:
    """The same packets in another container, a stream later by so many seconds."""
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        streams = {stream: written.add_stream_from_template(stream) for stream in read.streams}
        for packet in read.demux():
            if packet.dts is None:
                continue
            delay = delay_video if packet.stream.type == "video" else delay_sound
            packet.pts += round(delay / packet.time_base)
            packet.dts += round(delay / packet.time_base)
            packet.stream = streams[packet.stream]
            written.mux(packet)
    return target
