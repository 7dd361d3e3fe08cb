"""What can be wrong with a clip: reasons to refuse it, and flags on one that is prepared all the same.

Refused: no sound track, no video, undecodable (see ``media``), digital silence (no sample of more than 1 of
32768), less than 0.2 s of sound, a mask of another size than its frame, a start after the clip's end, and a
clip that brought down the process that decoded it, or held it beyond the time limit, twice.

Flagged: *still picture* (at least half of the stored frames repeat the one before them: no cell of 64 x 64
differs by more than 8 of 255 grey levels), *short* (less sound than the settings' window, 3 s), *quiet* (RMS
under -50 dBFS), *muted in part* (1 s or more under -60 dBFS, in blocks of 50 ms), *damaged in part* (packets
that did not decode), *sound and picture of different length* (ends more than 0.5 s apart), *header and
decoded length disagree* (by more than 0.5 s), *picture begins late* and *sound begins late* (by more than 0.1 s),
*uncertain times* (time stamps restart, stray far, or are those of decoding), *opposite channels* (they cancel: the
loudest was taken), *silent channel* (left out of the mixture), *clipped* (more than 0.1 % of the samples at full
scale), *hdr* (PQ or HLG, made SDR unless the settings say otherwise), *soft mask, cut at half* and *mask in colours,
all taken as one* (see ``media.read_mask``), *duplicate id* (a row above has the same), *label not in the class list*,
*ends after the clip's end* (the row, by more than 0.5 s: what there is of it is prepared).
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import cv2
import numpy as np

from avtool.data.catalog import Row
from avtool.media import HDR, SECONDS_NEEDED, SILENT, TOO_SHORT, DecodedClip, refusal  # noqa: F401 - what is refused is listed here

MASK_SIZE = "mask of another size than its frame"
MISSING = "no such file"
BEYOND = "starts after the clip's end"
CRASHED = "crashed its worker"
TOO_LONG = "took too long"
FAILED = "could not be converted"

STILL = "still picture"
SHORT = "short"
QUIET = "quiet"
MUTED = "muted in part"
DAMAGED = "damaged in part"
UNEVEN = "sound and picture of different length"
HEADER = "header and decoded length disagree"
PICTURE_LATE, SOUND_LATE = "picture begins late", "sound begins late"
UNCERTAIN = "uncertain times"
CUT = "ends after the clip's end"
CLIPPED = "clipped"
DUPLICATE = "duplicate id"
UNKNOWN_LABEL = "label not in the class list"

STILL_SIDE, STILL_LEVELS = 64, 8
"""Two frames are the same where no cell of 64 x 64 differs by more than 8 grey levels: codec noise."""
STILL_SECONDS = 0.5
"""Frames of a video closer to each other are not compared: much that moves is nearly the same after 40 ms."""
QUIET_DBFS = -50.0
"""RMS over the clip, relative to full scale."""
MUTED_DBFS, MUTED_SECONDS, MUTED_BLOCK = -60.0, 1.0, 0.05
"""A second or more of blocks of 50 ms, all below -60 dBFS, is a muted part."""
STRETCH = 1000
"""Blocks of sound that are looked at together."""
LENGTH_SECONDS = 0.5
"""Lengths that differ by more than this are different: codecs pad by up to 0.15 s, a last frame lasts some time."""

LATE_SECONDS = 0.1
CLIPPED_SHARE = 1e-3


def row_flags(rows: Iterable[Row], classes: Sequence[str]) -> list[list[str]]:
    """Of DUPLICATE and UNKNOWN_LABEL what holds for each row of a source."""
    seen: set[str] = set()
    known, none = set(classes), list[str]()  # one list for all rows of which there is nothing to say
    flags = []
    for row in rows:
        found = [DUPLICATE] if row.id in seen else none
        flags.append(found if known.issuperset(row.labels) else [*found, UNKNOWN_LABEL])
        seen.add(row.id)
    return flags


def time_flags(clip: DecodedClip) -> list[str]:
    """Of UNEVEN, HEADER, PICTURE_LATE, SOUND_LATE and UNCERTAIN what holds for a clip."""
    sound, picture = clip.sound_seconds, clip.picture_seconds
    found = {
        UNEVEN: abs(sound - picture) > LENGTH_SECONDS,
        HEADER: abs(max(sound, picture) - clip.header_seconds) > LENGTH_SECONDS,
        PICTURE_LATE: clip.picture_begins > LATE_SECONDS,
        SOUND_LATE: clip.sound_begins > LATE_SECONDS,
        UNCERTAIN: clip.uncertain,
    }
    return [flag for flag, holds in found.items() if holds]


def sound_flags(waveform: np.ndarray, sample_rate: int, window_seconds: float) -> list[str]:
    """Of SHORT, QUIET, MUTED and CLIPPED what holds for sound int16 (N,)."""
    block = round(MUTED_BLOCK * sample_rate)
    powers = block_powers(waveform, block)
    whole = len(waveform) // block
    flags = []
    if len(waveform) < window_seconds * sample_rate:
        flags.append(SHORT)
    if dbfs(powers.sum() * block / len(waveform)) < QUIET_DBFS:
        flags.append(QUIET)
    if longest_run(dbfs(powers[:whole]) < MUTED_DBFS) * MUTED_BLOCK >= MUTED_SECONDS - 1e-9:
        flags.append(MUTED)
    full = np.count_nonzero(waveform == 32767) + np.count_nonzero(waveform <= -32767)
    if full > CLIPPED_SHARE * len(waveform):
        flags.append(CLIPPED)
    return flags


def block_powers(waveform: np.ndarray, block: int) -> np.ndarray:
    """Mean square of each ``block`` of int16 (N,), full scale 1.0, the last one filled with zeros: float64
    (blocks,)."""
    powers = []
    for start in range(0, len(waveform), STRETCH * block):  # hours of sound are not held a second time
        stretch = waveform[start : start + STRETCH * block].astype(np.float32) / 32768
        stretch = np.pad(stretch, (0, -len(stretch) % block)).reshape(-1, block)
        powers.append(np.mean(np.square(stretch), axis=1, dtype=np.float64))
    return np.concatenate(powers)


def dbfs(power: np.ndarray | np.floating) -> np.ndarray:
    """A mean square in dB relative to full scale (1.0)."""
    return 10 * np.log10(power + 1e-12)


def longest_run(values: np.ndarray) -> int:
    """Length of the longest stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], values.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def is_still(frames: Sequence[np.ndarray]) -> bool:
    """Whether at least half of the frames, as ``cells``, repeat the one before them: one frame, slides, a lyric
    card."""
    same = [cv2.absdiff(a, b).max() <= STILL_LEVELS for a, b in pairwise(frames)]
    return 2 * sum(same) >= len(same)


def cells(frame: np.ndarray) -> np.ndarray:
    """Frame uint8 (H, W, 3) RGB as the grey levels of its cells: uint8 (64, 64)."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    if min(height, width) >= 2 * STILL_SIDE:  # halves are quick to take, but for an odd row or column
        grey = grey[: height // 2 * 2, : width // 2 * 2]
        grey = cv2.resize(grey, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return cv2.resize(grey, (STILL_SIDE, STILL_SIDE), interpolation=cv2.INTER_AREA)
