"""One reader of a clip of one's own, opened once: what it shows at a time, and what is heard with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from avtool import inputs, media
from avtool.errors import UsageError
from avtool.progress import progress_bar, warn

PICTURE, SOUND = "picture", "sound"
STALE, EARLY = 1.0, 0.1
"""Seconds after which it is said that a frame is not a new one: the picture may have ended before the sound; and before
which that there was none yet."""
UNSURE = "picture and sound may be apart, or parts of it at other times"
MIXED = {media.OPPOSITE: "they cancel, so the louder one is taken", media.ONE_SIDED: "it is left out"}


class Window(NamedTuple):
    """A stretch of a clip: ``times`` of its start and end in seconds, the frame in its middle as evaluation shows it,
    ``image`` uint8 (3, rows, columns), and its sound, ``waveform`` int16 (N,)."""

    times: tuple[float, float]
    image: np.ndarray
    waveform: np.ndarray


class Clip:
    """A video, or a picture with the sound file ``audio``, which with a video takes the place of its own sound.

    ``duration`` in seconds, as its header says (a picture's: its sound's); what it shows ends at ``end``, a picture
    never. MediaError or UsageError where it cannot be used, with ``way_out`` for a hint where no sound or picture can
    be given to it. With ``alone`` one that only shows or only sounds will do, for ``windows``: ``lacks`` says which
    it does without, and ``why``.
    """

    def __init__(
        self, path: Path, audio: Path | None = None, *, way_out: str | None = None, alone: bool = False
    ) -> None:
        media.check_file(path)
        self.path, self.sound_path = path, audio or path
        self.still: media.Picture | None = None
        self.alone, self.lacks, self.why = alone, "", ""
        self.said, self.timed = set[str](), list[media.MediaFile]()
        with ExitStack() as files:
            heard = None if audio is None else files.enter_context(media.MediaFile(audio))
            if heard is not None:
                heard.need(sound=True, hint="give another --audio")
            if media.is_picture(path):
                what = f"{path} is a picture and has no sound of its own"
                if heard is None and not alone:
                    raise UsageError(what, hint=way_out or "add --audio SOUND.wav")
                self.still = media.read_picture(path)
                if heard is None:
                    self.lacks, self.why, self.duration, self.end = SOUND, what, 0.0, math.inf
                    self._files = files.pop_all()
                    return
                self.file = heard
            else:
                self.file = files.enter_context(media.MediaFile(path))
                if alone and audio is None and not self.file.videos:
                    self.lacks, self.why = PICTURE, f"{path} has no picture"
                elif alone and audio is None and not self.file.sounds:
                    self.lacks, self.why = SOUND, f"{path} has no sound track"
                if self.lacks != PICTURE:
                    hint = way_out or f"give a picture with it: IMAGE --audio {path}"
                    self.file.need(video=True, hint=hint)
                if heard is None and self.lacks != SOUND:
                    hint = way_out or "give its sound as a file of its own: --audio WAV"
                    self.file.need(sound=True, hint=hint)
            self.heard = heard or self.file
            self.timed = list(dict.fromkeys([self.file, self.heard]))
            self.duration = self.file.duration()
            self._files = files.pop_all()
        self.end = self.duration if self.still is None and self.lacks != PICTURE else math.inf

    def __enter__(self) -> Clip:
        return self

    def __exit__(self, *_error: object) -> None:
        self._files.close()

    def time(self, at: float | None) -> float:
        """``at`` seconds, or for None the middle. MediaError where there is nothing then."""
        what = "frame" if self.still is None else "sound"
        return media.check_time(self.file.path, self.duration, at, what=what)

    def frame(self, time: float) -> media.Picture:
        """What is shown at ``time`` seconds: after its end the last frame."""
        return self._seen(self.still or media.find_frame(self.file, min(time, self.end)))

    def _seen(self, picture: media.Picture) -> media.Picture:
        self._say(
            *[f"{self.path} is HDR: it is seen as SDR, as prepare stores it with hdr=tonemap"] * picture.hdr
        )
        return picture

    def fresh_frame(self, time: float) -> media.Picture:
        """The same; it warns where what is shown appeared long before, or only after that."""
        picture = self.frame(time)
        if self.still is None and not -EARLY <= time - picture.time <= STALE:
            when = "after" if time > picture.time else "before"
            self._say(
                f"{self.path} has no new frame {when} {picture.time:.2f} s: what is seen at {time:.2f} s is that one"
            )
        return picture

    def _say(self, *warnings: str) -> None:
        """Give each of ``warnings`` once, and one of times that are uncertain."""
        unsure = [file for file in self.timed if file.uncertain]
        for said in [*warnings, *(f"{file.path} has uncertain time stamps: {UNSURE}" for file in unsure)]:
            if said not in self.said:
                self.said.add(said)
                warn(said)

    def frames(self, rate: float) -> Iterator[tuple[media.Picture, float]]:
        """What is shown ``rate`` times a second, from the first frame on, and when."""
        for picture, time in media.shown_frames(self.file, rate=rate):
            yield self._seen(picture), time

    def sound(self, start: float = 0.0, end: float | None = None, *, rate: int) -> np.ndarray:
        """What is heard from ``start`` to ``end`` seconds (None: the end): int16 (N,), mono."""
        sound = media.hear(self.heard, [media.Form(rate)], start, end)[0]
        waveform = sound.waveform(start, end)[0]
        self._say_mixed(sound)
        return waveform

    def _say_mixed(self, sound: media.Sound) -> None:
        self._say(*(f"{self.sound_path} has {what}: {MIXED[what]}" for what in sound.mixing))

    def whole_sounds(self, *forms: media.Form) -> list[media.Sound]:
        """All that is heard, in several forms from one pass."""
        sounds = media.hear(self.heard, forms)
        for sound in sounds:
            sound.finish()
            self._say_mixed(sound)
        return sounds

    def check_heard(self, waveform: np.ndarray, rate: int, *, hint: str) -> None:
        """MediaError with ``hint`` where in its sound int16 (N,) there is nothing to hear."""
        if reason := media.refusal(waveform, rate):
            raise media.UnusableMedia(f"{self.sound_path} has {reason}", reason=reason, hint=hint)

    def sound_around(self, time: float, *, count: int, rate: int) -> np.ndarray:
        """``count`` samples around ``time`` seconds, moved to lie inside the sound there is: int16 (count,). It warns
        where nothing is left of the window that ``time`` lies in; MediaError where there is nothing to hear."""
        length = self.heard.duration()
        first = inputs.window_around(round(time * rate), count, round(length * rate))
        waveform = self.sound(first / rate, (first + count) / rate, rate=rate)
        end = first + len(waveform)
        if len(waveform) < count and first > 0:  # the sound ends before the picture: take the last of it
            whole = self.sound(rate=rate)
            end, waveform = len(whole), whole[-count:]
        if reason := media.refusal(waveform, rate):
            what = f"{len(waveform) / rate:.1f} s of {reason}" if reason == media.SILENT else reason
            raise media.UnusableMedia(
                f"{self.sound_path} has {what} around {time:.2f} s",
                reason=reason,
                hint="choose another time with --at, or give a sound with --audio WAV",
            )
        if end < time * rate - count / 2:
            warn(
                f"{self.sound_path} has sound up to {end / rate:.1f} s: the frame at {time:.1f} s is judged by "
                f"the last of it (choose another time with --at)"
            )
        return inputs.fit_window(waveform, count)

    def windows(self, every: float | None, *, size: inputs.Size, count: int, rate: int) -> Iterator[Window]:
        """Windows of ``count`` samples, one at a time: one ``every`` so many seconds from the start and one at the end,
        or for None the one in the middle; sound that is shorter is reflected. MediaError where there is nothing to hear
        in all of it; a clip that may be ``alone`` is then silent, or black where it has no picture, which is said."""
        sound = np.zeros(0, np.int16) if self.lacks == SOUND else self.sound(rate=rate)
        if self.alone and not self.lacks and (reason := media.refusal(sound, rate)):
            self.lacks, self.why = SOUND, f"{self.sound_path} has {reason}"
        if self.lacks != SOUND:
            self.check_heard(sound, rate, hint="choose a clip with sound")
        else:
            sound = np.zeros(round(self.duration * rate) or count, np.int16)
        if self.lacks:
            warn(f"{self.why}: {self.path} is judged by its {({PICTURE, SOUND} - {self.lacks}).pop()} alone")
        middle = inputs.window_within(0.5, count, len(sound))
        starts = [middle] if every is None else inputs.window_starts(len(sound), count, every * rate)
        ends = [min(start + count, len(sound)) for start in starts]
        if (last := (starts[-1] + ends[-1]) / 2 / rate) > self.end:
            warn(
                f"{self.path} ends at {self.end:.2f} s: windows of {self.sound_path} up to {last:.2f} s see its last "
                "frame"
            )
        with progress_bar(self.path.name, total=len(starts), unit="windows", brief=True) as bar:
            for start, end in zip(starts, ends, strict=True):
                if self.lacks == PICTURE:
                    image = np.zeros((3, *inputs.as_pair(size)), np.uint8)
                else:
                    picture = self.fresh_frame((start + end) / 2 / rate)
                    image = inputs.shown(picture.rgb(inputs.SHORT_SIDE), size, inputs.centre_crop)
                yield Window((start / rate, end / rate), image, inputs.fit_window(sound[start:end], count))
                bar.advance(1)
