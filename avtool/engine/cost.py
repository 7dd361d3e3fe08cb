"""What a run takes: arithmetic for a sample, and the time of what was done, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avtool import speed
from avtool.data.loader import collate, spread_over
from avtool.optim import rehearse
from avtool.speed import count_flops, figure, in_hours

if TYPE_CHECKING:
    from avtool.engine.run import Run

MIDDLE = 0.5
"""Share of its steps at which a run's cost is told: a task may do less in the first of them."""


def flop_of_sample(run: Run) -> float:
    """Floating-point operations of a step (see ``avtool.speed``) over its samples, the optimizer's included, which
    every process makes; in the middle of the run."""
    views = run.task.training_views(run.recipe, run.dataset, run.clips.training)
    batch = collate([views.sample(0, index) for index in spread_over(run.clips.training, 2)])
    before, run.task.progress = run.task.progress, MIDDLE
    flop, moved = speed.flop_of_sample(run.task, batch, device=run.device, precision=run.precision)
    run.task.progress = before
    of_step = run.world.size * count_flops(lambda: rehearse(run.optimizer.param_groups, moved))
    return flop + of_step / (run.recipe.train.batch_size * run.recipe.train.accumulate)


def speed_in_words(run: Run) -> str:
    """The speed of all steps so far, of all processes together."""
    pace, flop = run.position()["samples"] / run.seconds, run.flop_of_sample
    together = f" by {run.world.size} processes" if run.world.size > 1 else ""
    return (
        f"{figure(pace)} samples/s{together}, {figure(flop / 1e9)} GFLOP a sample, {figure(flop * pace / 1e9)} "
        f"GFLOP/s, {in_hours(run.seconds)} without measuring held-out clips"
    )
