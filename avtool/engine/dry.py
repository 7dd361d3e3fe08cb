"""What a run would be and cost, said before it starts."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from avtool.config.schema import Recipe
from avtool.data.dataset import PreparedDataset
from avtool.data.loader import collate, spread_over
from avtool.devices import resolve_device, resolve_precision
from avtool.engine.memory import Memory, ShapeUnknown, memory_of_step
from avtool.engine.run import Clips, has_batch_norm, replicas_of
from avtool.engine.schedule import Schedule
from avtool.engine.start import check_timm
from avtool.errors import in_bytes
from avtool.model.build import count_parameters
from avtool.model.encoder import encoder_of
from avtool.model.transformer import grid_of
from avtool.registry import TASKS
from avtool.tasks.training import Training

MOMENTS = {"adamw": 2, "lars": 1}
"""Numbers that the optimizer keeps for each trained weight."""
SAMPLES_READ = 32
"""Training samples that are read to see how many bytes one takes."""


class CountingDataset(PreparedDataset):
    """A prepared data set that counts the ``bytes_read`` of its shards."""

    bytes_read = 0

    def _bytes(self, clip: np.void, begin: int, size: int) -> bytes:
        self.bytes_read += size
        return super()._bytes(clip, begin, size)


def dry_run(recipe: Recipe, *, data: Path, device: str = "auto") -> str:
    """What a run on the data in ``data`` would be and cost: parameters by part, shapes of one batch, the schedule,
    bytes read, and the memory of a training step in this process. AvtoolError where it could not start.
    """
    target = resolve_device(device)
    dataset = CountingDataset(data, recipe.data.split)
    clips = Clips.of(recipe, dataset)
    task: Training = TASKS[recipe.task].trainer()(recipe, dataset, clips.training)
    check_timm(task, recipe)
    schedule = Schedule.of(recipe, len(clips.training), target, merge_batches=not has_batch_norm(task))
    sample, read = _read_some(task, recipe, dataset, clips.training)
    lines = [*_parameters(task.model), *_shapes(recipe, sample)]
    lines += _schedule(recipe, dataset, clips, schedule, read)
    return "\n".join([*lines, *_memory(task, recipe, sample, schedule, target)])


def _read_some(
    task: Training, recipe: Recipe, dataset: CountingDataset, training: np.ndarray
) -> tuple[dict[str, Tensor], float]:
    """A batch of one sample, and the mean number of bytes that a sample reads."""
    views = task.training_views(recipe, dataset, training)
    chosen = spread_over(training, SAMPLES_READ)
    dataset.bytes_read = 0
    samples = [views.sample(0, index) for index in chosen]
    return collate(samples[:1]), dataset.bytes_read / len(samples)


def _parameters(model: nn.Module) -> list[str]:
    encoder = encoder_of(model)
    parts = {
        "image encoder": encoder.image,
        "audio encoder": encoder.audio,
        "fusion blocks": encoder.fusion_blocks,
        **{
            name.replace("_", " "): part
            for name, part in model.named_children()
            if name != "encoder" and count_parameters(part)
        },
    }
    rows = [f"  {name:<20}{count_parameters(part):>14,}" for name, part in parts.items()]
    return ["parameters", *rows, f"  {'all':<20}{count_parameters(model):>14,}"]


def _shapes(recipe: Recipe, sample: Mapping[str, Tensor]) -> list[str]:
    batch, size = recipe.train.batch_size, recipe.model
    shapes = {
        "image": (batch, 3, *size.image_size),
        "waveform": (batch, *sample["waveform"].shape[1:]),
        "log-mel": (batch, 1, *size.audio_size),
        "image patches": (batch, math.prod(grid_of(*size.image_size, size.patch_size))),
        "audio patches": (batch, math.prod(grid_of(*size.audio_size, size.patch_size))),
    }
    return [
        "shapes of a batch",
        *(f"  {name:<20}{' x '.join(map(str, shape))}" for name, shape in shapes.items()),
    ]


def _schedule(
    recipe: Recipe, dataset: PreparedDataset, clips: Clips, schedule: Schedule, read: float
) -> list[str]:
    steps = schedule.max_steps
    samples = steps * recipe.train.batch_size * schedule.accumulate
    return [
        "schedule",
        f"  {len(clips.training):,} clips of {dataset.name} (split {recipe.data.split}), {steps:,} steps, "
        f"{samples:,} samples, {schedule.epochs(steps):.1f} epochs",
        f"  peak learning rate {schedule.peak_rate:g}, {schedule.warmup_steps:,} steps of warm-up",
        f"  {in_bytes(read)} read for a sample, {in_bytes(read * samples)} in all",
    ]


def _memory(
    task: Any, recipe: Recipe, sample: Mapping[str, Tensor], schedule: Schedule, device: torch.device
) -> list[str]:
    clips = recipe.train.batch_size * schedule.merged
    precision = resolve_precision(recipe.train.precision, device)
    try:
        memory = memory_of_step(
            task,
            sample,
            clips=clips,
            replicas=replicas_of(task, recipe, schedule, device),
            micro_steps=schedule.micro_steps,
            device=device,
            precision=precision,
        )
    except ShapeUnknown as error:
        return [f"memory of a step: shapes alone do not tell ({str(error).splitlines()[0]})"]
    return _memory_in_words(memory, recipe, f"{device}, {str(precision).removeprefix('torch.')}")


def _memory_in_words(memory: Memory, recipe: Recipe, where: str) -> list[str]:
    moments = MOMENTS[recipe.optim.name] * memory.gradients
    rows = {
        "weights": memory.weights,
        "moments": moments,
        "gradients": memory.gradients,
        "activations": memory.kept,
        "at most, all in all": memory.weights + moments + memory.peak,
    }
    less = "; torch.compile takes less" if recipe.train.compile else ""
    title = f"memory of a step ({where}, one process{less})"
    return [title, *(f"  {name:<20}{in_bytes(size):>14}" for name, size in rows.items())]
