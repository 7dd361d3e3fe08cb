"""The sound of a clip or sound file: as one waveform at a model's rate, or as it is, every channel at its own rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from avtool.media.container import PREROLL, SILENT, TOO_SHORT, MediaFile, UnusableMedia

SOUND_GAP = 0.1  # seconds: a longer hole between the time stamps of two blocks of sound is kept as silence
CODEC_PADDING = 0.15  # seconds: codecs fill their last block with silence that is no part of the clip
SECONDS_NEEDED = 0.2


class Form(NamedTuple):
    """How sound is wanted: at ``rate`` samples a second and with the channels of ``layout``, None: as it comes."""

    rate: int | None
    layout: str | None = "mono"
    format: str = "s16"


AS_IT_IS = Form(None, None, "fltp")


@dataclass(frozen=True)
class Track:
    """``samples`` float32 (C, N), full scale 1.0, at ``rate`` samples a second; ``layout`` names the channels."""

    samples: np.ndarray
    rate: int
    layout: str


def read_waveform(
    path: Path, *, sample_rate: int = 16000, start: float = 0.0, end: float | None = None
) -> np.ndarray:
    """The sound of a clip or sound file from ``start`` to ``end`` seconds (None: the end): int16 (N,), all channels
    mixed to mono, at ``sample_rate``. Sound that begins later than the picture, and holes in it, are silence."""
    with MediaFile(path) as file:
        return hear(file, [Form(sample_rate)], start, end)[0].waveform(start, end)[0]


def hear(file: MediaFile, forms: Sequence[Form], start: float = 0.0, end: float | None = None) -> list[Sound]:
    """The sound of ``file`` from ``start`` to ``end`` seconds (None: the end), decoded once for all ``forms``.
    MediaError where it has none."""
    file.need(sound=True)
    with file.reading():
        for at_start in file.positions(start - PREROLL):
            sounds = [Sound(form, length=file.duration()) for form in forms]
            for frame in file.decoded(file.sound):
                time = file.time_of(frame, default=sounds[0].due)
                for sound in sounds:
                    sound.add(frame, time)
                if end is not None and sounds[0].due > end:
                    break
            if at_start or sounds[0].first <= start + SOUND_GAP:
                break
    return sounds


def refusal(waveform: np.ndarray, sample_rate: int) -> str | None:
    """Why sound int16 (N,) cannot be used, or None."""
    if len(waveform) < SECONDS_NEEDED * sample_rate:
        return TOO_SHORT
    if max(int(waveform.max()), -int(waveform.min())) <= 1:
        return SILENT
    return None


class Sound:
    """Gathers decoded sound in one form, every stretch of it where its time stamps put it."""

    def __init__(self, form: Form, *, length: float) -> None:
        self.wanted, self.length = form, length
        self.rate, self.layout = form.rate or 0, form.layout or ""
        self.due = 0.0  # seconds of the clip at which the next block is expected
        self.stretches: list[tuple[float, list[np.ndarray]]] = []
        self.form: tuple[int, str, str] | None = None
        self.fifo = av.AudioFifo()  # a second of sound is resampled at once
        self.resampler: av.AudioResampler | None = None

    @property
    def first(self) -> float:
        """Seconds of the clip at which the first block begins."""
        return self.stretches[0][0] if self.stretches else math.inf

    def add(self, frame: av.AudioFrame, time: float) -> None:
        """The next block, which begins at ``time``."""
        form = (frame.sample_rate, frame.layout.name, frame.format.name)
        self.rate, self.layout = self.rate or frame.sample_rate, self.layout or frame.layout.name
        hole = self.due + (SOUND_GAP if self.stretches else 0.0) < time <= self.length + 1.0
        if form != self.form or hole:
            self._flush()
            self.form = form
            self.fifo = av.AudioFifo()
            self.resampler = av.AudioResampler(self.wanted.format, self.layout, self.rate)
            if hole or not self.stretches:
                self.due = time if hole else min(time, self.due)
            self.stretches.append((self.due, []))
        frame.pts = None
        self.fifo.write(frame)
        if self.fifo.samples >= frame.sample_rate:
            self._resample(self.fifo.read())
        self.due += frame.samples / frame.sample_rate

    def _resample(self, frame: av.AudioFrame | None) -> None:
        assert self.resampler is not None
        resampled = self.resampler.resample(frame)
        self.stretches[-1][1].extend(out.to_ndarray() for out in resampled if out is not None)

    def _flush(self) -> None:
        if self.resampler is not None:
            if self.fifo.samples:
                self._resample(self.fifo.read())
            self._resample(None)
            self.resampler = None

    def waveform(self, start: float = 0.0, end: float | None = None) -> np.ndarray:
        """What was heard from ``start`` to ``end``, holes filled with silence: (C, N), int16 or float32 by its form."""
        self._flush()
        stop = self.length if 0 < self.due - self.length < CODEC_PADDING else self.due
        if end is not None:
            stop = min(stop, end)
        parts = [(at, np.concatenate(blocks, axis=1)) for at, blocks in self.stretches if blocks]
        kind = np.int16 if self.wanted.format == "s16" else np.float32
        channels = len(parts[0][1]) if parts else 1
        whole = np.zeros((channels, max(0, round((stop - start) * self.rate))), kind)
        for at, stretch in parts:
            begin = round((at - start) * self.rate)
            heard = stretch[:, max(0, -begin) :]
            begin = max(0, begin)
            room = max(0, whole.shape[1] - begin)
            whole[:, begin : begin + heard.shape[1]] = heard[:, :room]
        return whole

    def track(self, path: Path) -> Track:
        """All of it; MediaError, of ``path``, where there is nothing."""
        if not self.stretches:
            raise UnusableMedia(f"{path}: none of its sound can be decoded")
        return Track(self.waveform(), self.rate, self.layout)
