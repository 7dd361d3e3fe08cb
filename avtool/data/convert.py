"""One row of a source to one prepared clip, or the reason why not: a function of its files and settings."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Self

import cv2
import numpy as np
from pydantic import Field, ValidationError

from avtool import media
from avtool.config.types import Number, Positive, Section, Whole, keys
from avtool.config.values import explain, parse_settings
from avtool.data import audit, checks, names, synth, workers
from avtool.data.archives import Damaged, read_member
from avtool.data.catalog import Row
from avtool.data.spool import Held
from avtool.errors import MediaError, UsageError
from avtool.inputs import JPEG_QUALITY, SHORT_SIDE, to_jpeg

THUMBNAIL_SIDE = 160
"""Pixels of the longer side of a picture in the report."""
LIMIT_SECONDS, LIMIT_SECONDS_PER_MB = 300.0, 10.0
"""Time that a clip may take: what decodes at all takes 0.02 to 2 s a megabyte, the more the stiller it is."""


class Settings(Section):
    """What is kept of a clip: set as ``key=value``, kept in plan.json and dataset.json. The same source and settings
    give the same bytes. A new one is a line here, and is used in ``_from_video`` and ``_from_pictures``."""

    short_side: Annotated[Whole, Field(ge=16, le=4096)] = SHORT_SIDE
    """pixels of a frame's short side, from 16 to 4096; smaller frames are not enlarged"""
    frame_rate: Annotated[Number, Field(gt=0, le=120)] = 2.0
    """frames a second that are kept, above 0 and at most 120; none is kept twice"""
    sample_rate: Annotated[Whole, Field(ge=1000, le=192_000)] = 16000
    """samples of sound a second, from 1000 to 192000"""
    jpeg_quality: Annotated[Whole, Field(le=100)] = JPEG_QUALITY
    """quality of the stored frames, from 1 to 100"""
    rows_per_shard: Annotated[Whole, Field(le=100_000)] = 256
    """rows of a split in a shard, at most 100000"""
    window_seconds: Positive = 3.0
    """clips with less sound than this are flagged as short"""
    hdr: media.Hdr = "tonemap"
    """HDR pictures: tonemap, keep as they are coded, or refuse"""

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Self:
        """The settings of ``key=value`` arguments. UsageError for one that is wrong."""
        values = parse_settings(arguments, example="frame_rate=4")
        try:
            return cls(**values)
        except ValidationError as error:
            wrong = explain(error, values, dict(keys(cls)))
            raise UsageError(wrong.message, hint=wrong.hint) from None

    def arguments(self) -> list[str]:
        """What ``parse`` makes them of: those that are not usual."""
        usual = type(self)().model_dump()
        return [f"{key}={value}" for key, value in self.model_dump().items() if value != usual[key]]


@dataclass(frozen=True)
class PreparedClip:
    """What is stored of a clip: its frames as ``jpegs`` of ``size`` (width, height), its sound, the rest.

    ``masks`` maps frames, by number, to their mask as PNG. ``fingerprint`` is for the audit, and not stored.
    """

    row: Row
    jpegs: list[bytes]
    times: list[float]
    key: int
    middle: float
    size: tuple[int, int]
    source_size: tuple[int, int]
    waveform: np.ndarray
    duration: float
    masks: dict[int, bytes]
    stems: dict[str, np.ndarray]
    flags: list[str]
    colour: dict[str, Any] | None
    fingerprint: audit.Fingerprint

    def facts(self, settings: Settings) -> dict[str, Any]:
        """What the clip's .json member says: the same keys for every clip, None where nothing is known."""
        return {
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
            "masks": list(self.masks),
            "stems": list(self.stems),
            "flags": self.flags,
            "view": self.row.view,
            "partner": self.row.partner,
            "recording": self.row.recording,
            "colour": self.colour,
            "extra": dict(self.row.extra) or None,
        }


@dataclass(frozen=True)
class Rejected:
    """A row that gives no clip: ``missing`` or refused, why, the sentence that says more, and a small JPEG of
    what there is to see."""

    row: Row
    reason: str
    detail: str
    missing: bool = False
    thumbnail: bytes | None = None


@dataclass(frozen=True)
class _Frame:
    """What is kept of a frame: its JPEG, its size (width, height), and what ``checks.is_still`` looks at."""

    jpeg: bytes
    size: tuple[int, int]
    cells: np.ndarray


def convert(
    row: Row, settings: Settings, flags: Sequence[str] = (), held: Held | None = None
) -> PreparedClip | Rejected:
    """Decode, scale and check the clip of ``row``, of which ``flags`` are known; ``held``: where its files are that lie
    in archives. Never raises: whatever goes wrong with a clip is the reason why it is refused. In a worker process
    there is a time limit, see ``workers``."""
    if not held:
        return _convert(row, settings, flags)
    with TemporaryDirectory(prefix="avtool-", ignore_cleanup_errors=True) as folder:
        files = {
            path: one if isinstance(one, Path) else Path(folder, f"{k}{Path(path).suffix[:8]}")
            for k, (path, one) in enumerate(held.items())
        }
        try:
            for path, one in held.items():
                if not isinstance(one, Path):
                    read_member(*one, files[path])
        except (Damaged, OSError) as error:
            return Rejected(row, getattr(error, "reason", checks.FAILED), f"{path}: {error}")
        outcome = _convert(row.with_files(files), settings, flags)
        if isinstance(outcome, Rejected):
            detail = outcome.detail
            for path, file in files.items():
                detail = detail.replace(str(file), path)
            outcome = replace(outcome, detail=detail)
        return replace(outcome, row=row)


def _convert(row: Row, settings: Settings, flags: Sequence[str]) -> PreparedClip | Rejected:
    with workers.time_limit(LIMIT_SECONDS + LIMIT_SECONDS_PER_MB * _megabytes(row)):
        try:
            if gone := [str(path) for path in row.files() if not path.exists()]:
                return Rejected(row, checks.MISSING, f"looked for {names.listed(gone, 1)}", missing=True)
            if row.rendered is not None:
                return _rendered(row, synth.describe(*row.rendered), settings, flags)
            if row.video is None:
                clip, sizes = _from_pictures(row, settings)
            else:
                clip, sizes = _from_video(Path(row.video), row, settings)
            return _checked(row, settings, clip, sizes, flags)
        except MediaError as error:
            reason = getattr(error, "reason", media.UNDECODABLE)
            detail = f"{error.message} ({error.hint})" if error.hint else error.message
        except Exception as error:  # noqa: BLE001 - memory, a disk that fails, a frame no library can scale
            reason, detail = checks.FAILED, f"{type(error).__name__}: {' '.join(str(error).split())}"
        return Rejected(row, *_beyond(row, reason, detail), thumbnail=_thumbnail_of(row))


def _megabytes(row: Row) -> float:
    size = 0
    for path in row.files():
        with suppress(OSError):
            size += path.stat().st_size
    return size / 1e6


Decoded = tuple[media.DecodedClip, Sequence[tuple[int, int]]]
"""A clip, with _Frames for frames, and their sizes before scaling."""


def _from_video(path: Path, row: Row, settings: Settings) -> Decoded:
    clip = media.decode_clip(
        path,
        frame_rate=settings.frame_rate,
        short_side=settings.short_side,
        sample_rate=settings.sample_rate,
        start=row.start,
        end=row.end,
        key_time=row.key_time,
        hdr=settings.hdr,
        threads=1,  # the processes share the cores, and what is damaged decodes the same everywhere
        keep=partial(_kept, settings),  # as they come: an hour of frames would take gigabytes
    )
    return clip, [clip.size] * len(clip.frames)


def _from_pictures(row: Row, settings: Settings) -> Decoded:
    """Pictures with a sound: one, shown in the middle of it, or one a second, the first at 0.5 s."""
    assert row.audio is not None
    read = [media.read_picture(path, settings.hdr) for path in row.frames or (row.image,) if path is not None]
    pictures = [one.rgb() for one in read]
    sizes = [(picture.shape[1], picture.shape[0]) for picture in pictures]
    scaled = media.scaled_size(*sizes[0], settings.short_side)
    frames = [_kept(settings, media.resized(picture, scaled)) for picture in pictures]
    with media.MediaFile(row.audio) as file:
        sound = media.hear(file, [media.Form(settings.sample_rate)], row.start, row.end)[0]
        waveform = sound.waveform(row.start, row.end)[0]
    seconds = len(waveform) / settings.sample_rate
    times = [k + 0.5 for k in range(len(frames))] if row.frames else [seconds / 2]
    middle = seconds / 2 if row.key_time is None else row.key_time
    picture_seconds = float(len(frames)) if row.frames else seconds
    clip = media.DecodedClip(
        frames,
        times,
        waveform,
        duration=seconds,
        size=sizes[0],
        key=int(np.argmin(np.abs(np.asarray(times) - middle))),
        middle=middle,
        picture_seconds=picture_seconds,
        sound_seconds=seconds,
        header_seconds=max(seconds, picture_seconds),
        uncertain=file.uncertain,
        mixing=sound.mixing,
        look=max((one.look for one in read if one.look), key=lambda look: look.hdr, default=None),
    )
    return clip, sizes


def _rendered(row: Row, scene: synth.Scene, settings: Settings, flags: Sequence[str]) -> PreparedClip:
    """A clip of ``synth`` as it is drawn: of its frames those that are kept, and nothing encoded before."""
    stage, stems = synth.Stage(scene), synth.stems_of(scene)
    mask, view, boxes = stage.truth()
    numbers, seconds = synth.frames_kept(settings.frame_rate), float(synth.SECONDS)
    whole = (scene.size, scene.size)
    size = media.scaled_size(*whole, settings.short_side)
    rates = synth.SAMPLE_RATE, settings.sample_rate
    clip = media.DecodedClip(
        frames=[_kept(settings, media.resized(stage.frame(k), size)) for k in numbers],
        times=[k / synth.FPS for k in numbers],
        waveform=media.resampled(synth.mixture(stems), *rates),
        duration=seconds,
        size=whole,
        key=numbers.index(synth.MIDDLE),
        middle=seconds / 2,
        picture_seconds=seconds,
        sound_seconds=seconds,
        header_seconds=seconds,
    )
    mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    known = replace(row, view=view, boxes=tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in boxes))
    return replace(
        _checked(known, settings, clip, [whole] * len(numbers), flags),
        masks={clip.key: cv2.imencode(".png", mask)[1].tobytes()},
        stems={name: media.resampled(stem, *rates) for name, stem in zip(row.labels, stems, strict=True)},
    )


def _kept(settings: Settings, frame: np.ndarray) -> _Frame:
    height, width = frame.shape[:2]
    return _Frame(to_jpeg(frame, settings.jpeg_quality), (width, height), checks.cells(frame))


def _checked(
    row: Row,
    settings: Settings,
    clip: media.DecodedClip,
    sizes: Sequence[tuple[int, int]],
    flags: Sequence[str],
) -> PreparedClip:
    """Check picture, sound and masks of ``clip``, see ``Decoded``."""
    rate = settings.sample_rate
    # what is rendered may be silent
    if row.rendered is None and (reason := checks.refusal(clip.waveform, rate)):
        said = f"{row.audio or row.video}: {reason}, {len(clip.waveform) / rate:.2f} s in all"
        raise media.UnusableMedia(said, reason=reason)
    found = list(flags)
    apart = 1 if row.frames else max(1, round(settings.frame_rate * checks.STILL_SECONDS))
    if row.image is None and checks.is_still([frame.cells for frame in clip.frames[::apart]]):
        found.append(checks.STILL)
    if clip.look is not None and clip.look.hdr:
        found.append(checks.HDR)
    if clip.damaged:
        found.append(checks.DAMAGED)
    if row.end is not None and row.end - row.start > clip.duration + checks.LENGTH_SECONDS:
        found.append(checks.CUT)
    found += [*checks.time_flags(clip), *clip.mixing]
    found += checks.sound_flags(clip.waveform, rate, settings.window_seconds)
    masks, of_masks = _masks(row, clip, sizes)
    found += of_masks
    return PreparedClip(
        row=row,
        times=clip.times,
        key=clip.key,
        middle=clip.middle,
        source_size=clip.size,
        waveform=clip.waveform,
        duration=clip.duration,
        jpegs=[frame.jpeg for frame in clip.frames],
        size=clip.frames[0].size,
        stems={
            name: media.read_waveform(path, sample_rate=rate, start=row.start, end=row.end)
            for name, path in row.stems.items()
        },
        masks=masks,
        flags=found,
        colour=None if clip.look is None else clip.look.facts(),
        fingerprint=audit.fingerprint_of(clip.waveform, rate, [frame.cells for frame in clip.frames]),
    )


def _masks(
    row: Row, clip: media.DecodedClip, sizes: Sequence[tuple[int, int]]
) -> tuple[dict[int, bytes], list[str]]:
    """The row's masks as PNG, one for each frame or one for the key frame, scaled like it without mixing values, and
    the flags on them. They may have its square pixels, or those of its file."""
    masks, flags, size = {}, set(), clip.frames[0].size
    numbers = [clip.key] if len(row.masks) == 1 else range(len(sizes))
    for k, path in zip(numbers, row.masks, strict=True) if row.masks else ():
        if path is None:
            continue
        mask, said = media.read_mask(path)
        flags |= {said} if said else set()
        if mask.shape[::-1] not in (sizes[k], clip.coded):
            is_size, frame_size = (" x ".join(map(str, pair)) for pair in (mask.shape[::-1], sizes[k]))
            said = f"{path} is {is_size}, its frame {frame_size}"
            raise media.UnusableMedia(said, reason=checks.MASK_SIZE)
        scaled = mask if mask.shape[::-1] == size else cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
        masks[k] = cv2.imencode(".png", scaled)[1].tobytes()
    return masks, sorted(flags)


def _beyond(row: Row, reason: str, detail: str) -> tuple[str, str]:
    """Reason and detail, those of a start after the end where that is why."""
    heard = row.audio or row.video
    if heard is not None and row.start > 0 and reason in (checks.TOO_SHORT, media.UNDECODABLE):
        with suppress(MediaError), media.MediaFile(Path(heard)) as file:
            if row.start > (length := file.duration()) - checks.SECONDS_NEEDED:
                return checks.BEYOND, f"{heard} is {length:.2f} s long, the row starts at {row.start:g} s"
    return reason, detail


def _thumbnail_of(row: Row) -> bytes | None:
    """A small picture of a clip that was refused, where anything can be seen of it."""
    try:
        if row.video is not None:
            return thumbnail(media.read_frame(Path(row.video))[0])
        return thumbnail(media.read_image(row.image or row.frames[0]))
    except Exception:  # noqa: BLE001 - why it is refused is known; this only illustrates it
        return None


def thumbnail(picture: np.ndarray) -> bytes:
    """Picture uint8 (H, W, 3) RGB as a small JPEG."""
    height, width = picture.shape[:2]
    scale = min(1.0, THUMBNAIL_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return to_jpeg(media.resized(picture, size), 70)
