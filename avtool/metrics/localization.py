"""Localization: does a map point at what sounds? Protocol ``pointing``, its truth, and its controls."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from avtool.errors import DataError

EVALUATION_SIZE = (224, 224)
"""Rows and columns at which truth is drawn where nothing else is said."""


def boxes_to_mask(size: tuple[int, int], boxes: np.ndarray) -> np.ndarray:
    """The union of boxes (M, 4), x1, y1, x2, y2 as fractions of the frame, as a bool (rows, columns) mask.

    A pixel is inside where its centre is; no boxes give an empty mask.
    """
    rows, columns = size
    y, x = (np.arange(rows)[:, None] + 0.5) / rows, (np.arange(columns)[None] + 0.5) / columns
    mask = np.zeros(size, bool)
    for x1, y1, x2, y2 in np.asarray(boxes, np.float64).reshape(-1, 4):
        mask |= (x1 <= x) & (x < x2) & (y1 <= y) & (y < y2)
    return mask


def pointing_hits(maps: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Whether the highest cell of each map (B, rows, columns) lies inside its truth, bool (B, H, W): float64
    (B,).

    hit_b = mean over the cells c with P_b(c) = max P_b of G_b(centre of c): 1 or 0 where one cell is highest.
    Where several are, it is the chance that one drawn from them lies inside, so that a constant map gets its
    truth's share of the cells and no hit by luck. The maps may be of any resolution: bilinear upsampling leaves
    the highest place at a cell's centre (at the frame's edge it spreads it out to there). NaN where the truth is
    empty: leave such images out, and count them. ValueError for maps that are not finite or do not go with
    ``truth``.

    Source: the pointing game (Zhang et al., arXiv 1608.00507, section 4.2), without its tolerance of 15
    pixels.
    """
    maps, truth = np.asarray(maps), np.asarray(truth, bool)
    if maps.ndim != 3 or truth.ndim != 3 or len(maps) != len(truth):
        raise ValueError(f"maps {maps.shape} and truth {truth.shape} are not B maps and B masks")
    if not np.isfinite(maps).all():
        raise ValueError("a map holds values that are not finite")
    rows, columns = maps.shape[1:]
    height, width = truth.shape[1:]
    centre_row = (2 * np.arange(rows) + 1) * height // (2 * rows)
    centre_column = (2 * np.arange(columns) + 1) * width // (2 * columns)
    inside = truth[:, centre_row][:, :, centre_column]
    highest = maps == maps.max(axis=(1, 2), keepdims=True)
    hits = (inside & highest).sum(axis=(1, 2)) / highest.sum(axis=(1, 2))
    return np.where(truth.any(axis=(1, 2)), hits, np.nan)


def pointing(maps: np.ndarray, truth: np.ndarray) -> float:
    """Protocol ``pointing``: the mean of ``pointing_hits`` over the images whose truth is not empty, in 0 to
    1.

    NaN where there is no such image.
    """
    hits = pointing_hits(maps, truth)
    known = hits[~np.isnan(hits)]
    return float(known.mean()) if len(known) else float("nan")


def binomial_error(share: float, count: int) -> float:
    """Standard error of a share of ``count`` independent trials: sqrt(p (1 - p) / n)."""
    return float(np.sqrt(share * (1 - share) / count))


def centred_disc(size: tuple[int, int]) -> np.ndarray:
    """The blind control: a map float32 (rows, columns) that sees and hears nothing.

    1 - the distance from the centre, where the frame reaches from -1 to 1 along both sides: highest in the
    middle, and every level of it a disc (an ellipse, where the frame is not square).
    """
    y, x = ((2 * np.arange(side) + 1) / side - 1 for side in size)
    return (1 - np.hypot(y[:, None], x[None])).astype(np.float32)


def exchange_by_class(labels: Sequence[Collection[int]], *, seed: int) -> np.ndarray:
    """A fixed exchange of sounds: clip i gets the sound of clip ``result[i]``, which shares no label with it.

    ``labels`` holds each clip's class ids. The result is a permutation int64 (N,) without fixed points, a
    function of labels and seed: random, then repaired by swaps. DataError where a clip has no label or no
    such exchange is found (surely so where one class has more than half of the clips; with one label a clip,
    only then).
    """
    if unlabelled := sum(not own for own in labels):
        raise DataError(
            f"{unlabelled} of {len(labels)} clips have no label, so no sound is known to be of another class",
            hint="prepare the data with labels",
        )
    has = np.zeros((len(labels), 1 + max((max(own) for own in labels), default=0)), np.float32)
    for clip, own in enumerate(labels):
        has[clip, list(own)] = 1
    generator = np.random.default_rng(seed)
    sound = generator.permutation(len(labels))
    for clip in np.flatnonzero((has * has[sound]).any(axis=1)):
        fits = (has[sound] @ has[clip] == 0) & (has @ has[sound[clip]] == 0)
        if not fits.any():
            raise DataError(
                f"the sounds of these {len(labels)} clips cannot be exchanged between classes",
                hint="take clips of at least two classes, none of them with more than half of the clips",
            )
        other = generator.choice(np.flatnonzero(fits))
        sound[[clip, other]] = sound[[other, clip]]
    return sound
