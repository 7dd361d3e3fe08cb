"""What the objects sound like: one model of the physics for each kind.

Every maker takes a generator and the clip's number of samples and yields waves, float64, 16 kHz, mono, of any
loudness, each with the moment in seconds at which it starts; ``source`` adds them up, sets loudness and fades the ends.
"""

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np

SAMPLE_RATE = 16000
Note = tuple[float, np.ndarray]
PEAK = 0.5  # no single source is louder than this, so that two of them never clip
_FADE = SAMPLE_RATE // 100
_PENTATONIC = np.array([0, 2, 4, 7, 9, 12])  # in semitones
_VOWELS = np.array(
    [(730, 1090, 2440), (530, 1840, 2480), (280, 2250, 2900), (500, 880, 2410), (320, 870, 2240)]
)
_TURNS = 8
# The mean of two neighbours, taken so many times.
_AVERAGES = {n: np.array([math.comb(n, k) for k in range(n + 1)]) / 2**n for n in (1, _TURNS)}
# A membrane's modes are the zeros of the Bessel functions; a bell's are called hum, prime, tierce, quint, nominal, ...
_MEMBRANE = np.array([1, 1.594, 2.136, 2.296, 2.653, 2.918, 3.156, 3.501, 3.6])
_BELL = np.array([0.5, 1, 1.19, 1.5, 2, 2.51, 2.66, 3.01, 4.17, 5.43])


def source(kind: str, rng: np.random.Generator, samples: int) -> np.ndarray:
    """The sound of one object of ``kind``: float32 (samples,), peak at most ``PEAK``, fading in and out."""
    wave = _mixed(MAKERS[kind](rng, samples), samples)
    wave -= wave.mean()
    rms = np.sqrt(wave @ wave / samples) + 1e-12
    wave *= min(10 ** (rng.uniform(-27, -20) / 20) / rms, PEAK / (max(wave.max(), -wave.min()) + 1e-12))
    fade = np.arange(_FADE) / _FADE
    wave[:_FADE] *= fade
    wave[-_FADE:] *= fade[::-1]
    return wave.astype(np.float32)


def _seconds(length: float) -> np.ndarray:
    return np.arange(max(1, round(length * SAMPLE_RATE))) / SAMPLE_RATE


def _onsets(rng: np.random.Generator, samples: int, low: float, high: float) -> Iterator[float]:
    """Moments in seconds, ``low`` to ``high`` apart, from shortly after the start to the end."""
    at = rng.uniform(0.02, min(0.35, high))
    while at < samples / SAMPLE_RATE - 0.05:
        yield at
        at += rng.uniform(low, high)


def _mixed(notes: Iterable[Note], samples: int) -> np.ndarray:
    wave = np.zeros(samples)
    for at, note in notes:
        start = round(at * SAMPLE_RATE)
        heard = note[: max(0, samples - start)]
        wave[start : start + len(heard)] += heard
    return wave


def _resonant(wave: np.ndarray, floor: float, *peaks: tuple[float, float, float]) -> np.ndarray:
    """``wave`` through zero-phase resonances (centre and width in Hz, level) above a flat ``floor``.

    The gain of one is ``level`` at its centre, and has half the power at width / 2 beside it.
    """
    return np.fft.irfft(np.fft.rfft(wave) * _gain(len(wave), floor, *peaks), len(wave))


def _gain(samples: int, floor: float, *peaks: tuple[float, float, float]) -> np.ndarray:
    """The gain of ``_resonant`` at each frequency of a spectrum."""
    gain = np.full(samples // 2 + 1, float(floor))
    for at, width, level in peaks:
        beside = (_frequencies(samples) - at) * (2 / width)
        beside *= beside
        beside += 1
        gain += np.divide(level, np.sqrt(beside, out=beside), out=beside)
    return gain


@lru_cache(4)
def _frequencies(samples: int) -> np.ndarray:
    return np.fft.rfftfreq(samples, 1 / SAMPLE_RATE)


def _drift(rng: np.random.Generator, samples: int, rate: float) -> np.ndarray:
    """A smooth random walk of mean 0 that moves about ``rate`` times a second: (samples,), about -1..1."""
    knots = rng.uniform(-1, 1, max(3, int(samples / SAMPLE_RATE * rate) + 3))
    at = np.linspace(0, len(knots) - 1.001, samples)
    left = at.astype(int)
    bend = 0.5 - 0.5 * np.cos(np.pi * (at - left))
    return knots[left] + np.diff(knots)[left] * bend


def _modes(length: float, frequencies: np.ndarray, amplitudes: np.ndarray, decays: np.ndarray) -> np.ndarray:
    """Decaying partials below 7.6 kHz; ``decays`` are times to 1/e in seconds.

    z^(256 a + b) = z^(256 a) z^b: the sum over partials of all samples is one product of two small matrices.
    """
    samples, heard = round(length * SAMPLE_RATE), frequencies < 7600
    power = (2j * np.pi * frequencies[heard] - 1 / decays[heard]) / SAMPLE_RATE
    coarse = np.exp(np.outer(np.arange(0, samples, 256), power)) * amplitudes[heard]
    fine = np.exp(np.outer(power, np.arange(256)))
    return (coarse @ fine).imag.ravel()[:samples]


def _averaged(wave: np.ndarray, width: int) -> np.ndarray:
    """Running mean over ``width`` samples (odd) around each."""
    total = np.cumsum(np.pad(wave, (width // 2 + 1, width // 2), "edge"))
    return (total[width:] - total[:-width]) / width


def guitar(rng: np.random.Generator, samples: int) -> Iterator[Note]:
    """Karplus-Strong: a burst of noise runs round a delay line whose averaging filter is the loss."""
    notes, base = [], rng.uniform(98, 260)
    loss, soft, body = rng.uniform(0.992, 0.997), rng.integers(1, 5), rng.uniform(90, 130)
    for at in _onsets(rng, samples, 0.22, 0.6):
        period = round(SAMPLE_RATE / (base * 2 ** (rng.choice(_PENTATONIC) / 12)))
        length = round(rng.uniform(0.8, 1.6) * SAMPLE_RATE)
        size = min(length + period, samples - round(at * SAMPLE_RATE))  # what is heard of it
        string = np.zeros(size + 1)
        burst = np.convolve(rng.uniform(-1, 1, period), np.ones(soft) / soft, "same")
        plucked = round(period * rng.uniform(0.12, 0.3))
        string[1 : period + 1] = burst - np.roll(burst, plucked)
        start = period + 1
        while start < len(string):  # eight turns at once as soon as there are eight to start from
            turns = _TURNS if start >= _TURNS * (period + 1) else 1
            stop, taps = min(start + turns * period, len(string)), loss**turns * _AVERAGES[turns]
            past = string[start - turns * period - turns : stop - turns * period]
            string[start:stop] = np.convolve(past, taps, "valid")
            start = stop
        fade = np.minimum(1, np.arange(length + period)[::-1][:size] / 400)
        notes.append((at, string[1:] * fade * rng.uniform(0.6, 1)))
    yield 0, _resonant(_mixed(notes, samples), 0.6, (body, 60, 1), (2.1 * body, 90, 0.6))


def pan_pipes(rng: np.random.Generator, samples: int) -> Iterator[Note]:
    """Stopped pipes: odd harmonics with a slow start, and the breath as noise round the pipe's resonances."""
    base, breath = rng.uniform(380, 720), rng.uniform(0.15, 0.4)
    at = rng.uniform(0.0, 0.2)
    while at < samples / SAMPLE_RATE - 0.2:
        length, pitch = rng.uniform(0.45, 1.1), base * 2 ** (rng.choice(_PENTATONIC) / 12)
        t = _seconds(length)
        envelope = (1 - np.exp(-t / rng.uniform(0.03, 0.07))) * np.minimum(1, t[::-1] / 0.08)
        wobble = 0.004 * np.sin(2 * np.pi * rng.uniform(4.5, 6) * t) * np.minimum(1, t / 0.3)
        phase = 2 * np.pi * pitch * np.cumsum(1 + wobble) / SAMPLE_RATE
        sine, square = np.sin(phase), np.square(np.cos(phase))  # the harmonics as polynomials of these
        third, fifth = 4 * square - 1, (16 * square - 12) * square + 1
        tone = sine * (1 + 0.22 * third + 0.06 * fifth) + 0.06 * np.sin(2 * phase)
        noise = _resonant(rng.normal(size=len(t)), 0.04, (pitch, 200, 1), (3 * pitch, 500, 0.5))
        yield at, envelope * (tone + breath * 3 * noise) * rng.uniform(0.7, 1)
        at += length + rng.uniform(0, 0.12)


def bell(rng: np.random.Generator, samples: int) -> Iterator[Note]:
    """A struck bell: inharmonic partials in beating pairs, the high ones gone first."""
    base = rng.uniform(320, 900)
    ratios = _BELL * rng.uniform(0.99, 1.01, len(_BELL))
    frequencies = base * np.concatenate([ratios, ratios * rng.uniform(1.001, 1.004, len(ratios))])
    ring = rng.uniform(0.7, 1.6)
    for at in _onsets(rng, samples, 0.7, 1.6):
        amplitudes = np.tile(rng.uniform(0.4, 1, len(ratios)) / np.sqrt(ratios + 0.5), 2)
        strike = _modes(2.5, frequencies, amplitudes, ring / np.tile(ratios + 0.4, 2))
        yield at, strike * rng.uniform(0.6, 1)


def drum(rng: np.random.Generator, samples: int) -> Iterator[Note]:
    """A membrane: modes at the zeros of the Bessel functions, soon damped, and the noise of the stroke."""
    base, beat = rng.uniform(75, 170), rng.uniform(0.16, 0.3)
    rattle, ring = rng.uniform(0.1, 0.5), rng.uniform(0.1, 0.25)
    pattern = np.append(1.0, rng.random(7) * (rng.random(7) < 0.65))
    for j, at in enumerate(np.arange(rng.uniform(0.02, 0.2), samples / SAMPLE_RATE, beat)):
        if not (strength := pattern[j % 8]):
            continue
        amplitudes = rng.uniform(0.3, 1, len(_MEMBRANE)) / _MEMBRANE
        stroke = _modes(0.6, base * _MEMBRANE, amplitudes, ring / np.sqrt(_MEMBRANE))
        t = _seconds(0.25)
        stroke[: len(t)] += rng.normal(size=len(t)) * (rattle * np.exp(-t / 0.05) + 0.6 * np.exp(-t / 0.004))
        yield at, stroke * strength


def kettle(rng: np.random.Generator, samples: int) -> Iterator[Note]:
    """Steam: turbulent noise that hisses in a broad band, sputtering."""
    centre, width = rng.uniform(2800, 5000), rng.uniform(1500, 3500)
    noise = rng.normal(size=samples)
    bands = (centre * 0.85, width, 1), (centre * 1.25, width, 1)
    spectrum = np.fft.rfft(noise)
    low, high = (np.fft.irfft(spectrum * _gain(samples, 0, band) ** 2, samples) for band in bands)
    sweep = 0.5 + 0.5 * _drift(rng, samples, 1.5)
    sputter = np.exp(0.9 * _drift(rng, samples, rng.uniform(8, 20)) + 0.7 * _drift(rng, samples, 1.5))
    yield 0, (low * (1 - sweep) + high * sweep) * sputter


def bird(rng: np.random.Generator, samples: int) -> Iterator[Note]:
    """Phrases of one syllable said again and again: a swept whistle, some with a trill."""
    for at in _onsets(rng, samples, 0.7, 1.3):
        length, gap, count = rng.uniform(0.05, 0.14), rng.uniform(0.02, 0.07), int(rng.integers(3, 8))
        start, stop = rng.uniform(2300, 5600, 2)
        trill = rng.choice([0, 1]) * rng.uniform(150, 500)
        t = _seconds(length)
        part = t / t[-1]
        bend = rng.uniform(-1200, 1200) * 4 * part * (1 - part)
        sweep = np.clip(start + (stop - start) * part + bend, 1800, 7000) + trill * np.sin(2 * np.pi * 45 * t)
        phase = 2 * np.pi * np.cumsum(sweep) / SAMPLE_RATE
        tone = np.sin(phase) + 0.08 * np.sin(2 * phase) * (sweep.max() < 3900)
        syllable = np.sin(np.pi * part) ** 0.7 * tone
        for j in range(count):
            swell = 0.6 + 0.4 * np.sin(np.pi * (j + 1) / (count + 1))
            yield at + j * (length + gap), syllable * swell


def singer(rng: np.random.Generator, samples: int) -> Iterator[Note]:
    """A voice: glottal pulses (Rosenberg's shape) through the formants of vowels that melt together."""
    base, size = rng.uniform(105, 300), rng.uniform(0.95, 1.2)
    beats = np.cumsum(np.append(0.0, rng.uniform(0.3, 0.7, 16)))
    t = np.arange(samples) / SAMPLE_RATE
    note = np.clip(np.searchsorted(beats, t, "right") - 1, 0, 15)
    glide = _averaged(rng.choice(_PENTATONIC, 16)[note].astype(float), 801)
    vibrato = 0.3 * np.sin(2 * np.pi * rng.uniform(4.8, 6.2) * t + rng.uniform(0, 6))
    phase = np.cumsum(base * 2 ** ((glide + vibrato - 4) / 12)) / SAMPLE_RATE % 1
    opening = 0.5 - 0.5 * np.cos(np.pi * phase / 0.4)
    closing = np.cos(np.pi / 2 * np.clip((phase - 0.4) / 0.2, 0, 1))
    flow = np.where(phase < 0.4, opening, closing)
    pulses = np.diff(flow, prepend=0) + 0.004 * rng.normal(size=samples)
    sung = rng.integers(len(_VOWELS), size=16)[note]
    out, spectrum = np.zeros(samples), np.fft.rfft(pulses)
    for v in np.unique(sung):
        formants = zip(_VOWELS[v] * size, (90, 110, 170), (1, 0.6, 0.35), strict=True)
        heard = np.fft.irfft(spectrum * _gain(samples, 0.01, *formants), samples)
        out += heard * _averaged((sung == v).astype(float), 1201)
    since = t - beats[note]
    yield 0, out * np.minimum(1, 0.15 + since / 0.06)


def car(rng: np.random.Generator, samples: int) -> Iterator[Note]:
    """An engine: a train of uneven exhaust pulses, rate following the revs, through the pipe's resonances."""
    idle, pipe = rng.uniform(24, 42), rng.uniform(90, 160)
    revs = 0.8 * np.abs(_drift(rng, samples, rng.uniform(0.6, 1.4))) + 0.02 * _drift(rng, samples, 12)
    turns = np.cumsum(idle * 2**revs) / SAMPLE_RATE
    strength = rng.uniform(0.6, 1, 4)[turns.astype(int) % 4]
    pulses = strength * np.exp(-(turns % 1) * rng.uniform(7, 12))
    rough = pulses * rng.normal(size=samples) * rng.uniform(0.3, 0.7)
    yield 0, _resonant(pulses + rough, 0, (pipe, 80, 1), (3 * pipe, 160, 0.5), (0, 2400, 0.12))


def tap(rng: np.random.Generator, samples: int) -> Iterator[Note]:
    """Drops: each closes a bubble that rings like a mass on a spring and rises in pitch."""
    slow = rng.uniform(0.12, 0.3)
    for at in _onsets(rng, samples, 0.5 * slow, 1.6 * slow):
        pitch, decay = rng.uniform(550, 1900), rng.uniform(0.012, 0.04)
        t = _seconds(0.2)
        phase = 2 * np.pi * pitch * (t + rng.uniform(1.0, 4.0) * t**2)
        bubble = np.sin(phase) * np.exp(-t / decay) * np.minimum(1, t / 0.002)
        splash = rng.normal(size=len(t)) * np.exp(-t / 0.0015) * rng.uniform(0.05, 0.3)
        strength = rng.uniform(0.4, 1)
        yield at, splash * strength
        yield at + rng.uniform(0.008, 0.03), bubble * strength


def clock(rng: np.random.Generator, samples: int) -> Iterator[Note]:
    """A clockwork: evenly spaced ticks and tocks, each the short ring of small metal parts in a case."""
    period = rng.uniform(0.2, 0.4)
    case, parts = rng.uniform(250, 600, 2), rng.uniform(1800, 6500, (2, 5))
    for j, at in enumerate(np.arange(rng.uniform(0.02, period), samples / SAMPLE_RATE, period)):
        frequencies = np.append(parts[j % 2], case[j % 2])
        amplitudes = np.append(rng.uniform(0.4, 1, 5), 0.5)
        tick = _modes(0.08, frequencies, amplitudes, np.append(rng.uniform(0.002, 0.006, 5), 0.015))
        yield at, tick
        yield at + 0.012, 0.4 * tick


MAKERS = {f.__name__: f for f in (guitar, pan_pipes, bell, drum, kettle, bird, singer, car, tap, clock)}
