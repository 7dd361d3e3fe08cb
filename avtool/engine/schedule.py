"""How long a recipe trains, how its batches are merged, and how fast it learns at each step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from avtool.config.schema import Recipe
from avtool.data.loader import steps_per_epoch
from avtool.optim import backbone_warmup, cosine_schedule

MERGED_WORK = 64 * 192 * 6
"""Clips x width x depth up to which small batches of a step are merged on a CPU."""


@dataclass(frozen=True)
class Schedule:
    """How long a recipe trains on so many clips, and how fast it learns at each step.

    A step is ``accumulate`` batches, of which ``merged`` go through the model as one.
    """

    batches_per_epoch: int
    accumulate: int
    merged: int
    max_steps: int
    warmup_steps: int
    ramp_steps: int
    peak_rate: float

    @classmethod
    def of(cls, recipe: Recipe, clips: int, device: torch.device, *, merge_batches: bool = True) -> Schedule:
        """``merge_batches``: false where BatchNorm tells a merged batch from the batches in it."""
        batches = max(1, steps_per_epoch(clips, recipe.train.batch_size))
        accumulate = recipe.train.accumulate
        steps = recipe.max_steps or math.ceil((recipe.epochs or 0) * batches / accumulate)
        return cls(
            batches_per_epoch=batches,
            accumulate=accumulate,
            merged=batches_merged(recipe, device) if merge_batches else 1,
            max_steps=steps,
            warmup_steps=round(recipe.optim.warmup * steps),
            ramp_steps=round(recipe.optim.backbone_warmup * steps),
            peak_rate=recipe.optim.base_lr * recipe.train.batch_size * accumulate / 256,
        )

    @property
    def micro_steps(self) -> int:
        """Forward and backward passes in a step."""
        return self.accumulate // self.merged

    def rate(self, step: int) -> float:
        """Learning rate of step ``step``, counted from 0."""
        return self.peak_rate * cosine_schedule(
            step, max_steps=self.max_steps, warmup_steps=self.warmup_steps
        )

    def ramp(self, step: int) -> float:
        """Multiplier of it for parts that start from weights."""
        return backbone_warmup(step, ramp_steps=self.ramp_steps)

    def epochs(self, steps: int) -> float:
        """How often the data were gone through after ``steps`` steps."""
        return steps * self.accumulate / self.batches_per_epoch


def batches_merged(recipe: Recipe, device: torch.device) -> int:
    """How many of a step's batches are merged: one, but on a CPU as many small ones as keep its cores busy."""
    accumulate = recipe.train.accumulate
    work = recipe.train.batch_size * recipe.model.dim * recipe.model.depth
    if device.type != "cpu":
        return 1
    return max(
        count
        for count in range(1, accumulate + 1)
        if accumulate % count == 0 and (count == 1 or count * work <= MERGED_WORK)
    )
