"""The task's own protocol."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from avtool.features import inputs_of
from avtool.tasks import Evaluation
from avtool.tasks.context import Context
from avtool.tasks.table import CONTROL, FLOOR, MODEL, UNTRAINED, Row, Table
from loudness.train import decibels


def evaluate(context: Context, protocols: Sequence[str]) -> list[Table]:
    model, log_mel = context.load()
    untrained = context.untrained()

    def compute(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs = inputs_of(log_mel, batch)
        return {"model": model(*inputs), UNTRAINED: untrained(*inputs), "true": decibels(batch["waveform"])}

    found = context.each_clip(context.chosen, compute)
    if not context.world.main:
        return []
    true = found.pop("true")
    found["their mean"] = np.full_like(true, true.mean())
    roles = {"model": MODEL, UNTRAINED: CONTROL, "their mean": FLOOR}
    recordings = context.recordings(context.chosen)
    rows = [
        Row(name, roles[name], {"error": context.measured(np.abs(values - true), recordings, scale=1)})
        for name, values in found.items()
    ]
    words = "mean distance of decibels"
    return [
        context.table(
            task="loudness", protocol="decibels", words=words, unit="dB", rows=rows, recordings=recordings
        )
    ]


EVALUATION = Evaluation(("decibels",), evaluate)
