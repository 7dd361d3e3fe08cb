"""What a run would be and cost, said before it starts."""

import math
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from avtool.config.schema import Recipe
from avtool.data.dataset import PreparedDataset
from avtool.data.loader import PREFETCH, collate, spread_over
from avtool.devices import (
    check_compiler,
    free_memory,
    keep_freed_memory,
    precision_name,
    resolve_device,
    resolve_precision,
)
from avtool.engine.cost import MIDDLE
from avtool.engine.loop import FiniteCheck, Meter, train_step
from avtool.engine.run import Run, Schedule
from avtool.engine.start import Clips
from avtool.errors import CheckpointError, in_bytes
from avtool.model.build import count_parameters
from avtool.model.encoder import encoder_of
from avtool.model.transformer import grid_of
from avtool.optim import bytes_of_moments, parameter_groups
from avtool.progress import say, warn
from avtool.published import TIMM
from avtool.registry import TASKS, resolve
from avtool.replicas import autocast, in_parallel, replicas_for
from avtool.speed import PRODUCT_SIDE, figure, in_hours, product_rate, synchronize
from avtool.tasks.training import Training
from avtool.timm_vit import TimmViT
from avtool.weights import NONE, find_starting_weights

SAMPLES_READ = 32
"""Training samples that are read to see how many bytes one takes."""
WARM_UP, TIMED = 2, 10
"""Steps that are made before those that are timed, and how many are."""
PATIENCE = 60.0
"""Seconds after which no other step is timed."""
SHAPE_UNKNOWN = fake_tensor.DataDependentOutputException, fake_tensor.DynamicOutputShapeException
"""A task whose shapes depend on what is in its tensors raises one of these."""


class CountingDataset(PreparedDataset):
    """A prepared data set that counts the ``bytes_read`` of its shards."""

    bytes_read = 0

    def _bytes(self, clip: np.void, begin: int, size: int) -> bytes:
        self.bytes_read += size
        return super()._bytes(clip, begin, size)


def dry_run(recipe: Recipe, *, data: Path, device: str = "auto") -> str:
    """What a run on the data in ``data`` would be and cost: parameters by part, shapes of one batch, the schedule,
    bytes read, and the memory and the time of a training step in this process. AvtoolError where it could not start.
    """
    target = resolve_device(device)
    if recipe.train.compile:
        check_compiler(target)
    dataset = CountingDataset(data, recipe.data.split)
    clips = Clips.of(recipe, dataset)
    task: Training = resolve(TASKS[recipe.task].training)(recipe, dataset, clips.training)
    task.progress = MIDDLE
    if recipe.init.model in (None, NONE):
        _look_at_starts(recipe, task)
    schedule = Schedule.of(task, recipe, len(clips.training), target)
    views = task.training_views(recipe, dataset, clips.training)
    dataset.bytes_read = 0
    samples = [views.sample(0, index) for index in spread_over(clips.training, SAMPLES_READ)]
    read, sample = dataset.bytes_read / len(samples), collate(samples[:1])
    lines = [*_parameters(task.model), *_shapes(recipe, sample)]
    lines += _schedule(recipe, dataset, clips, schedule, read)
    memory, needed = _memory(task, recipe, sample, schedule, target)
    return "\n".join([*lines, *memory, *_time(recipe, dataset, needed, target)])


def _look_at_starts(recipe: Recipe, task: Training) -> None:
    """Whether a ViT of timm's fits, and a warning for starting weights that are not there yet; nothing is fetched."""
    for key in ("image", "audio"):
        named = getattr(recipe.init, key) or NONE
        if key == "image" and named.startswith(TIMM):
            TimmViT.find("init.image", named).check(encoder_of(task.model).image)
            continue
        try:
            find_starting_weights(f"init.{key}", named)
        except CheckpointError as error:
            warn(f"{error.message}: so the run itself would end")


def _parameters(model: nn.Module) -> list[str]:
    encoder = encoder_of(model)
    parts = {
        "image encoder": encoder.image,
        "audio encoder": encoder.audio,
        "fusion blocks": encoder.fusion_blocks,
    }
    for name, part in model.named_children():
        if name != "encoder" and count_parameters(part):
            parts[name.replace("_", " ")] = part
    parts["all"] = model
    return ["parameters", *(f"  {name:<20}{count_parameters(part):>14,}" for name, part in parts.items())]


def _shapes(recipe: Recipe, sample: Mapping[str, Tensor]) -> list[str]:
    batch, size = recipe.train.batch_size, recipe.model
    shapes = {
        "image": (batch, 3, *size.image_size),
        "waveform": (batch, *sample["waveform"].shape[1:]),
        "log-mel": (batch, 1, *size.audio_size),
        "image patches": (batch, math.prod(grid_of(*size.image_size, size.patch_size))),
        "audio patches": (batch, math.prod(grid_of(*size.audio_size, size.patch_size))),
    }
    lines = (f"  {name:<20}{' x '.join(map(str, shape))}" for name, shape in shapes.items())
    return ["shapes of a batch", *lines]


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
    task: Training, recipe: Recipe, sample: Mapping[str, Tensor], schedule: Schedule, device: torch.device
) -> tuple[list[str], int]:
    """What is said of it, and the bytes of all in all; 0 where they are not known."""
    clips = recipe.train.batch_size * schedule.merged
    precision = resolve_precision(recipe.train.precision, device)
    try:
        memory = memory_of_step(
            task,
            sample,
            clips=clips,
            replicas=replicas_for(task, clips, device, compiled=recipe.train.compile),
            micro_steps=schedule.micro_steps,
            device=device,
            precision=precision,
        )
    except SHAPE_UNKNOWN as error:
        return [f"memory of a step: shapes alone do not tell ({str(error).splitlines()[0]})"], 0
    groups = parameter_groups(task.model, weight_decay=0.0, muon=recipe.optim.name == "muon")
    moments = bytes_of_moments(groups, recipe.optim.name)
    rows = {
        "weights": memory.weights,
        "moments": moments,
        "gradients": memory.gradients,
        "activations": memory.kept,
        "at most, all in all": (needed := memory.weights + moments + memory.peak),
    }
    where = f"{device}, {str(precision).removeprefix('torch.')}, one process"
    less = "; torch.compile takes less" if recipe.train.compile else ""
    lines = (f"  {name:<20}{in_bytes(size):>14}" for name, size in rows.items())
    return [f"memory of a step ({where}{less})", *lines], needed


def _time(recipe: Recipe, dataset: PreparedDataset, needed: int, device: torch.device) -> list[str]:
    """The time of real steps from random weights, or, where one takes too long or more memory than is free, the least
    that the arithmetic alone takes."""
    init = recipe.init.model_copy(update={"image": NONE, "audio": NONE})
    run = Run(recipe.model_copy(update={"init": init}), dataset, folder=dataset.folder, device=device)
    precision, clips = precision_name(run.precision), recipe.train.batch_size * recipe.train.accumulate
    samples, flop, free = run.schedule.max_steps * clips, run.flop_of_sample, free_memory(device)
    if not needed:
        return ["time of a step: not measured, its memory is not known"]
    rate = product_rate(device, run.precision)
    product = f"{figure(rate / 1e9)} GFLOP/s, a {PRODUCT_SIDE}-cubed matrix product's in {precision}"
    rows, pace = {"GFLOP a sample": f"{figure(flop / 1e9)}"}, 0.0
    if (WARM_UP + 1) * (least := clips * flop / rate) > PATIENCE:
        what = f"not measured, it takes {in_hours(least)} or more at {product}"
    elif free is not None and needed > free:
        what = f"not measured, {in_bytes(free)} of memory are free; at {product}, it takes {in_hours(least)} or more"
    else:
        steps, speed = timed_steps(run)
        pace, ahead = speed["samples_per_second"], recipe.data.workers * PREFETCH
        what = f"{steps} steps timed after {WARM_UP} of warm-up, {device}, {precision}, one process"
        waiting = f"{speed['waiting']:.0%} of the time spent waiting for data"
        if ahead >= steps * run.schedule.micro_steps:
            waiting += f"; up to {ahead} batches lay ready, so reading may be slower in the long run"
        rows = {"samples/s": f"{figure(pace)} ({waiting})", **rows}
        rows["share"] = f"{pace * flop / rate:.0%} of {product}"
    hours = in_hours(samples / pace) if pace else f"{in_hours(samples * flop / rate)} or more"
    rows["to the end"] = f"{hours}, without measuring held-out clips"
    return [f"time of a step ({what})", *(f"  {name:<20}{value}" for name, value in rows.items())]


def timed_steps(run: Run) -> tuple[int, dict[str, float]]:
    """Train ``run`` for some steps, with a learning rate of 0 and without a trace on disk; how many were timed, and
    what ``Meter`` read of them. ``TIMED`` steps as in the middle of the run, or as many as were begun within
    ``PATIENCE``."""
    say(f"timing {TIMED} steps")
    run.task.progress = MIDDLE
    keep_freed_memory(run.device)
    batches, check = run.batches(), FiniteCheck(run)
    meter = Meter(clips_per_step=run.recipe.train.batch_size * run.recipe.train.accumulate)
    model = in_parallel(run.task, run.world, run.device, replicas=run.replicas)
    for number in range(WARM_UP + TIMED):
        if number == WARM_UP:
            synchronize(run.device)
            meter.read()
        train_step(run, model, batches, check=check, meter=meter)
        if number >= WARM_UP:
            meter.steps += 1
            if time.perf_counter() - meter.since > PATIENCE:
                break
    synchronize(run.device)
    return meter.steps, meter.read()


@dataclass(frozen=True)
class Memory:
    """Bytes: of ``weights`` and buffers, of the ``gradients``, of the activations that the forward pass keeps for the
    backward pass (``kept``, inputs included), and ``peak``, the most there is at once in a step above the weights and
    the optimizer's moments."""

    weights: int
    gradients: int
    kept: int
    peak: int


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make while it is open, each storage once, until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._seen: set[int] = set()

    def note(self, made: Any) -> None:
        """Count what is new among the tensors in ``made``."""
        for tensor in tree_leaves(made):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage._cdata in self._seen:
                continue
            self._seen.add(storage._cdata)
            self.alive += storage.nbytes()
            weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.alive)

    def _forget(self, storage: int, size: int) -> None:
        self._seen.discard(storage)
        self.alive -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.note(made)
        return made


def memory_of_step(
    task: nn.Module,
    sample: Mapping[str, Tensor],
    *,
    clips: int,
    replicas: int,
    micro_steps: int,
    device: torch.device,
    precision: torch.dtype,
) -> Memory:
    """What one step of ``task`` takes on ``device``: ``micro_steps`` over ``clips`` clips each, which ``replicas``
    share.

    ``sample`` is a batch of one clip. The task's own tensors are replaced by ones that have a size and no content: it
    is of no use afterwards. Forward and backward run operation by operation with the shapes, types and lifetimes of a
    real step, recomputation and autocast included; what a kernel takes for itself inside an operation is not seen, nor
    what torch.compile saves. One of ``SHAPE_UNKNOWN`` where a shape depends on values.
    """
    task.train()
    with fake_tensor.FakeTensorMode(allow_non_fake_inputs=True):
        _without_content(task, device)
        size = clips // replicas
        batch = {
            name: torch.empty((size, *value.shape[1:]), dtype=value.dtype, device=device)
            for name, value in sample.items()
        }
        with LiveBytes() as live:
            live.note([*task.parameters(), *task.buffers()])
            before, live.peak = live.alive, 0
            live.note(batch)
            for _ in range(1 if replicas > 1 else min(micro_steps, 2)):  # more than two are like the second
                already = live.alive
                with autocast(device, precision):
                    loss = task(batch)["loss"]
                kept = live.alive - already
                loss.backward()
                del loss
            peak = live.peak - before
    gradients = sum(p.numel() * p.element_size() for p in task.parameters() if p.requires_grad)
    # Each replica has gradients of its own beside the sum.
    summed = gradients if replicas > 1 and micro_steps > 1 else 0
    return Memory(before, gradients, replicas * kept, replicas * peak + summed)


def _without_content(task: nn.Module, device: torch.device) -> None:
    """Put tensors without content on ``device`` in place of the parameters and buffers."""
    for module in task.modules():
        for name, parameter in module.named_parameters(recurse=False):
            empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
            module.register_parameter(name, nn.Parameter(empty, requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=device))
