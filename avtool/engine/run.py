"""A training run: its task and optimizer, its checkpoints, and what is measured of it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from avtool.checkpoint import check_fit, save_checkpoint, size_of
from avtool.config.schema import Recipe
from avtool.data.dataset import PreparedDataset
from avtool.data.loader import batches_in_order, batches_in_training, spread_over, steps_per_epoch
from avtool.devices import resolve_precision
from avtool.distributed import World, share_batch_norm
from avtool.engine.cost import flop_of_sample
from avtool.engine.start import Clips, Saved, load_start
from avtool.errors import CheckpointError, NotFinite, TrainingError, free_bytes, in_bytes
from avtool.loggers import chosen, open_loggers
from avtool.model.build import compile_blocks
from avtool.optim import backbone_warmup, bytes_of_moments, cosine_schedule, make_optimizer, parameter_groups
from avtool.places import BEST, checkpoint_folder, checkpoints_of, step_of
from avtool.progress import say
from avtool.registry import PRETRAIN, TASKS, resolve
from avtool.replicas import Batch, autocast, batch_norms, replicas_for
from avtool.report.heatmap import write_png
from avtool.tasks.training import Training
from avtool.tracking import METRICS, MetricsLog, read_metrics

RECONSTRUCTIONS, RECONSTRUCTED = "reconstructions.png", 6
"""Picture in a pretraining run's folder, and how many held-out clips are in it."""
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
    def of(cls, task: nn.Module, recipe: Recipe, clips: int, device: torch.device) -> Schedule:
        """Batches of a step are merged on a CPU alone: as many small ones as keep its cores busy, and none where
        BatchNorm tells a merged batch from the batches in it."""
        batches = max(1, steps_per_epoch(clips, recipe.train.batch_size))
        accumulate = recipe.train.accumulate
        steps = recipe.max_steps or math.ceil((recipe.epochs or 0) * batches / accumulate)
        work = recipe.train.batch_size * recipe.model.dim * recipe.model.depth
        most = 1 if device.type != "cpu" or batch_norms(task) else max(1, MERGED_WORK // work)
        return cls(
            batches_per_epoch=batches,
            accumulate=accumulate,
            merged=max(n for n in range(1, accumulate + 1) if accumulate % n == 0 and n <= most),
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
        share = cosine_schedule(step, max_steps=self.max_steps, warmup_steps=self.warmup_steps)
        return self.peak_rate * share

    def ramp(self, step: int) -> float:
        """Multiplier of it for parts that start from weights."""
        return backbone_warmup(step, ramp_steps=self.ramp_steps)

    def epochs(self, steps: int) -> float:
        """How often the data were gone through after ``steps`` steps."""
        return steps * self.accumulate / self.batches_per_epoch


def _beats(value: float, best: dict[str, float] | None) -> bool:
    """Whether weights with this measure are to be kept: it is the highest so far, or as high as the start's, with
    which nothing was learned yet. What is not finite never is."""
    if not math.isfinite(value):
        return False
    return best is None or value > best["value"] or (value == best["value"] and best["step"] == 0)


class OthersFailed(Exception):
    """Another process failed at what all do together, which rank 0 says: this one is to end, and to say nothing."""


class Run:
    """A training run: its task and optimizer, as new or as ``saved``. ``avtool.engine.loop`` trains it."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: PreparedDataset,
        *,
        folder: Path,
        device: torch.device,
        saved: Saved | None = None,
        checkpoint: Path | None = None,
        world: World | None = None,
    ) -> None:
        self.recipe, self.dataset, self.folder = recipe, dataset, folder
        self.resumed_from = saved.folder.name if saved else None
        self.started_from = checkpoint
        self.device, self.world = device, world or World()
        self.precision = resolve_precision(recipe.train.precision, device)
        self.clips = Clips.of(recipe, dataset)
        self.task: Training = resolve(TASKS[recipe.task].training)(recipe, dataset, self.clips.training)
        self.schedule = Schedule.of(self.task, recipe, len(self.clips.training), device)
        self.replicas = replicas_for(
            self.task,
            recipe.train.batch_size * self.schedule.merged,
            device,
            compiled=recipe.train.compile,
            processes=self.world.size,
        )
        if saved:
            hint = "resume with the data and the settings it was started with"
            check_fit(saved.weights, self.task.model, source=saved.folder, hint=hint)
            self.task.model.load_state_dict(saved.weights)
            self.step, self.seconds = saved.trainer["step"], saved.trainer["seconds"]
            self.pretrained, self.best = saved.trainer["pretrained"], self._best_of(saved)
        else:
            self.step, self.seconds, self.best = 0, 0.0, None
            self.pretrained = load_start(self.task, recipe, checkpoint)
        self.facts = self._fill_task(saved.trainer.get("task", {}) if saved else {})
        share_batch_norm(self.task, self.world, device)
        self.task.to(device).train()
        if recipe.train.compile:
            compile_blocks(self.task.model)
        self.optimizer = self._optimizer()
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.scaler = GradScaler(device.type, enabled=self.precision == torch.float16)
        self.scaler.scale(torch.zeros((), device=device))  # it has a scale from its first use on
        if saved:
            try:
                self.optimizer.load_state_dict(saved.trainer["optimizer"])
            except ValueError as error:
                raise CheckpointError(
                    f"{saved.folder} holds the state of another optimizer: {error}",
                    hint="resume with the optim.name and the avtool version it was started with, or begin another run",
                ) from error
            self.scaler.load_state_dict(saved.trainer.get("scaler", {}))

    def _fill_task(self, kept: dict[str, Tensor]) -> dict[str, Any]:
        """Give the task's own buffers what a checkpoint ``kept`` of them, or where that is not of these buffers what
        rank 0 finds in the clips; facts of what it found."""
        facts, own = {}, self.task.own_state()
        if {name: value.shape for name, value in own.items()} != {
            name: value.shape for name, value in kept.items()
        }:
            if self.world.main:
                facts = self.task.look_at_clips(self.recipe, self.dataset, self.clips.training)
            kept = self.world.gather(self.task.own_state() if self.world.main else None)[0]
        self.task.load_state_dict(kept, strict=False)
        return facts

    def check_room(self) -> None:
        """CheckpointError where the disk has no room for a checkpoint of this run."""
        moments = bytes_of_moments(self.optimizer.param_groups, self.recipe.optim.name)
        needed = size_of(self.task.model.state_dict()) + moments
        if (free := free_bytes(self.folder)) < needed:
            raise CheckpointError(
                f"{self.folder}: a checkpoint takes {in_bytes(needed)}, {in_bytes(free)} are free",
                hint="free some space or choose another --out",
            )

    def _best_of(self, saved: Saved) -> dict[str, float] | None:
        """The best measure so far: the checkpoint's, or one that was taken of it once it was written."""
        best: dict[str, float] | None = saved.trainer.get("best")
        for row in self._measured():
            value = row.get(f"held_out_{self.task.monitor}")
            if row["step"] == self.step and value is not None and _beats(value, best):
                best = {"value": value, "step": self.step}
        return best

    def _measured(self) -> list[dict[str, Any]]:
        """The rows of the log that hold measures of held-out clips."""
        rows = read_metrics(self.folder) if (self.folder / METRICS).is_file() else []
        return [row for row in rows if "held_out" in row]

    def _optimizer(self) -> torch.optim.Optimizer:
        settings = self.recipe.optim
        groups = parameter_groups(
            self.task.model,
            weight_decay=settings.weight_decay,
            pretrained=self.pretrained,
            layer_decay=settings.layer_decay,
            depth=self.recipe.model.depth,
            muon=settings.name == "muon",
        )
        return make_optimizer(settings.name, groups, betas=settings.betas, precision=self.precision)

    def batches(self) -> Iterator[Batch]:
        """Endless training batches, this process's share of each, from where the run is."""
        return batches_in_training(
            self.task.training_views(self.recipe, self.dataset, self.clips.training),
            self.clips.training,
            batch_size=self.recipe.train.batch_size,
            workers=self.recipe.data.workers,
            seed=self.recipe.seed,
            start_step=self.step * self.schedule.accumulate,
            merged=self.schedule.merged,
            share=self.world.shard(self.recipe.train.batch_size * self.schedule.merged),
            pin_memory=self.device.type == "cuda",
        )

    @cached_property
    def flop_of_sample(self) -> float:
        """See ``avtool.engine.cost``."""
        return flop_of_sample(self)

    @cached_property
    def log(self) -> MetricsLog:
        """The run's log, which ends where the run is when it is first asked for."""
        settings = self.recipe.model_dump(mode="json", exclude_none=True)
        loggers = open_loggers(chosen(self.recipe.train), self.folder, step=self.step, settings=settings)
        return MetricsLog(self.folder, resume_step=self.step, loggers=loggers)

    def position(self) -> dict[str, float]:
        """Where the run is, as every row of the log says it."""
        samples = self.step * self.recipe.train.batch_size * self.recipe.train.accumulate
        epoch = self.schedule.epochs(self.step)
        return {"step": self.step, "epoch": epoch, "samples": samples, "seconds": self.seconds}

    def owes_measures(self) -> bool:
        """Whether this step is one of those that are measured, and has not been: it was just begun, or broken off."""
        every = self.recipe.train.eval_every
        if self.step not in (0, self.schedule.max_steps) and not (every and self.step % every == 0):
            return False
        missing = self.world.main and not any(row["step"] == self.step for row in self._measured())
        return self.world.gather(missing)[0]  # what rank 0 sees of the log: all measure, or none

    def save(self) -> None:
        """Write a checkpoint, then let go of all but the newest ``keep`` and every ``keep_every``-th step's."""
        if self.world.main:
            self._write(
                checkpoint_folder(self.folder, self.step),
                trainer={
                    "step": self.step,
                    "seconds": self.seconds,
                    "pretrained": self.pretrained,
                    "best": self.best,
                    "processes": self.world.size,
                    "task": self.task.own_state(),
                    "optimizer": self.optimizer.state_dict(),
                    "scaler": self.scaler.state_dict(),
                },
            )
            every = self.recipe.train.keep_every
            for old in checkpoints_of(self.folder)[: -self.recipe.train.keep]:
                if not every or step_of(old) % every:
                    shutil.rmtree(old)
        self.world.wait()

    def _write(self, folder: Path, trainer: dict[str, Any] | None = None) -> None:
        verb = "pretrain" if self.recipe.task == PRETRAIN else f"finetune {self.recipe.task}"
        origin = f"avtool {verb} on {self.dataset.name}, step {self.step} of {self.schedule.max_steps}"
        names = getattr(self.task, "class_names", None)
        save_checkpoint(
            folder,
            model=self.task.model,
            config=self.task.config.model_copy(update={"origin": origin}),
            trainer=trainer,
            beside=names.write if names is not None else None,
        )

    def evaluate(self) -> None:
        """Measure on held-out clips, where there are any, into metrics.jsonl; keep the weights that are best so far.

        The processes share the clips. Where one of them fails rank 0 raises its error, the others OthersFailed."""
        limit = self.recipe.train.eval_clips
        if not limit or not len(self.clips.held_out):
            return
        # Passes over other sizes are not worth compiling for.
        eager = torch.compiler.set_stance("force_eager")
        with self.world.fail_together() as failed, autocast(self.device, self.precision), eager:
            try:
                values = self._measure(limit)
            except NotFinite as error:
                what = f"step {self.step}: on held-out clips {error.message}"
                raise TrainingError(what, hint=self.way_back()) from error
            if self.world.main:
                self._keep_measures(values)
        if failed:
            raise OthersFailed

    def way_back(self) -> str:
        """What helps where a loss, a gradient or what the model gives is not finite."""
        good = "earlier checkpoints are good; " if checkpoints_of(self.folder) else ""
        wider = "" if self.precision == torch.float32 else ", or use train.precision=float32"
        return f"{good}lower optim.base_lr, set optim.clip_grad{wider}"

    def _measure(self, limit: int) -> dict[str, float]:
        def batches(dataset: PreparedDataset, clips: np.ndarray) -> Iterator[Batch]:
            views, chosen = self.task.evaluation_views(self.recipe, dataset, clips)
            shown, group = spread_over(chosen, limit), self.task.group
            share = self.world.shard(math.ceil(len(shown) / group))
            for batch in batches_in_order(
                views,
                shown[share.start * group : share.stop * group],
                batch_size=self.recipe.train.batch_size,
                workers=self.recipe.data.workers,
                pin_memory=self.device.type == "cuda",
            ):
                yield {name: value.to(self.device) for name, value in batch.items()}

        return self.task.validate(
            lambda: batches(self.clips.held_out_of, self.clips.held_out),
            lambda: batches(self.dataset, self.clips.training),
            self.world,
        )

    def _keep_measures(self, values: dict[str, float]) -> None:
        if self.task.monitor and _beats(values[self.task.monitor], self.best):
            self.best = {"value": values[self.task.monitor], "step": self.step}
            self._write(self.folder / BEST)  # before the log says that this was measured
        measures = {f"held_out_{name}": value for name, value in values.items()}
        self.log.write(**self.position(), held_out=self.clips.part, **measures)
        part = f"{self.clips.part}, {values['clips']:.0f} samples"
        say(f"held out after step {self.step} ({part}): {self.task.summarize(values)}")
        if self.task.draws:
            self._draw()

    def _draw(self) -> None:
        """Show what is predicted of a few held-out clips, the same ones every time."""
        dataset = self.clips.held_out_of
        views, chosen = self.task.evaluation_views(self.recipe, dataset, self.clips.held_out)
        few = spread_over(chosen, RECONSTRUCTED)
        (batch,) = batches_in_order(views, few, batch_size=len(few))
        on_device = {name: value.to(self.device) for name, value in batch.items()}
        with self.task.judged():
            picture = self.task.draw(on_device, [dataset.record(clip).id for clip in few])
        write_png(self.folder / RECONSTRUCTIONS, picture)
