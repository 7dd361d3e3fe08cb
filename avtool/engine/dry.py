"""What a run would be, said before it starts."""

from __future__ import annotations

import math
from pathlib import Path

from avtool.config.schema import Recipe
from avtool.data.dataset import PreparedDataset
from avtool.devices import resolve_device
from avtool.engine.run import Clips
from avtool.engine.schedule import Schedule
from avtool.features import window_samples
from avtool.model.build import build_empty_model, count_parameters
from avtool.model.transformer import grid_of
from avtool.tasks import find_task


def dry_run(recipe: Recipe, *, data: Path, device: str = "auto") -> str:
    """What a run would be: parameters by part, shapes of one batch, and the schedule on the data in ``data``."""
    target = resolve_device(device)
    dataset = PreparedDataset(data, recipe.data.split)
    clips = Clips.of(recipe, dataset)
    model, size = build_empty_model(*find_task(recipe.task).describe(recipe, dataset)), recipe.model
    schedule = Schedule.of(recipe, len(clips.training), target)
    batch, samples = recipe.train.batch_size, window_samples(size.audio_size[1], recipe.spectrogram.hop)
    parts = {
        "image encoder": model.encoder.image,
        "audio encoder": model.encoder.audio,
        "fusion blocks": model.encoder.fusion_blocks,
        **{
            name.replace("_", " "): part
            for name, part in model.named_children()
            if name != "encoder" and count_parameters(part)
        },
    }
    lines = ["parameters", *(f"  {name:<20}{count_parameters(part):>14,}" for name, part in parts.items())]
    lines += [f"  {'all':<20}{count_parameters(model):>14,}", "shapes of a batch"]
    shapes = {
        "image": (batch, 3, *size.image_size),
        "waveform": (batch, samples),
        "log-mel": (batch, 1, *size.audio_size),
        "image patches": (batch, math.prod(grid_of(*size.image_size, size.patch_size))),
        "audio patches": (batch, math.prod(grid_of(*size.audio_size, size.patch_size))),
    }
    lines += [f"  {name:<20}{' x '.join(map(str, shape))}" for name, shape in shapes.items()]
    steps, samples = schedule.max_steps, schedule.max_steps * batch * schedule.accumulate
    lines += [
        "schedule",
        f"  {len(clips.training):,} clips of {dataset.name} (split {recipe.data.split}), {steps:,} steps, "
        f"{samples:,} samples, {schedule.epochs(steps):.1f} epochs",
        f"  peak learning rate {schedule.peak_rate:g}, {schedule.warmup_steps:,} steps of warm-up",
    ]
    return "\n".join(lines)
