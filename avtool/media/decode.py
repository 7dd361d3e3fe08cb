"""Picture and sound of a clip in one pass: what preparing a data set keeps of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from avtool.media.clock import CLOCK
from avtool.media.colour import Hdr, Look
from avtool.media.container import PREROLL, MediaFile
from avtool.media.frames import Moments, fitted, no_frame, refuse_hdr, to_picture
from avtool.media.sound import SOUND_GAP, Form, Sound


@dataclass(frozen=True)
class DecodedClip:
    """What was found between ``start`` and ``end`` of a clip; times count from ``start``.

    ``frames``: K frames uint8 (H, W, 3) RGB of one size, upright, in order of time, none twice, or what ``keep`` made
    of them; ``times`` (K,) when each appears; ``key`` counts the one shown at ``middle``, the key time. ``waveform``:
    int16 (N,) mono. ``size``: (width, height) before scaling, with square pixels; ``coded``: with those of the file.
    ``damaged``: packets that did not decode. Seconds that each stream goes on for as decoded, and the clip as its
    header says: ``picture_seconds``, ``sound_seconds``, ``header_seconds``; those before each begins:
    ``picture_begins``, ``sound_begins``. ``uncertain``: whether a time had to be guessed. ``mixing``: see ``Sound``.
    ``look``: how its first frame is to be shown, of pictures only where their file says so.
    """

    frames: list[Any]
    times: list[float]
    waveform: np.ndarray
    duration: float
    size: tuple[int, int]
    key: int
    middle: float
    picture_seconds: float
    sound_seconds: float
    header_seconds: float
    picture_begins: float = 0.0
    sound_begins: float = 0.0
    uncertain: bool = False
    mixing: Sequence[str] = ()
    damaged: int = 0
    coded: tuple[int, int] | None = None
    look: Look | None = None


def decode_clip(
    path: Path,
    *,
    frame_rate: float,
    short_side: int,
    sample_rate: int,
    start: float = 0.0,
    end: float | None = None,
    key_time: float | None = None,
    threads: int = 0,
    hdr: Hdr = "tonemap",
    keep: Callable[[np.ndarray], Any] = lambda frame: frame,
) -> DecodedClip:
    """Picture and sound of a clip between ``start`` and ``end`` in one pass over both streams.

    Frames are taken ``frame_rate`` times a second on a grid of which ``key_time`` (seconds from ``start``; None: the
    middle) is a point, each frame once, and scaled down, never up, to a short side of ``short_side`` pixels. Of each
    only what ``keep`` makes of it is held in memory. MediaError where a stream is missing, no frame can be decoded, or
    the picture is HDR and ``hdr`` refuses that.
    """
    with MediaFile(path, threads) as file, file.reading():
        file.need(video=True, sound=True)
        length = file.duration()
        stop = length if end is None else min(end, length)
        key = (stop - start) / 2 if key_time is None else key_time
        for at_start in file.positions(start - PREROLL):
            grid = _Grid(file, start, key, frame_rate, short_side=short_side, hdr=hdr, keep=keep)
            sound = Sound(Form(sample_rate), length=length, path=file.path)
            _gather(file, grid, sound, end)
            waveform = sound.waveform(start, end)[0]
            if at_start or (grid.first <= start + CLOCK and sound.first <= start + SOUND_GAP):
                break
    if not grid.frames:
        raise no_frame(path)
    last, picture_end = math.inf if end is None else end, grid.due + grid.interval
    return DecodedClip(
        frames=grid.frames,
        times=grid.times,
        waveform=waveform,
        duration=min(stop, max(picture_end, sound.due)) - start,
        size=grid.size,
        middle=key,
        key=int(np.argmin(np.abs(np.asarray(grid.times) - key))),
        picture_seconds=min(last, picture_end) - start,
        sound_seconds=min(last, sound.due) - start,
        header_seconds=min(last, file.header or length) - start,
        picture_begins=max(0.0, grid.first - start),
        sound_begins=max(0.0, min(sound.first, last) - start),
        uncertain=file.uncertain,
        mixing=sound.mixing,
        damaged=file.damaged,
        coded=grid.coded,
        look=grid.look,
    )


def _gather(file: MediaFile, grid: _Grid, sound: Sound, end: float | None) -> None:
    """All that the file holds up to ``end``, into ``grid`` and ``sound``."""
    last = file.until = math.inf if end is None else end
    for frame, time in file.decoded(file.video, file.sound):
        if isinstance(frame, av.VideoFrame):
            grid.add(frame, time, last)
        elif sound.due <= last:
            sound.add(frame, time)
        if grid.due > last and sound.due > last:
            break
    grid.finish(last)


class _Grid:
    """Keeps the frames shown at ``key`` + k / ``rate`` seconds for every whole k, each frame once.

    Times given and grid times are the clip's; the times kept count from ``start``.
    """

    def __init__(
        self,
        file: MediaFile,
        start: float,
        key: float,
        rate: float,
        *,
        short_side: int,
        hdr: Hdr,
        keep: Callable[[np.ndarray], Any],
    ) -> None:
        self.file, self.start, self.key = file, start, start + key
        self.short_side, self.hdr, self.keep = short_side, hdr, keep
        self.moments = Moments(start + key, rate, step=-math.floor(key * rate + CLOCK))
        self.scaler = VideoReformatter()
        self.frames: list[Any] = []
        self.times: list[float] = []
        self.size = self.coded = self.kept_size = (0, 0)
        self.look: Look | None = None
        self.due, self.first, self.interval = start, math.inf, 0.0
        self.last: tuple[av.VideoFrame, float] | None = None
        self.kept: av.VideoFrame | None = None

    def add(self, frame: av.VideoFrame, time: float, end: float) -> None:
        """The next frame, which appears at ``time``."""
        self.first = min(self.first, time)
        if self.last is not None:
            self.interval = time - self.last[1]
        for _ in self.moments.until(min(time - CLOCK, end)):
            self._keep(*(self.last or (frame, time)))
        self.last, self.due = (frame, time), time

    def finish(self, end: float) -> None:
        """The last frame lasts as long as the one before it, and to the key time however early it came."""
        if self.last is None:
            return
        for _ in self.moments.until(min(end, max(self.last[1] + self.interval, self.key + CLOCK))):
            self._keep(*self.last)
        if not self.frames:
            self._keep(*self.last)

    def _keep(self, frame: av.VideoFrame, time: float) -> None:
        if frame is self.kept:
            return
        self.kept = frame
        look = self.file.looks.of(frame)
        refuse_hdr(self.file.path, look, self.hdr)
        picture = to_picture(
            frame, look, self.scaler, short_side=self.short_side, tonemap=self.hdr == "tonemap"
        )
        if not self.frames:
            self.look, self.kept_size = look, picture.shape[1::-1]
            coded = frame.width, frame.height
            self.size, self.coded = look.size(*coded), look.size(*coded, square=False)
        # size and shape may change within the clip
        self.frames.append(self.keep(fitted(picture, self.kept_size)))
        self.times.append(max(0.0, time - self.start))
