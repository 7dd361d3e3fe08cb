"""One row of a source to one prepared clip, or the reason why not: a function of its files and settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from avtool import media
from avtool.data import checks
from avtool.data.catalog import Row
from avtool.errors import MediaError


@dataclass(frozen=True)
class Settings:
    """How clips are prepared: kept in dataset.json; the same source and settings give the same bytes."""

    short_side: int = 256
    frame_rate: float = 2.0
    sample_rate: int = 16000
    jpeg_quality: int = 90
    rows_per_shard: int = 256
    window_seconds: float = 3.0


@dataclass(frozen=True)
class PreparedClip:
    """What is stored of a clip: its frames as ``jpegs`` of ``size`` (width, height), its sound, the rest."""

    row: Row
    jpegs: list[bytes]
    times: list[float]
    key: int
    middle: float
    size: tuple[int, int]
    source_size: tuple[int, int]
    waveform: np.ndarray
    duration: float
    mask: bytes | None
    stems: dict[str, np.ndarray]
    flags: list[str]

    def facts(self, settings: Settings) -> dict[str, Any]:
        """What the clip's .json member says."""
        facts = {
            "id": self.row.id,
            "split": self.row.split,
            "labels": list(self.row.labels),
            "duration": round(self.duration, 6),
            "times": [round(time, 6) for time in self.times],
            "key": self.key,
            "middle": round(self.middle, 6),
            "size": list(self.size),
            "source_size": list(self.source_size),
            "sample_rate": settings.sample_rate,
            "samples": len(self.waveform),
            "boxes": [list(box) for box in self.row.boxes],
            "stems": list(self.stems),
            "flags": self.flags,
        }
        return facts if self.row.view is None else {**facts, "view": self.row.view}


@dataclass(frozen=True)
class Rejected:
    """A row that gives no clip: ``missing`` or refused, why, and the sentence that says more."""

    row: Row
    reason: str
    detail: str
    missing: bool = False


class _Refusal(Exception):
    """A clip that can be decoded and is refused all the same."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def convert(row: Row, settings: Settings) -> PreparedClip | Rejected:
    """Decode, scale and check the clip of ``row``. Never raises for what is wrong with a file."""
    for path in row.files():
        if not path.exists():
            return Rejected(row, checks.MISSING, f"no {path}", missing=True)
    try:
        return _from_video(row, settings) if row.video is not None else _from_image(row, settings)
    except _Refusal as refusal:
        return Rejected(row, refusal.reason, refusal.reason)
    except MediaError as error:
        return Rejected(row, getattr(error, "reason", media.UNDECODABLE), error.message)


def _from_video(row: Row, settings: Settings) -> PreparedClip:
    clip = media.decode_clip(
        row.video,
        frame_rate=settings.frame_rate,
        short_side=settings.short_side,
        sample_rate=settings.sample_rate,
        start=row.start,
        end=row.end,
        key_time=row.key_time,
    )
    flags = [checks.STILL] if checks.is_still(clip.frames) else []
    return _finish(row, settings, clip, [*flags, *([checks.DAMAGED] if clip.damaged else [])])


def _from_image(row: Row, settings: Settings) -> PreparedClip:
    """A photograph with a sound: one frame, shown in the middle of the sound."""
    image = media.read_image(row.image)
    height, width = image.shape[:2]
    scaled = media.scaled_size(width, height, settings.short_side)
    if scaled != (width, height):
        image = cv2.resize(image, scaled, interpolation=cv2.INTER_AREA)
    waveform = media.read_waveform(row.audio, sample_rate=settings.sample_rate, start=row.start, end=row.end)
    seconds = len(waveform) / settings.sample_rate
    clip = media.DecodedClip(
        [image], [seconds / 2], waveform, duration=seconds, size=(width, height), key=0, middle=seconds / 2
    )
    return _finish(row, settings, clip, [])


def _finish(row: Row, settings: Settings, clip: media.DecodedClip, flags: list[str]) -> PreparedClip:
    if reason := checks.refusal(clip.waveform, settings.sample_rate):
        raise _Refusal(reason)
    stems = {
        name: media.read_waveform(path, sample_rate=settings.sample_rate, start=row.start, end=row.end)
        for name, path in row.stems.items()
    }
    height, width = clip.frames[0].shape[:2]
    return PreparedClip(
        row=row,
        times=clip.times,
        key=clip.key,
        middle=clip.middle,
        source_size=clip.size,
        waveform=clip.waveform,
        duration=clip.duration,
        jpegs=[_jpeg(frame, settings.jpeg_quality) for frame in clip.frames],
        size=(width, height),
        mask=_mask(row, clip.size, (width, height)),
        stems=stems,
        flags=flags + checks.sound_flags(clip.waveform, settings.sample_rate, settings.window_seconds),
    )


def _mask(row: Row, source_size: tuple[int, int], size: tuple[int, int]) -> bytes | None:
    """The row's mask, scaled like its frame without mixing values, as PNG."""
    if row.mask is None:
        return None
    mask = media.read_mask(row.mask)
    if mask.shape[::-1] != source_size:
        raise _Refusal(checks.MASK_SIZE)
    return cv2.imencode(".png", cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST))[1].tobytes()


def _jpeg(frame: np.ndarray, quality: int) -> bytes:
    bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
