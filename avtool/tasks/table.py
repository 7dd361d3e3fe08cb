"""What an evaluation gives: tables whose numbers carry their protocol, their floor and how many samples there were."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from avtool.files import finite

MODEL, CONTROL, FLOOR, CEILING, DIFFERENCE = "model", "control", "floor", "ceiling", "difference"
"""What a row stands for: the model itself, the same under a condition that should spoil it, a predictor that sees and
hears nothing, the best that the protocol allows, and what one model gets more than another on the same samples."""
UNTRAINED = "untrained weights"
"""The control that every protocol has: the same model as it is before training."""


class Sampled(NamedTuple):
    """What a number is made of: of samples that come from ``recordings`` (N,) the mean of their ``values`` (N,), or,
    from so many ``draws``, a ``statistic`` of the samples chosen."""

    recordings: Sequence[str]
    values: np.ndarray | None = None
    statistic: Callable[[np.ndarray], float] | None = None
    draws: int = 0


@dataclass(frozen=True)
class Measure:
    """A number and its 95 % bootstrap interval, where there is one; ``of`` what, for differences."""

    value: float
    low: float | None = None
    high: float | None = None
    of: Sampled | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Row:
    """One predictor's measures by name. ``role`` is one of MODEL, CONTROL, FLOOR, CEILING, DIFFERENCE."""

    name: str
    role: str
    measures: Mapping[str, Measure]


@dataclass(frozen=True)
class Table:
    """Results of one ``protocol`` on ``data``, a data set and its part: ``words`` says its rule in a line, ``unit`` is
    %, dB or nothing.

    ``samples`` were used, from ``recordings`` recordings (which intervals resample); ``left_out`` counts the others by
    reason; ``seed`` drew what was drawn. ``notes`` are sentences that belong under the table. ``group``: the column by
    whose values clips were judged apart, and the value of these ({}: all were judged together); where the protocol can
    judge none of them, there are no rows.
    """

    task: str
    protocol: str
    words: str
    unit: str
    rows: Sequence[Row]
    samples: int
    recordings: int
    seed: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    data: str = ""
    group: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; a number that is not finite is null."""
        kept = asdict(self, dict_factory=lambda pairs: {name: value for name, value in pairs if name != "of"})
        return finite(kept)


def measure_in_words(measure: Mapping[str, Any] | None, unit: str, *, stacked: bool = False) -> str:
    """A number with its interval (``stacked``: below it) of a ``Measure``, as dict."""
    if measure is None or measure["value"] is None or math.isnan(measure["value"]):
        return ""
    digits = 1 if unit == "%" else 2
    text = f"{measure['value']:z.{digits}f}"
    low, high = measure["low"], measure["high"]
    if low is None or high is None or math.isnan(low):
        return text
    low, high = f"{low:z.{digits}f}", f"{high:z.{digits}f}"
    return f"{text}\n[{low},{high}]" if stacked else f"{text} [{low}, {high}]"
