"""Damaged clips, a function of the seed; and what plain PyAV makes of a file, to hold avtool's verdicts to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from avtool.media.container import LENIENT

KINDS = ("bits", "truncated", "header", "hole", "zeros")


def damage(data: bytes, other: bytes, kind: str, generator: np.random.Generator) -> bytes:
    """``data`` with some bits flipped, cut short, with the beginning of ``other``, or with a stretch left out or
    zeroed."""
    size = len(data)
    first, last = sorted(generator.integers(1, size, 2).tolist())
    if kind == "bits":
        damaged = np.frombuffer(data, np.uint8).copy()
        places = generator.integers(0, size, generator.choice([1, 10, 100, 1000]))
        damaged[places] ^= (1 << generator.integers(0, 8, len(places))).astype(np.uint8)
        return damaged.tobytes()
    if kind == "header":
        length = int(generator.integers(16, 4096))
        return other[:length] + data[length:]
    last = min(last, first + int(size ** generator.uniform(0.2, 0.9)))
    return {
        "truncated": data[:first],
        "hole": data[:first] + data[last:],
        "zeros": data[:first] + bytes(last - first) + data[last:],
    }[kind]


def write_damaged(clips: Sequence[Path], folder: Path, *, count: int, seed: int = 0) -> dict[Path, Path]:
    """``count`` damaged copies in ``folder``, every kind as often: {copy: the clip that it was}."""
    generator, made = np.random.default_rng(seed), {}
    for number in range(count):
        clip, other = (clips[k] for k in generator.integers(0, len(clips), 2))
        kind = KINDS[number % len(KINDS)]
        path = folder / f"{number:04d}-{kind}{clip.suffix}"
        path.write_bytes(damage(clip.read_bytes(), other.read_bytes(), kind, generator))
        made[path] = clip
    return made


class Decoded(NamedTuple):
    """How many frames, and samples of a channel, of the first stream of each kind plain PyAV decodes."""

    frames: int
    samples: int


def decode_plainly(path: Path) -> Decoded:
    """As far as it goes, on past errors of single packets and of tags that are not UTF-8."""
    counts = {"video": 0, "audio": 0}
    try:
        with av.open(str(path), **LENIENT) as container:
            streams = [kind[0] for kind in (container.streams.video, container.streams.audio) if kind]
            if not streams:
                return Decoded(0, 0)
            for packet in container.demux(streams):
                try:
                    for frame in packet.decode():
                        counts[packet.stream.type] += getattr(frame, "samples", 1)
                except (av.FFmpegError, ValueError):
                    continue
    except (av.FFmpegError, ValueError, RuntimeError):
        pass
    return Decoded(counts["video"], counts["audio"])
