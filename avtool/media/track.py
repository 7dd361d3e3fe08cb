"""The sound of a clip as it is: every channel, at its own rate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from avtool.media.container import open_clip
from avtool.media.sound import CODEC_PADDING, SOUND_GAP
from avtool.media.unusable import UNDECODABLE, UnusableMedia


@dataclass(frozen=True)
class Track:
    """``samples`` float32 (C, N), full scale 1.0, at ``rate`` samples a second; ``layout`` names the channels."""

    samples: np.ndarray
    rate: int
    layout: str


def read_track(path: Path, *, like: Track | None = None) -> Track:
    """All channels of the sound of a clip or sound file, in time with ``read_waveform``: sound that begins late and
    holes in it are filled with silence. With ``like``, at that one's rate and with its channels. MediaError where there
    is no sound to be had."""
    with open_clip(path) as clip:
        clip.need(sound=True)
        length, due = clip.duration(), 0.0
        gathered: _Gathered | None = None
        for frame in clip.decoded_sound():
            time = clip.time_of(frame, default=due)
            if gathered is None:
                rate, layout = (like.rate, like.layout) if like else (frame.sample_rate, frame.layout.name)
                gathered = _Gathered(rate, layout)
                due = time if time <= length + 1.0 else 0.0
                gathered.begin(due)
            elif due + SOUND_GAP < time <= length + 1.0:
                due = time
                gathered.begin(due)
            gathered.add(frame)
            due += frame.samples / frame.sample_rate
    if gathered is None:
        raise UnusableMedia(f"{path}: none of its sound can be decoded", reason=UNDECODABLE)
    stop = length if 0 < due - length < CODEC_PADDING else due
    return Track(gathered.until(stop), gathered.rate, gathered.layout)


class _Gathered:
    """Blocks of sound in stretches without holes, of one rate and layout."""

    def __init__(self, rate: int, layout: str) -> None:
        self.rate, self.layout = rate, layout
        self.stretches: list[tuple[float, list[np.ndarray]]] = []
        self.form: tuple[int, str, str] | None = None
        self.resampler: av.AudioResampler | None = None

    def begin(self, time: float) -> None:
        """A stretch that begins at ``time`` seconds."""
        self._flush()
        self.stretches.append((time, []))

    def add(self, frame: av.AudioFrame) -> None:
        """The next block of the stretch."""
        form = (frame.sample_rate, frame.layout.name, frame.format.name)
        if form != self.form:
            self._flush()
        if self.resampler is None:
            self.form = form
            self.resampler = av.AudioResampler(format="fltp", layout=self.layout, rate=self.rate)
        frame.pts = None
        self._take(frame)

    def _take(self, frame: av.AudioFrame | None) -> None:
        assert self.resampler is not None
        self.stretches[-1][1].extend(
            out.to_ndarray() for out in self.resampler.resample(frame) if out is not None
        )

    def _flush(self) -> None:
        if self.resampler is not None:
            self._take(None)
            self.resampler = None

    def until(self, stop: float) -> np.ndarray:
        """All of it from 0 to ``stop`` seconds: float32 (C, N)."""
        self._flush()
        parts = [
            (round(time * self.rate), np.concatenate(blocks, axis=1))
            for time, blocks in self.stretches
            if blocks
        ]
        whole = np.zeros((len(parts[0][1]) if parts else 1, max(0, round(stop * self.rate))), np.float32)
        for begin, stretch in parts:
            end = min(begin + stretch.shape[1], whole.shape[1])
            if end > max(0, begin):
                whole[:, max(0, begin) : end] = stretch[:, max(0, -begin) : end - begin]
        return whole
