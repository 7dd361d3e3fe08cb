"""The sound of a clip or sound file as one waveform."""

from __future__ import annotations

import math
from pathlib import Path

import av
import numpy as np

from avtool.media.container import PREROLL, open_clip, starts

SOUND_GAP = 0.1  # seconds: a longer hole between the time stamps of two blocks of sound is kept as silence
CODEC_PADDING = 0.15  # seconds: codecs fill their last block with silence that is no part of the clip


def read_waveform(
    path: Path, *, sample_rate: int = 16000, start: float = 0.0, end: float | None = None
) -> np.ndarray:
    """The sound of a clip or sound file as int16 (N,): all channels mixed to mono, resampled to
    ``sample_rate``.

    From ``start`` to ``end`` (None: the end), in seconds of the clip. Sound that begins later than the
    picture, and holes in it, are filled with silence.
    """
    for begin in starts(start - PREROLL):
        with open_clip(path, start=begin) as clip:
            clip.need(sound=True)
            sound = Sound(sample_rate, length=clip.duration())
            for frame in clip.decoded_sound():
                sound.add(frame, clip.time_of(frame, default=sound.due))
                if end is not None and sound.due > end:
                    break
            waveform = sound.waveform(start, end)
            if begin == 0 or sound.first <= start + SOUND_GAP:
                break
    return waveform


class Sound:
    """Gathers decoded sound as int16 mono at one rate, every stretch of it where its time stamps put it."""

    def __init__(self, rate: int, *, length: float) -> None:
        self.rate, self.length = rate, length
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
        hole = self.due + (SOUND_GAP if self.stretches else 0.0) < time <= self.length + 1.0
        if form != self.form or hole:
            self._flush()
            self.form = form
            self.fifo = av.AudioFifo()
            self.resampler = av.AudioResampler(format="s16", layout="mono", rate=self.rate)
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
        self.stretches[-1][1].extend(out.to_ndarray().reshape(-1) for out in resampled if out is not None)

    def _flush(self) -> None:
        if self.resampler is not None:
            if self.fifo.samples:
                self._resample(self.fifo.read())
            self._resample(None)
            self.resampler = None

    def waveform(self, start: float, end: float | None) -> np.ndarray:
        """What was heard from ``start`` to ``end``, holes filled with silence: int16 (N,)."""
        self._flush()
        stop = self.length if 0 < self.due - self.length < CODEC_PADDING else self.due
        if end is not None:
            stop = min(stop, end)
        whole = np.zeros(max(0, round((stop - start) * self.rate)), np.int16)
        for at, blocks in self.stretches:
            stretch = np.concatenate([np.zeros(0, np.int16), *blocks])
            begin = round((at - start) * self.rate)
            stretch = stretch[max(0, -begin) :]
            begin = max(0, begin)
            room = max(0, len(whole) - begin)
            whole[begin : begin + len(stretch)] = stretch[:room]
        return whole
