"""What a reader of results wants to know of a data set: what its splits share, and what cannot be learned or heard.

A clip's sound and picture leave a fingerprint as it is prepared, by which the same ones are found again however they
were cut and encoded. Sound: pairs of peaks of the spectrogram, as Wang (ISMIR 2003) takes them; what they find is held
against the sounds themselves. Picture: where the mean of the frames grows lighter, to the right and downwards.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from avtool.data import names
from avtool.data.catalog import Row
from avtool.data.checks import MUTED, QUIET, STILL

if TYPE_CHECKING:
    from avtool.data.dataset import PreparedDataset

WINDOW_SECONDS, MOST_SECONDS = 0.064, 600
"""Of the spectrogram, half of which is its step; and how much of a long sound is looked at."""
LOWEST, HIGHEST = 8, 360
"""Its bins of 1 / 0.064 Hz: 125 Hz to 5.6 kHz, which every codec keeps."""
AROUND = np.ones((11, 21), np.uint8)
"""Steps and bins in which a peak is the highest."""
PAIRED, FURTHEST, KEPT = 3, 64, 128
"""A peak is paired with so many that follow, at most so many steps away; so many pairs are kept of a clip."""
QUIET_PEAK = 2.0
"""Of 32768, times the window: what is quieter is no peak."""
MIXER = np.uint32(2654435761)
SIDE, LIGHTER = 16, 2
"""Cells of a picture's fingerprint along a side; grey levels of a difference that is one."""
COMMON = 32
"""What more clips have in common says nothing."""
MOST_COMPARED = 20_000
SAME_SOUND, SAME_SOUND_RATE, SAME_PICTURE, LEAST_BITS = 0.8, 4000, 0.75, 24
"""Correlation of sounds at 4 kHz, share of the differences of pictures that both have, and how many these must be."""
ENOUGH_SECONDS, ENOUGH = 1.0, 0.8
"""How long two sounds overlap at least, or which share of the shorter one."""
SHOWN = 100


class Fingerprint(NamedTuple):
    """``sound`` uint32 (K, 2): pairs of peaks, and the step each begins at; ``picture`` uint8 (64,): 512 bits."""

    sound: np.ndarray
    picture: np.ndarray

    def to_bytes(self) -> bytes:
        return self.picture.tobytes() + self.sound.astype("<u4").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Fingerprint:
        size = 2 * SIDE * SIDE // 8
        return cls(np.frombuffer(data[size:], "<u4").reshape(-1, 2), np.frombuffer(data[:size], np.uint8))


def fingerprint_of(waveform: np.ndarray, sample_rate: int, frames: Sequence[np.ndarray]) -> Fingerprint:
    """The fingerprint of sound int16 (N,) and of frames as ``checks.cells``."""
    return Fingerprint(_of_sound(waveform[: MOST_SECONDS * sample_rate], sample_rate), _of_picture(frames))


def _of_sound(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    window = _window(sample_rate)
    sound = np.zeros(max(window, len(waveform)), np.float32)
    sound[: len(waveform)] = waveform
    steps = np.lib.stride_tricks.sliding_window_view(sound, window)[:: window // 2]
    spectrum = cv2.dft(steps * np.hanning(window).astype(np.float32), flags=cv2.DFT_ROWS)
    end = 2 * min(HIGHEST, window // 2) - 1  # real and imaginary parts by turns, after the mean
    powers = np.square(spectrum[:, 2 * LOWEST - 1 : end : 2]) + np.square(spectrum[:, 2 * LOWEST : end : 2])
    loud = powers > (QUIET_PEAK * window) ** 2
    peaks = loud & (powers == cv2.dilate(powers, AROUND))
    times, bins = np.divmod(np.flatnonzero(peaks), peaks.shape[1])  # np.nonzero takes ten times as long
    pairs = [np.zeros((0, 2), np.uint32)]
    for ahead in range(1, PAIRED + 1):
        distance = times[ahead:] - times[:-ahead]
        code = bins[:-ahead] // 2 << 15 | bins[ahead:] // 2 << 6 | distance
        pairs.append(np.stack([code, times[:-ahead]], axis=1)[distance < FURTHEST].astype(np.uint32))
    every = np.concatenate(pairs)
    every = every[np.unique(every[:, 0], return_index=True)[1]]
    # drawn by lot, which falls on the same pairs of a copy
    return every[np.argsort(every[:, 0] * MIXER, kind="stable")[:KEPT]]


def _window(sample_rate: int) -> int:
    """Samples of the spectrogram's window."""
    return cv2.getOptimalDFTSize(round(WINDOW_SECONDS * sample_rate))


def _of_picture(frames: Sequence[np.ndarray]) -> np.ndarray:
    mean = np.asarray(np.mean(np.stack(frames), axis=0), np.float32)
    small = cv2.resize(mean, (SIDE + 1, SIDE + 1), interpolation=cv2.INTER_AREA)
    right, down = np.diff(small[:SIDE], axis=1), np.diff(small[:, :SIDE], axis=0)
    return np.packbits(np.stack([right, down]) > LIGHTER)


def audit(
    dataset: PreparedDataset,
    source: Sequence[Row],
    numbers: Sequence[int],
    fingerprints: Sequence[Fingerprint],
    flags: Mapping[str, int],
) -> dict[str, Any]:
    """What report.json says under ``audit`` of a whole ``dataset``, whose clips are the rows ``numbers`` of ``source``
    and have these ``fingerprints``; ``flags`` counts them by flag.

    ``in_several_splits``: of ``recording``, ``sound`` and ``picture`` how many ``clips`` of each split share theirs
    with one of another split, and ``examples``, lists of ids; ``classes_without_training_clips`` (none where no split
    is to train on); ``share`` of the clips that are still, quiet or muted.
    """
    rows = [source[number] for number in numbers]
    recordings = defaultdict(list)
    for i, row in enumerate(rows):
        recordings[row.recording or row.id].append(i)
    splits = np.unique([row.split for row in rows], return_inverse=True)[1]
    bands = [_bands(each.picture) for each in fingerprints]
    shared: dict[str, Iterable[Sequence[int]]] = {
        "recording": recordings.values(),
        "sound": _twins([each.sound for each in fingerprints], splits, partial(_same_sound, dataset)),
        "picture": _twins(bands, splits, partial(_same_picture, fingerprints)),
    }
    return {
        "in_several_splits": {what: _listed(groups, rows) for what, groups in shared.items()},
        "classes_without_training_clips": _untrained(dataset.classes, source, rows),
        "share": {flag: flags.get(flag, 0) / len(rows) for flag in (STILL, QUIET, MUTED)},
    }


def _listed(groups: Iterable[Sequence[int]], rows: Sequence[Row]) -> dict[str, Any]:
    """Of ``groups`` of clips those that are of several splits."""
    several = [group for group in groups if len({rows[i].split for i in group}) > 1]
    clips = Counter(rows[i].split for i in {i for group in several for i in group})
    one_of_each = [{rows[i].split: rows[i].id for i in reversed(group)} for group in several[:SHOWN]]
    return {"clips": dict(sorted(clips.items())), "examples": [sorted(ids.values()) for ids in one_of_each]}


def _untrained(classes: Sequence[str], source: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """Classes that rows of ``source`` have, but none of the ``rows`` to train on that gave a clip."""
    trained = {label for row in rows if names.role(row.split) == "train" for label in row.labels}
    known = {label for row in source for label in row.labels} - trained if trained else set()
    return [name for name in classes if name in known]


def _twins(
    codes: Sequence[np.ndarray], splits: np.ndarray, same: Callable[[int, int, int], bool]
) -> list[tuple[int, int]]:
    """Clips of different splits that are the ``same``, in pairs: of those that have two or more codes in common at one
    lag, most of all first, and each only until it is found. ``codes`` (K, 2) of each clip: codes, and their steps."""
    owners = np.repeat(np.arange(len(codes)), [len(own) for own in codes])
    every = np.concatenate(codes).astype(np.int64)
    order = np.argsort(every[:, 0], kind="stable")
    code, step, owner = every[order, 0], every[order, 1], owners[order]
    _, place, count = np.unique(code, return_inverse=True, return_counts=True)
    rare = count[place] <= COMMON
    code, step, owner = code[rare], step[rare], owner[rare]
    found = [np.zeros((0, 3), np.int64)]
    for ahead in range(1, min(COMMON, len(code))):
        first, second = owner[:-ahead], owner[ahead:]
        both = (code[:-ahead] == code[ahead:]) & (splits[first] != splits[second])
        found.append(np.stack([first, second, step[:-ahead] - step[ahead:]], axis=1)[both])
    key, lags = np.concatenate(found), 4 * int(MOST_SECONDS / WINDOW_SECONDS)
    pairs, counts = np.unique(
        (key[:, 0] * len(codes) + key[:, 1]) * lags + key[:, 2] + lags // 2, return_counts=True
    )
    strongest = np.argsort(-counts, kind="stable")[: min(MOST_COMPARED, int((counts > 1).sum()))]
    known: set[int] = set()
    twins = []
    for pair in pairs[strongest].tolist():
        (first, second), lag = divmod(pair // lags, len(codes)), pair % lags - lags // 2
        if not known.issuperset((first, second)) and same(first, second, lag):
            known |= {first, second}
            twins.append((first, second))
    return twins


def _same_sound(dataset: PreparedDataset, first: int, second: int, lag: int) -> bool:
    """Whether two clips' sounds, the first ``lag`` steps later, are one: by their correlation where they overlap."""
    rate = dataset.sample_rate
    step, thinned = _window(rate) // 2, max(1, rate // SAME_SOUND_RATE)
    ends = [
        dataset.waveform(i, max(0, at) * step, MOST_SECONDS * rate)
        for i, at in ((first, lag), (second, -lag))
    ]
    size = min(map(len, ends)) // thinned
    shorter = min(dataset.record(i).samples for i in (first, second))
    if size * thinned < min(ENOUGH_SECONDS * rate, ENOUGH * shorter):
        return False
    taken = np.full(thinned, 1 / thinned, np.float32)
    means = [end[: size * thinned].reshape(size, thinned) @ taken for end in ends]
    x, y = (mean - mean.mean() for mean in means)
    highest = np.abs(np.correlate(np.pad(x, step // thinned + 1), y)).max()
    return bool(0 < SAME_SOUND * np.sqrt((x @ x) * (y @ y)) <= highest)


def _bands(picture: np.ndarray) -> np.ndarray:
    """A picture's bits as codes (K, 2) of 16 of them each; where none is set there is nothing to tell."""
    values = picture.view("<u2").astype(np.uint32)
    codes = np.arange(len(values), dtype=np.uint32) << 16 | values
    return np.stack([codes, np.zeros_like(codes)], axis=1)[values > 0]


def _same_picture(fingerprints: Sequence[Fingerprint], first: int, second: int, _lag: int) -> bool:
    a, b = (np.unpackbits(fingerprints[i].picture) for i in (first, second))
    either = int((a | b).sum())
    return either >= LEAST_BITS and int((a & b).sum()) >= SAME_PICTURE * either
