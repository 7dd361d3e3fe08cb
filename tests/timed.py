"""Clips of which every frame says its number and every click its time, and what avtool makes of them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from avtool.media import Form, MediaFile, hear

HEIGHT, WIDTH, BITS = 48, 64, 8
CLICKS = (1.0, 3.0)
"""Seconds at which a click is in the middle."""
SECONDS = 4.0
RATE = 48000
Change = Callable[[str, int, av.Packet], av.Packet | None]
"""What becomes of the packet of ``video`` or ``audio`` with a number: None, it is lost."""


def burst(rate: int) -> np.ndarray:
    """A click of 4 ms at 2 kHz: complex64 (N,)."""
    times = np.arange(-round(0.002 * rate), round(0.002 * rate) + 1) / rate
    return (np.exp(2j * np.pi * 2000 * times) * np.cos(np.pi * times / 0.0042) ** 2).astype(np.complex64)


def sound(seconds: float, rate: int = RATE) -> np.ndarray:
    """Clicks at the times of ``CLICKS`` over faint noise: float32 (N,)."""
    found = np.random.default_rng(0).normal(0, 1e-3, round(seconds * rate)).astype(np.float32)
    one = burst(rate).real * 0.8
    for at in CLICKS:
        middle = round(at * rate)
        if middle + len(one) < len(found):
            found[middle - len(one) // 2 : middle + len(one) // 2 + 1] += one
    return found


def frame_of(number: int) -> np.ndarray:
    """A frame uint8 (48, 64, 3) that says its number in eight bars."""
    bars = [220 if number >> bit & 1 else 30 for bit in range(BITS)]
    return np.broadcast_to(np.repeat(np.uint8(bars), WIDTH // BITS)[None, :, None], (HEIGHT, WIDTH, 3)).copy()


def number_of(frame: np.ndarray) -> int:
    bars = frame[8:-8].mean(axis=(0, 2)).reshape(BITS, -1)[:, 2:-2].mean(axis=1) > 125
    return sum(1 << bit for bit, set_ in enumerate(bars) if set_)


def clicks_in(waveform: np.ndarray, rate: int, count: int = len(CLICKS)) -> list[float]:
    """Seconds of the loudest clicks in sound (N,)."""
    found = np.abs(np.convolve(waveform.astype(np.float32), burst(rate)[::-1].conj(), "same"))
    times = []
    for _ in range(count):
        at = int(found.argmax())
        left, here, right = found[at - 1 : at + 2]
        times.append((at + 0.5 * (left - right) / (left - 2 * here + right)) / rate)
        found[max(0, at - rate // 4) : at + rate // 4] = 0
    return sorted(times)


def make(
    path: Path,
    *,
    video: str = "libx264",
    audio: str | None = "aac",
    form: str | None = None,
    fps: float = 25,
    seconds: float = SECONDS,
    picture_begins: float = 0.0,
    sound_begins: float = 0.0,
    rate: int = RATE,
    channels: np.ndarray | None = None,
    layout: str = "mono",
    change: Change = lambda _kind, _number, packet: packet,
    options: dict[str, str] | None = None,
    b_frames: int = 2,
    shift: float = 0.0,
) -> Path:
    """Frame n is shown at n / ``fps``, clicks are heard at ``CLICKS``; all stamps are later by ``shift``.
    ``channels``: float32 (C, N), what is heard instead."""
    pace = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w", format=form, options=options or {}) as out:
        extra = {"preset": "veryfast", "x264-params": "mbtree=0"} if video == "libx264" else {}
        if video in ("libx264", "mpeg4", "mpeg2video"):
            extra["bf"] = str(b_frames)
        pictures = out.add_stream(video, rate=pace, options=extra)
        pictures.width, pictures.height = WIDTH, HEIGHT
        pictures.pix_fmt = "yuvj420p" if video == "mjpeg" else "yuv420p"
        pictures.codec_context.thread_count = 1
        pictures.bit_rate = 2_000_000
        counts = {"video": 0, "audio": 0}

        def put(packets: Iterable[av.Packet]) -> None:
            for packet in packets:
                kind = packet.stream.type
                kept = change(kind, counts[kind], packet)
                counts[kind] += 1
                if kept is not None:
                    out.mux(kept)

        blocks: Iterator[av.AudioFrame] = iter(())
        if audio is not None:
            heard = out.add_stream(audio, rate=rate, layout=layout)
            data = sound(seconds, rate)[None] if channels is None else channels
            blocks = _blocks(data[:, round(sound_begins * rate) :], rate, layout, sound_begins + shift)
        waiting = next(blocks, None)
        for number in range(round(picture_begins * fps), round(seconds * fps)):
            while waiting is not None and waiting.pts <= (number / fps + shift) * rate:
                put(heard.encode(waiting))
                waiting = next(blocks, None)
            frame = av.VideoFrame.from_ndarray(frame_of(number), format="rgb24")
            frame.time_base = 1 / pace / 40
            frame.pts = round((number / fps + shift) / frame.time_base)
            put(pictures.encode(frame))
        while waiting is not None:
            put(heard.encode(waiting))
            waiting = next(blocks, None)
        put(pictures.encode(None))
        if audio is not None:
            put(heard.encode(None))
    return path


def _blocks(data: np.ndarray, rate: int, layout: str, begins: float) -> Iterator[av.AudioFrame]:
    for start in range(0, data.shape[1], 1024):
        block = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(data[:, start : start + 1024]), "fltp", layout
        )
        block.sample_rate, block.time_base = rate, Fraction(1, rate)
        block.pts = round(begins * rate) + start
        yield block


class Seen(NamedTuple):
    """What avtool makes of a clip: the number and the time of every frame, and where clicks are heard."""

    numbers: list[int]
    times: np.ndarray
    clicks: np.ndarray
    uncertain: bool

    def late(self, fps: float = 25) -> np.ndarray:
        """Seconds by which each frame is later than its number says."""
        return self.times - np.array(self.numbers) / fps


def see(path: Path, *, clicks: int = len(CLICKS)) -> Seen:
    """All of ``path``."""
    with MediaFile(path) as file:
        next(file.positions(0.0))
        found = [
            (number_of(frame.to_ndarray(format="rgb24")), time) for frame, time in file.decoded(file.video)
        ]
        heard = hear(file, [Form(RATE)])[0].waveform()[0]
        numbers, times = zip(*found, strict=True)
        return Seen(list(numbers), np.array(times), np.array(clicks_in(heard, RATE, clicks)), file.uncertain)


def set_edits(path: Path, edits: list[tuple[float, float | None]]) -> Path:
    """Give all tracks of an mp4 that ends in its header these edits: (seconds, from which second of the track, None for
    nothing)."""
    data = bytearray(path.read_bytes())
    moov = next(_boxes(data, b"moov", 0, len(data)))
    scale = _scale(data, next(_boxes(data, b"mvhd", *moov)))
    for number in range(len(list(_boxes(data, b"trak", *moov)))):
        trak = list(_boxes(data, b"trak", *moov))[number]
        ticks = _scale(data, next(_boxes(data, b"mdhd", *next(_boxes(data, b"mdia", *trak)))))
        head = next(_boxes(data, b"tkhd", *trak))
        at, end = next(_boxes(data, b"edts", *trak), (head[1] + 8, head[1]))
        base = max(0, struct.unpack_from(">i", data, at + 20)[0]) if end > at else 0
        rows = [
            struct.pack(
                ">Iihh", round(length * scale), -1 if begin is None else base + round(begin * ticks), 1, 0
            )
            for length, begin in edits
        ]
        body = struct.pack(">4sII", b"elst", 0, len(rows)) + b"".join(rows)
        box = struct.pack(">I4sI", 12 + len(body), b"edts", 4 + len(body)) + body
        data[at - 8 : end] = box
        grown = len(box) - (end - at + 8)
        for start in (trak[0] - 8, moov[0] - 8):
            struct.pack_into(">I", data, start, struct.unpack_from(">I", data, start)[0] + grown)
        moov = moov[0], moov[1] + grown
    path.write_bytes(data)
    return path


def _boxes(data: bytes, kind: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where what a box holds begins and ends."""
    while start < end:
        size, name = struct.unpack_from(">I4s", data, start)
        if name == kind:
            yield start + 8, start + size
        start += size


def _scale(data: bytes, box: tuple[int, int]) -> int:
    return struct.unpack_from(">I", data, box[0] + 12)[0]


def move_tags(path: Path, move: Callable[[str, int], float]) -> Path:
    """Add ``move(kind, number)`` seconds to the stamps of an FLV's tags; the first of a kind, -1, is a header."""
    data, at, counts = bytearray(path.read_bytes()), 13, {"video": 0, "audio": 0}
    while at < len(data):
        kind = {8: "audio", 9: "video"}.get(data[at])
        if kind is not None:
            stamp = int.from_bytes(data[at + 4 : at + 7], "big") + round(1000 * move(kind, counts[kind] - 1))
            data[at + 4 : at + 8] = stamp.to_bytes(4, "big")[1:] + stamp.to_bytes(4, "big")[:1]
            counts[kind] += 1
        at += 15 + int.from_bytes(data[at + 1 : at + 4], "big")
    path.write_bytes(data)
    return path
