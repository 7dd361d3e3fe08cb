"""Bootstrap intervals: how far would the number move with other samples of the same kind?

Percentile intervals (Efron 1979; Efron and Tibshirani 1993, chapter 13). Where several samples come from one
recording, whole recordings are drawn (the cluster bootstrap), because they do not vary on their own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

LEVEL = 0.95
DRAWS = 10_000
NUMBERS_AT_ONCE = 2**22


class Interval(NamedTuple):
    """An estimate with its interval ``low`` to ``high``, from ``samples`` in ``groups`` that were drawn together.

    The bounds are NaN where fewer than two groups leave nothing to draw from.
    """

    value: float
    low: float
    high: float
    samples: int
    groups: int


def bootstrap_mean(
    values: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Interval:
    """The mean of per-sample ``values`` (N,) and its percentile interval at ``level``.

    ``groups`` (N,), any values: samples of one group (a recording) are drawn together; without it each is its own. A
    drawn mean is the mean over the samples drawn. Values that are NaN are left out first (``samples`` says how many
    were used); a function of its arguments alone. ValueError for infinite values and lengths that differ.
    """
    values = np.asarray(values, np.float64)
    member, kept = _members(len(values), groups, ~np.isnan(values))
    values = values[kept]
    if np.isinf(values).any():
        raise ValueError("an infinite value has no bootstrap interval")
    if not len(values):
        return Interval(np.nan, np.nan, np.nan, 0, 0)
    sums, sizes = np.bincount(member, values), np.bincount(member)
    generator = np.random.default_rng(seed)
    means = np.empty(draws)
    rows = max(1, NUMBERS_AT_ONCE // len(sums))
    for start in range(0, draws, rows):
        drawn = generator.integers(len(sums), size=(len(means[start : start + rows]), len(sums)))
        means[start : start + rows] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return _interval(float(values.mean()), means, level, len(values), len(sums))


def bootstrap_difference(first: np.ndarray, second: np.ndarray, **how: Any) -> Interval:
    """The mean of ``first`` - ``second`` (N,), two models on the same samples, and its interval: paired.

    Where 0 lies outside, the one is better on such samples. Samples that are NaN in either are left out; ``how`` and
    the rest are ``bootstrap_mean``'s.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"values {first.shape} and {second.shape} are not of the same samples")
    return bootstrap_mean(first - second, **how)


def bootstrap_statistic(
    statistic: Callable[[np.ndarray], float],
    count: int,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
    draws: int = 1000,
    level: float = LEVEL,
) -> Interval:
    """Any number of a whole set (mAP, F) and its interval; ``statistic`` takes the chosen indices of ``count`` samples.

    It is called once for all of them and once a draw, with indices int64, some of them several times. Draws in which it
    is NaN (a class lost all its positives) are left out of the interval. For two models, give the difference of both.
    """
    member, _ = _members(count, groups, np.ones(count, bool))
    drawn_together = int(member.max()) + 1 if count else 0
    generator = np.random.default_rng(seed)
    every = np.arange(count)
    numbers = np.full(draws, np.nan)
    for draw in range(draws if drawn_together > 1 else 0):
        drawn = generator.integers(drawn_together, size=drawn_together)
        times = np.bincount(drawn, minlength=drawn_together)
        numbers[draw] = statistic(np.repeat(every, times[member]))
    value = float(statistic(every)) if count else np.nan
    return _interval(value, numbers[~np.isnan(numbers)], level, count, drawn_together)


def _members(count: int, groups: np.ndarray | None, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of each kept sample's group, 0 up without gaps, and which samples are kept."""
    if groups is None:
        return np.arange(int(kept.sum())), kept
    groups = np.asarray(groups)
    if groups.shape != (count,):
        raise ValueError(f"groups {groups.shape} are not one for each of {count} samples")
    return np.unique(groups[kept], return_inverse=True)[1], kept


def _interval(value: float, drawn: np.ndarray, level: float, samples: int, groups: int) -> Interval:
    if groups < 2 or not len(drawn):
        return Interval(value, np.nan, np.nan, samples, groups)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), samples, groups)
