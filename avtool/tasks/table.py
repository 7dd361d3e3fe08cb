"""What an evaluation gives: tables whose numbers carry their protocol, their floor and how many samples there were."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from avtool.files import finite

MODEL, CONTROL, FLOOR, CEILING = "model", "control", "floor", "ceiling"
"""What a row stands for: the model itself, the same under a condition that should spoil it, a predictor that sees and
hears nothing, and the best that the protocol allows."""
UNTRAINED = "untrained weights"
"""The control that every protocol has: the same model as it is before training."""


@dataclass(frozen=True)
class Measure:
    """A number and its 95 % bootstrap interval, where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """One predictor's measures by name. ``role`` is one of MODEL, CONTROL, FLOOR, CEILING."""

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
        return finite(asdict(self))


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
