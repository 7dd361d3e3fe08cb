"""One reader of a clip of one's own, opened once: what it shows at a time, and what is heard with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from avtool.errors import UsageError
from avtool.inputs import fit_window, window_around, window_starts, window_within
from avtool.media import (
    NO_SOUND,
    NO_VIDEO,
    SILENT,
    Form,
    MediaFile,
    Picture,
    Sound,
    UnusableMedia,
    check_file,
    check_time,
    find_frame,
    hear,
    is_picture,
    read_image,
    refusal,
    shown_frames,
)
from avtool.progress import progress_bar, warn

STALE = 1.0
"""Seconds after which it is said that a frame is not a new one: the picture may have ended before the sound."""


class Window(NamedTuple):
    """A stretch of a clip from ``start`` to ``end`` seconds: the ``picture`` in its middle, and its ``sound`` int16
    (N,)."""

    start: float
    end: float
    picture: Picture
    sound: np.ndarray


class Clip:
    """A video, or a picture with the sound file ``audio``, which with a video takes the place of its own sound.

    ``duration`` in seconds, as its header says (a picture's: its sound's); what it shows ends at ``end``, a picture
    never. MediaError or UsageError where it cannot be used, with ``way_out`` for a hint where no sound or picture can
    be given to it.
    """

    def __init__(self, path: Path, audio: Path | None = None, *, way_out: str | None = None) -> None:
        check_file(path)
        self.path, self.sound_path = path, audio or path
        self.still: Picture | None = None
        with ExitStack() as files:
            heard = None if audio is None else files.enter_context(MediaFile(audio))
            if heard is not None and heard.sound is None:
                raise UnusableMedia(
                    f"{audio} has no sound track", reason=NO_SOUND, hint="give another --audio"
                )
            if is_picture(path):
                if heard is None:
                    raise UsageError(
                        f"{path} is a picture and has no sound of its own",
                        hint=way_out or "add --audio SOUND.wav",
                    )
                self.file, self.still = heard, Picture(read_image(path))
            else:
                self.file = files.enter_context(MediaFile(path))
                if self.file.video is None:
                    raise UnusableMedia(
                        f"{path} has no video",
                        reason=NO_VIDEO,
                        hint=way_out or f"give a picture with it: IMAGE --audio {path}",
                    )
                if heard is None and self.file.sound is None:
                    raise UnusableMedia(
                        f"{path} has no sound track",
                        reason=NO_SOUND,
                        hint=way_out or "give its sound as a file of its own: --audio WAV",
                    )
            self.heard = heard or self.file
            self.duration = self.file.duration()
            self._files = files.pop_all()
        self.end = self.duration if self.still is None else math.inf

    def __enter__(self) -> Clip:
        return self

    def __exit__(self, *_error: object) -> None:
        self._files.close()

    def time(self, at: float | None) -> float:
        """``at`` seconds, or for None the middle. MediaError where there is nothing then."""
        what = "frame" if self.still is None else "sound"
        return check_time(self.file.path, self.duration, at, what=what)

    def frame(self, time: float) -> Picture:
        """What is shown at ``time`` seconds: after its end the last frame."""
        return self.still or find_frame(self.file, min(time, self.end))

    def fresh_frame(self, time: float) -> Picture:
        """The same; it warns where what is shown appeared long before."""
        picture = self.frame(time)
        if self.still is None and time - picture.time > STALE:
            warn(
                f"{self.path} has no new frame after {picture.time:.2f} s: what is seen at {time:.2f} s is that one"
            )
        return picture

    def frames(self, rate: float) -> Iterator[tuple[Picture, float]]:
        """What is shown ``rate`` times a second, from the first frame on, and when."""
        return shown_frames(self.file, rate=rate)

    def sound(self, start: float = 0.0, end: float | None = None, *, rate: int) -> np.ndarray:
        """What is heard from ``start`` to ``end`` seconds (None: the end): int16 (N,), mono."""
        return hear(self.heard, [Form(rate)], start, end)[0].waveform(start, end)[0]

    def whole_sounds(self, *forms: Form) -> list[Sound]:
        """All that is heard, in several forms from one pass."""
        return hear(self.heard, forms)

    def check_heard(self, waveform: np.ndarray, rate: int, *, hint: str) -> None:
        """MediaError with ``hint`` where in its sound int16 (N,) there is nothing to hear."""
        if reason := refusal(waveform, rate):
            raise UnusableMedia(f"{self.sound_path} has {reason}", reason=reason, hint=hint)

    def sound_around(self, time: float, *, count: int, rate: int) -> np.ndarray:
        """``count`` samples around ``time`` seconds, moved to lie inside the sound there is: int16 (count,). It warns
        where nothing is left of the window that ``time`` lies in; MediaError where there is nothing to hear."""
        length = self.heard.duration()
        first = window_around(round(time * rate), count, round(length * rate))
        waveform = self.sound(first / rate, (first + count) / rate, rate=rate)
        end = first + len(waveform)
        if len(waveform) < count and first > 0:  # the sound ends before the picture: take the last of it
            whole = self.sound(rate=rate)
            end, waveform = len(whole), whole[-count:]
        if reason := refusal(waveform, rate):
            what = f"{len(waveform) / rate:.1f} s of {reason}" if reason == SILENT else reason
            raise UnusableMedia(
                f"{self.sound_path} has {what} around {time:.2f} s",
                reason=reason,
                hint="choose another time with --at, or give a sound with --audio WAV",
            )
        if end < time * rate - count / 2:
            warn(
                f"{self.sound_path} has sound up to {end / rate:.1f} s: the frame at {time:.1f} s is judged by "
                f"the last of it (choose another time with --at)"
            )
        return fit_window(waveform, count)

    def windows(self, every: float | None, *, count: int, rate: int) -> Iterator[Window]:
        """Windows of ``count`` samples, one at a time: one ``every`` so many seconds from the start and one at the end,
        or for None the one in the middle; sound that is shorter is reflected. MediaError where there is nothing to hear
        in all of it."""
        sound = self.sound(rate=rate)
        self.check_heard(sound, rate, hint="choose a clip with sound")
        middle = window_within(0.5, count, len(sound))
        starts = [middle] if every is None else window_starts(len(sound), count, every * rate)
        ends = [min(start + count, len(sound)) for start in starts]
        if (last := (starts[-1] + ends[-1]) / 2 / rate) > self.end:
            warn(
                f"{self.path} ends at {self.end:.2f} s: windows of {self.sound_path} up to {last:.2f} s see its last "
                "frame"
            )
        with progress_bar(self.path.name, total=len(starts), unit="windows", brief=True) as bar:
            for start, end in zip(starts, ends, strict=True):
                picture = self.frame((start + end) / 2 / rate)
                yield Window(start / rate, end / rate, picture, fit_window(sound[start:end], count))
                bar.advance(1)
