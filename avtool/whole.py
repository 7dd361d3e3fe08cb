"""A whole clip, from its first frame to its last: what a model sees and hears of it, and the video of what it finds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from avtool.clip import Clip
from avtool.errors import UsageError
from avtool.inputs import fit_window, window_around
from avtool.media import Form, Picture, fitted, write_clip
from avtool.predict import Chosen
from avtool.progress import warn

FASTEST = 15
"""Frames a second of a written video at most: of a faster one, every second, third, ... is taken."""
VIDEO = ".mp4"
AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
"""Sample rates that AAC has; sound of another one is resampled to the first of them above it."""


class Shown(NamedTuple):
    """What a clip shows at ``time`` seconds: ``frame`` uint8 (H, W, 3) RGB of even sides, and ``view`` uint8 (3, rows,
    columns), the whole of it squeezed to the model's size."""

    frame: np.ndarray
    view: np.ndarray
    time: float


class WholeClip:
    """``clip`` for the model ``chosen``. Its sound is in memory: ``sound`` int16 (N,) as the model hears it, and
    ``kept`` int16 (M,) at ``kept_rate``, for the video. MediaError where there is nothing to hear or to see."""

    def __init__(self, clip: Clip, chosen: Chosen) -> None:
        self.clip, self.chosen = clip, chosen
        self.count, self.rate = chosen.config.window, chosen.config.rate
        self.kept_rate = aac_rate(clip)
        sounds = clip.whole_sounds(Form(self.rate), Form(self.kept_rate))
        self.sound, self.kept = (one.waveform()[0] for one in sounds)
        clip.check_heard(self.sound, self.rate, hint="give another sound with --audio WAV")
        clip.fresh_frame(clip.time(None))
        self.last = 0.0

    def frames(self, rate: float) -> Iterator[Shown]:
        """What it shows ``rate`` times a second, as ``even_frames`` gives it."""
        for picture, frame, time in even_frames(self.clip, rate):
            self.last = time
            yield Shown(frame, self.chosen.view(picture), time)

    def heard(self, time: float, sound: np.ndarray | None = None) -> np.ndarray:
        """The window around ``time`` seconds of its own or another ``sound`` int16 (N,), moved to lie inside it."""
        sound = self.sound if sound is None else sound
        start = window_around(round(time * self.rate), self.count, len(sound))
        return fit_window(sound[start : start + self.count], self.count)

    def fps(self) -> float:
        """Frames a second of its video."""
        return slower(self.clip.file.frame_rate())

    def write(self, out: Path, pictures: Iterable[np.ndarray], *, start: float) -> None:
        """The video ``out`` of ``pictures`` uint8 (H, W, 3) RGB, ``fps`` a second from ``start`` seconds on, with the
        clip's own sound as one channel."""
        write_clip(out, pictures, fps=self.fps(), waveform=self.kept, sample_rate=self.kept_rate, start=start)

    def names(self) -> dict[str, str]:
        """What an .npz about it says: where ``clip``, ``sound`` (the same where it is the clip's own) and ``model``
        lie."""
        named = {"clip": self.clip.path, "sound": self.clip.sound_path, "model": self.chosen.checkpoint}
        return {name: str(path.absolute()) for name, path in named.items()}

    def say_where_sound_ends(self) -> None:
        """Warn where frames that were shown come after the last of the sound."""
        if len(self.sound) < self.last * self.rate - self.count / 2:
            half = self.count / self.rate / 2
            warn(
                f"{self.clip.sound_path} has sound up to {len(self.sound) / self.rate:.1f} s: frames more than "
                f"{half:.1f} s after that are judged by the last of it"
            )


def even_frames(
    clip: Clip, rate: float, short_side: int | None = None
) -> Iterator[tuple[Picture, np.ndarray, float]]:
    """What ``clip`` shows ``rate`` times a second: the picture, its frame uint8 (H, W, 3) with a short side of at most
    ``short_side``, and when. All are of the first one's size, without a last row or column that would make it odd,
    which H.264 does not take."""
    size: tuple[int, int] | None = None
    for picture, time in clip.frames(rate):
        frame = picture.rgb(short_side)
        size = size or frame.shape[1::-1]
        height, width = (side - side % 2 for side in size[::-1])
        yield picture, fitted(frame, size)[:height, :width], time


def aac_rate(clip: Clip) -> int:
    """The sample rate that ``clip``'s sound is kept at in a video."""
    own = clip.heard.sound.sample_rate if clip.heard.sound is not None else 0
    return next((known for known in AAC_RATES if known >= own), AAC_RATES[-1])


def check_moves(clip: Clip, out: Path) -> None:
    """UsageError for a picture, where ``out`` is of a whole clip."""
    if clip.still is not None:
        raise UsageError(
            f"{clip.path} is a picture, and --out {out} is of a whole clip",
            hint=f"--out {out.with_suffix('.png')}",
        )


def slower(fps: float) -> float:
    """``fps`` over the smallest whole number that brings it to ``FASTEST`` or below; that where it is unknown."""
    return fps / math.ceil(fps / FASTEST) if fps > 0 else FASTEST
