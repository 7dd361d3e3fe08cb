"""How long a recipe trains, how its batches are passed, and how fast it learns at each step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from avtool.config.schema import Recipe
from avtool.data.loader import steps_per_epoch
from avtool.optim import cosine_schedule, pretrained_ramp

WORK_TOGETHER = 64 * 192 * 6
"""Clips x width x depth up to which small batches of a step make one pass on a CPU."""


@dataclass(frozen=True)
class Schedule:
    """How long a recipe trains on so many clips, and how fast it learns at each step.

    A step is ``accumulate`` batches, of which ``together`` make one pass.
    """

    passes_per_epoch: int
    accumulate: int
    together: int
    max_steps: int
    warmup_steps: int
    ramp_steps: int
    peak_rate: float

    @classmethod
    def of(cls, recipe: Recipe, clips: int, device: torch.device, *, whole: bool = False) -> Schedule:
        """``whole``: each batch is a pass of its own, because its samples are related to each other."""
        passes = max(1, steps_per_epoch(clips, recipe.train.batch_size))
        accumulate = recipe.train.accumulate
        steps = recipe.max_steps or math.ceil((recipe.epochs or 0) * passes / accumulate)
        return cls(
            passes_per_epoch=passes,
            accumulate=accumulate,
            together=1 if whole else batches_in_a_pass(recipe, device),
            max_steps=steps,
            warmup_steps=round(recipe.optim.warmup * steps),
            ramp_steps=round(recipe.optim.pretrained_ramp * steps),
            peak_rate=recipe.optim.base_lr * recipe.train.batch_size * accumulate / 256,
        )

    def rate(self, step: int) -> float:
        """Learning rate of step ``step``, counted from 0."""
        return self.peak_rate * cosine_schedule(
            step, max_steps=self.max_steps, warmup_steps=self.warmup_steps
        )

    def ramp(self, step: int) -> float:
        """Multiplier of it for parts that start from weights."""
        return pretrained_ramp(step, ramp_steps=self.ramp_steps)

    def epochs(self, steps: int) -> float:
        """Passes over the data after ``steps`` steps."""
        return steps * self.accumulate / self.passes_per_epoch


def batches_in_a_pass(recipe: Recipe, device: torch.device) -> int:
    """How many of a step's batches make one pass: one, but on a CPU as many small ones as keep its cores busy."""
    accumulate = recipe.train.accumulate
    work = recipe.train.batch_size * recipe.model.dim * recipe.model.depth
    if device.type != "cpu":
        return 1
    return max(
        count
        for count in range(1, accumulate + 1)
        if accumulate % count == 0 and (count == 1 or count * work <= WORK_TOGETHER)
    )
