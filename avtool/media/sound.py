"""The sound of a clip or sound file: as one waveform at a model's rate, or as it is, every channel at its own rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, NamedTuple, cast

import av
import numpy as np

from avtool.media.container import PREROLL, SILENT, TOO_SHORT, MediaFile, UnusableMedia

SOUND_GAP = 0.1  # seconds: sound that begins so much after what was sought has gone by
APART = 2e-3  # seconds: stamps that are farther from the count of samples may be right
IN_A_ROW = 6  # blocks that must be so for sound to be placed anew; fewer are strays
CODEC_PADDING = 0.15  # seconds: codecs fill their last block with silence that is no part of the clip
SECONDS_NEEDED = 0.2
OPPOSITE, ONE_SIDED = "opposite channels", "silent channel"
SHARES = {"FL": 2**0.5, "FR": 2**0.5, "FC": 2.0, "LFE": 0.0}
"""What FFmpeg mixes to mono, relative to a rear or side channel."""
SILENCE, CANCELLED = 1e-6, 0.2
"""Power of a silent channel in that of the loudest; power of a mixture in that of channels that do not cancel."""


IN_MEMORY = 1 << 26
"""Bytes of a sound that is kept on disk, from which on it is."""


class Form(NamedTuple):
    """How sound is wanted: at ``rate`` samples a second and with the channels of ``layout``, None: as it comes. With a
    folder ``spool``, what is gathered is not held in memory, but in a file there, which has no name."""

    rate: int | None
    layout: str | None = "mono"
    format: str = "s16"
    spool: Path | None = None


LONGEST_HOLE = 3 * 3600.0
"""Seconds: longer holes would take more memory than there is, and are not in any clip."""
AS_IT_IS = Form(None, None, "flt")


def refuse_hole(path: Path, begins: float, ends: float, what: str) -> None:
    """UnusableMedia where ``path`` has no ``what`` from ``begins`` to ``ends``, in seconds, for too long."""
    if ends - begins > LONGEST_HOLE:
        hours = f"{ends / 3600:.0f} h without {what}"
        said = f"{path} has {hours} by its time stamps, which cannot be right"
        raise UnusableMedia(said, hint="write it anew: ffmpeg -i IN -c copy OUT")


class _Block(NamedTuple):
    """``size`` samples of each channel, and how to get at them: an array a channel."""

    size: int
    planes: Callable[[], Iterable[np.ndarray]]


class _Spool:
    """Blocks in a file, which is gone when nothing refers to it any more."""

    def __init__(self, folder: Path) -> None:
        self.file = SpooledTemporaryFile(IN_MEMORY, dir=str(folder))  # noqa: SIM115 - as long as its sound

    def put(self, planes: Sequence[np.ndarray]) -> _Block:
        block = np.stack(planes)
        place, size, kind, shape = self.file.seek(0, 2), block.nbytes, block.dtype, block.shape
        self.file.write(block.tobytes())

        def read() -> np.ndarray:
            self.file.seek(place)
            return np.frombuffer(self.file.read(size), kind).reshape(shape)

        return _Block(shape[1], read)


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
            sounds = [Sound(form, length=file.duration(), path=file.path) for form in forms]
            for frame, time in file.decoded(file.sound):
                for sound in sounds:
                    sound.add(frame, time)
                if end is not None and sounds[0].due > end:
                    break
            if at_start or sounds[0].first <= start + SOUND_GAP:
                break
    return sounds


def resampled(waveform: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Sound int16 (N,) at ``rate`` samples a second as int16 (M,) at ``wanted``."""
    if rate == wanted:
        return waveform
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(waveform[None]), "s16", "mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler("s16", "mono", wanted)
    blocks = [
        out.to_ndarray()[0] for part in (frame, None) for out in resampler.resample(part) if out is not None
    ]
    return np.concatenate(blocks)[: round(len(waveform) * wanted / rate)]


def refusal(waveform: np.ndarray, sample_rate: int) -> str | None:
    """Why sound int16 (N,) cannot be used, or None."""
    if len(waveform) < SECONDS_NEEDED * sample_rate:
        return TOO_SHORT
    if max(int(waveform.max()), -int(waveform.min())) <= 1:
        return SILENT
    return None


class Sound:
    """Gathers decoded sound in one form, every stretch of it where its time stamps put it.

    ``mixing`` names what was decided in mixing to mono: OPPOSITE, the louder one of channels that cancel was taken;
    ONE_SIDED, channels that are silent all the time were left out. ``power``: of each channel.
    """

    def __init__(self, form: Form, *, length: float, path: Path) -> None:
        self.wanted, self.length, self.path = form, length, path
        self.rate, self.layout = form.rate or 0, form.layout or ""
        self.due = 0.0  # seconds of the clip at which the next block is expected
        self.waiting: list[tuple[av.AudioFrame, float]] = []  # blocks whose place is not settled yet
        self.mixing: list[str] = []
        self.power, self.shares = np.zeros(1), np.ones(1)
        self.taken = 0  # the channel that was heard in place of all, where they cancel
        self.stretches: list[tuple[float, list[_Block]]] = []
        self.channels = 1
        self.spool = _Spool(form.spool) if form.spool is not None else None
        self.form: tuple[int, str, str] | None = None
        self.fifo = av.AudioFifo()  # a second of sound is resampled at once
        self.resampler: av.AudioResampler | None = None

    @property
    def first(self) -> float:
        """Seconds of the clip at which the first block begins."""
        return self.stretches[0][0] if self.stretches else math.inf

    def add(self, frame: av.AudioFrame, time: float | None) -> None:
        """The next block, which begins at ``time`` seconds, None: after the one before it."""
        due = self.due if self.stretches or not self.waiting else self.waiting[0][1]
        if self.waiting:
            due += sum(_seconds(block) for block, _ in self.waiting)
        time = due if time is None else time
        if abs(time - due) > APART or not self.stretches:
            self.waiting.append((frame, time))
            if len(self.waiting) >= IN_A_ROW:
                self._settle()
            return
        if self.waiting:  # they were strays
            for block, _ in self.waiting:
                self._write(block)
            self.waiting.clear()
        self._write(frame)

    def _settle(self) -> None:
        """Decide where the first of the blocks that wait belongs, and add the others again."""
        waiting, self.waiting = self.waiting, []
        first, times = waiting[0][0], [time for _, time in waiting]
        spent = np.cumsum([0.0, *(_seconds(block) for block, _ in waiting[:-1])])
        if not self.stretches:
            self.due = times[0]
            if len(times) > 1 and times[1] < times[0] + spent[1] - APART:
                self.due = times[0] = times[1] - spent[1]  # the first one strays
        off = np.array(times) - self.due - spent
        sign = 1 if off[0] > 0 else -1
        steady = len(off) > 1 and (sign * (off - off[0]) > -APART).all()
        if not self.stretches or (steady and abs(off[0]) > APART):  # a hole, an overlap, or drift
            alike = np.abs(off - off[0]) <= APART
            self._begin(self.due + float(np.median(off[: len(off) if alike.all() else int(alike.argmin())])))
        elif len(off) > 1 and np.abs(off).min() > np.ptp(off):  # the same with jitter
            self._begin(self.due + float(np.median(off)))
        self._write(first)
        for block, time in waiting[1:]:
            self.add(block, time)

    def _begin(self, time: float) -> None:
        refuse_hole(self.path, self.due if self.stretches else 0.0, time, "sound")
        self._flush()
        self.due, self.form = time, None
        self.stretches.append((time, []))

    def _write(self, frame: av.AudioFrame) -> None:
        """The next block, at ``due``."""
        form = (frame.sample_rate, frame.layout.name, frame.format.name)
        if form != self.form:
            self.rate, self.layout = self.rate or frame.sample_rate, self.layout or frame.layout.name
            if self.form is not None:
                self._begin(self.due)
            self.form = form
            self.fifo = av.AudioFifo()
            self.resampler = av.AudioResampler(self.wanted.format, self.layout, self.rate)
        frame.pts = None
        self.fifo.write(frame)
        if self.fifo.samples >= frame.sample_rate:
            self._resample(self.fifo.read())
        self.due += _seconds(frame)

    def _resample(self, frame: av.AudioFrame | None) -> None:
        assert self.resampler is not None
        if frame is not None and self.wanted.layout == "mono" and frame.layout.nb_channels > 1:
            frame = self._audible(frame)
        for out in self.resampler.resample(frame):
            if out is not None:
                planes = _planes(out)
                self.channels = len(planes)
                block = self.spool.put(planes) if self.spool else _Block(out.samples, partial(list, planes))
                self.stretches[-1][1].append(block)

    def _audible(self, frame: av.AudioFrame) -> av.AudioFrame:
        """The block with its loudest channel in all others that are heard where they cancel."""
        count = frame.layout.nb_channels
        if frame.format.is_planar and count >= 8:  # PyAV reads past the end of so many planes
            packer = av.AudioResampler(frame.format.packed.name, frame.layout.name, frame.sample_rate)
            frame = packer.resample(frame)[0]
        planes = _planes(frame)
        floats = [plane.astype(np.float32, copy=False) for plane in planes]
        if planes[0].dtype == np.uint8:
            floats = [plane - 128 for plane in floats]
        # of two channels a seventh of the time of floats @ floats.T
        both = np.array([[np.dot(one, other) for other in floats] for one in floats])
        power = both.diagonal()
        if len(self.power) != count:
            self.power, self.taken = np.zeros(count), 0
            names = [channel.name for channel in frame.layout.channels]
            if "FL" not in names and count in (6, 8):  # unnamed: FFmpeg takes them to be in the usual order
                names[:4] = SHARES
            self.shares = np.array([SHARES.get(name, 1.0) for name in names])
        self.power += power
        if self.shares @ both @ self.shares >= CANCELLED * (power @ self.shares**2):
            return frame
        self._decided(OPPOSITE)
        if power[self.taken] < power.max() / 2:
            self.taken = int(power.argmax())
        heard = (power > SILENCE * power.max())[:, None]
        same = np.where(heard, planes[self.taken], planes)
        same = same if frame.format.is_planar else same.T.reshape(1, -1)
        mixed = av.AudioFrame.from_ndarray(np.ascontiguousarray(same), frame.format.name, frame.layout.name)
        mixed.sample_rate = frame.sample_rate
        return mixed

    def _decided(self, what: str) -> None:
        if what not in self.mixing:
            self.mixing.append(what)

    def _gain(self) -> float:
        """What makes up for channels that are silent all the time."""
        heard = self.shares[self.power > SILENCE * self.power.max()].sum()
        if not 0 < heard < self.shares.sum():
            return 1.0
        self._decided(ONE_SIDED)
        return self.shares.sum() / heard

    def _flush(self) -> None:
        if self.resampler is not None:
            if self.fifo.samples:
                self._resample(self.fifo.read())
            self._resample(None)
            self.resampler = None

    def finish(self) -> None:
        """Place what still waits, once all blocks were added: ``mixing`` and ``count`` are settled then."""
        while self.waiting:
            self._settle()
        self._flush()
        self._gain()

    @property
    def count(self) -> int:
        """Samples of each channel of the whole ``waveform``."""
        self.finish()
        return round(self._end() * self.rate)

    def _end(self) -> float:
        return self.length if 0 < self.due - self.length < CODEC_PADDING else self.due

    def waveform(self, start: float = 0.0, end: float | None = None) -> np.ndarray:
        """What was heard from ``start`` to ``end``, holes filled with silence: (C, N), int16 or float32 by its form."""
        self.finish()
        stop = self._end() if end is None else min(self._end(), end)
        return self._from(start, 0, max(0, round((stop - start) * self.rate)))

    def samples(self, first: int, last: int) -> np.ndarray:
        """Samples ``first`` to ``last`` of the whole ``waveform``, and silence beyond its end: (C, last - first)."""
        found = self._from(0.0, first, last)
        found[:, max(0, self.count - first) :] = 0
        return found

    def _from(self, start: float, first: int, last: int) -> np.ndarray:
        """Samples ``first`` to ``last``, counted from ``start`` seconds on."""
        kind = np.int16 if self.wanted.format == "s16" else np.float32
        whole = np.zeros((self.channels, last - first), kind)
        for at, blocks in self.stretches:
            begin = round((at - start) * self.rate) - first
            for size, planes in blocks:
                low, high = max(0, -begin), min(size, whole.shape[1] - begin)
                if low < high:
                    for row, plane in zip(whole, planes(), strict=True):
                        row[begin + low : begin + high] = plane[low:high]
                begin += size
        if (gain := self._gain()) > 1:
            louder = whole * gain
            whole = (np.clip(louder.round(), -32767, 32767) if kind is np.int16 else louder).astype(kind)
        return whole


def _planes(frame: av.AudioFrame) -> list[np.ndarray]:
    """What a frame holds, channel by channel."""
    if frame.format.name == "fltp":  # as most codecs give it: read where it lies
        return [np.frombuffer(cast(Any, plane), np.float32)[: frame.samples] for plane in frame.planes]
    samples = frame.to_ndarray()
    return list(samples if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels).T)


def _seconds(frame: av.AudioFrame) -> float:
    return frame.samples / frame.sample_rate
