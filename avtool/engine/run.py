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
from torch import nn
from torch.amp import GradScaler

from avtool.checkpoint import check_fit, save_checkpoint, size_of
from avtool.config.schema import PRETRAIN, Recipe
from avtool.data import parts
from avtool.data.dataset import PreparedDataset
from avtool.data.loader import batches_in_order, batches_in_training, spread_over
from avtool.devices import autocast, precision_name
from avtool.distributed import World, share_batch_norm
from avtool.engine.schedule import Schedule
from avtool.engine.start import Saved, load_start
from avtool.errors import CheckpointError, DataError, in_bytes
from avtool.model.build import compile_blocks
from avtool.optim import LARS, adamw, parameter_groups
from avtool.places import BEST, checkpoint_folder, checkpoints_of, step_of
from avtool.progress import say
from avtool.registry import TASKS
from avtool.replicas import Batch, in_parallel, replicas_for
from avtool.report.heatmap import write_png
from avtool.tasks.training import Training
from avtool.tracking import METRICS, MetricsLog, read_metrics

VALIDATION = "validation"
RECONSTRUCTIONS, RECONSTRUCTED = "reconstructions.png", 6
"""Picture in a pretraining run's folder, and how many held-out clips are in it."""


@dataclass(frozen=True)
class Clips:
    """Which clips a run uses: ``training`` of its split, and ``held_out`` of ``held_out_of``, called ``part``.

    ``left_out``: how many cannot be trained on, by reason. Pretraining is measured on another split, fine-tuning on a
    part of its own, by recording: the split that results are reported on chooses nothing.
    """

    training: np.ndarray
    held_out: np.ndarray
    held_out_of: PreparedDataset
    part: str
    left_out: dict[str, int]

    @classmethod
    def of(cls, recipe: Recipe, dataset: PreparedDataset) -> Clips:
        """DataError where fewer than a batch are left to train on."""
        usable, left_out = TASKS[recipe.task].trainer().usable(recipe, dataset)
        if recipe.data.fold:
            usable = usable[~parts.fold(*_recordings(dataset, usable), *recipe.data.fold)]
        if recipe.task == PRETRAIN:
            other = _other_split(recipe, dataset)
            held_out = np.arange(len(other) if other else 0)
            clips = cls(usable, held_out, other or dataset, other.split if other else "", left_out)
        else:
            chosen = parts.held_out(*_recordings(dataset, usable), recipe.data.validation)
            clips = cls(usable[~chosen], usable[chosen], dataset, VALIDATION, left_out)
        clips._check(recipe, dataset)
        return clips

    def _check(self, recipe: Recipe, dataset: PreparedDataset) -> None:
        count = len(self.training)
        if count >= recipe.train.batch_size:
            return
        reasons = "".join(f", {number} {reason}" for reason, number in self.left_out.items())
        if self.part == VALIDATION and len(self.held_out) > count:
            raise DataError(
                f"{dataset.folder} has {count} clips of split {dataset.split} to train on, for {len(self.held_out)} "
                f"are held out; a batch needs {recipe.train.batch_size}",
                hint=f"data.validation=0.1, less than {recipe.data.validation:g}",
            )
        ways = [f"set train.batch_size={count}" + (" or less" if count > 1 else "")] if count else []
        if len(dataset) < sum(dataset.splits.values()):
            ways.append("take every split: data.split=all")
        raise DataError(
            f"{dataset.folder} has {count} clips of split {dataset.split} to train on{reasons}; a batch needs "
            f"{recipe.train.batch_size}",
            hint=", or ".join(ways) or "use more data",
        )


def _beats(value: float, best: dict[str, float] | None) -> bool:
    """Whether weights with this measure are to be kept: it is the highest so far, or as high as the start's, with
    which nothing was learned yet. What is not finite never is."""
    if not math.isfinite(value):
        return False
    return best is None or value > best["value"] or (value == best["value"] and best["step"] == 0)


def _recordings(dataset: PreparedDataset, clips: np.ndarray) -> tuple[list[str], list[int]]:
    """What each of ``clips`` was recorded in, read from its own entry in a shard, and its first label."""
    return [dataset.recording(int(i)) for i in clips], [dataset.label_id(int(i)) for i in clips]


def _other_split(recipe: Recipe, dataset: PreparedDataset) -> PreparedDataset | None:
    others = [name for name, clips in dataset.splits.items() if clips and name != recipe.data.split]
    if not others or recipe.data.split == "all":
        return None
    return PreparedDataset(dataset.folder, "test" if "test" in others else others[0])


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
        precision: torch.dtype,
        saved: Saved | None,
        checkpoint: Path | None = None,
        world: World | None = None,
    ) -> None:
        self.recipe, self.dataset, self.folder = recipe, dataset, folder
        self.resumed_from = saved.folder.name if saved else None
        self.device, self.precision, self.world = device, precision, world or World()
        self.clips = Clips.of(recipe, dataset)
        self.task: Training = TASKS[recipe.task].trainer()(recipe, dataset, self.clips.training)
        self.schedule = Schedule.of(
            recipe, len(self.clips.training), device, merge_batches=not has_batch_norm(self.task)
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
        share_batch_norm(self.task, self.world, device)
        self.task.to(device).train()
        if recipe.train.compile:
            compile_blocks(self.task.model)
        self.optimizer = self._optimizer()
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.scaler = GradScaler(device.type, enabled=precision == torch.float16)
        self.scaler.scale(torch.zeros((), device=device))  # it has a scale from its first use on
        if saved:
            self.optimizer.load_state_dict(saved.trainer["optimizer"])
            self.scaler.load_state_dict(saved.trainer.get("scaler", {}))

    def check_room(self) -> None:
        """CheckpointError where the disk has no room for a checkpoint of this run."""
        trained = sum(parameter.nbytes for parameter in self.parameters)
        needed = (
            size_of(self.task.model.state_dict()) + (1 if isinstance(self.optimizer, LARS) else 2) * trained
        )
        existing = next(
            folder for folder in (self.folder, *self.folder.absolute().parents) if folder.exists()
        )
        if (free := shutil.disk_usage(existing).free) < needed:
            raise CheckpointError(
                f"{self.folder}: a checkpoint takes {in_bytes(needed)}, {in_bytes(free)} are free",
                hint="free some space or choose another --out",
            )

    def _best_of(self, saved: Saved) -> dict[str, float] | None:
        """The best measure so far: the checkpoint's, or one that was taken of it once it was written."""
        best: dict[str, float] | None = saved.trainer.get("best")
        for row in self._measured():
            value = row.get(f"held_out_{self.task.best}")
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
        )
        return LARS(groups) if settings.name == "lars" else adamw(groups, betas=settings.betas)

    @property
    def precision_name(self) -> str:
        return precision_name(self.precision)

    def autocast(self) -> torch.autocast:
        """The run's precision for a forward pass."""
        return autocast(self.device, self.precision)

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
            share=self.world.share(self.recipe.train.batch_size * self.schedule.merged),
            pin_memory=self.device.type == "cuda",
        )

    @cached_property
    def log(self) -> MetricsLog:
        """The run's log, which ends where the run is when it is first asked for."""
        return MetricsLog(self.folder, resume_step=self.step, tensorboard=self.recipe.train.tensorboard)

    def position(self) -> dict[str, float]:
        """Where the run is, as every row of the log says it."""
        step, train = self.step, self.recipe.train
        samples = step * train.batch_size * train.accumulate
        epoch = self.schedule.epochs(step)
        return {"step": step, "epoch": epoch, "samples": samples, "seconds": self.seconds}

    def owes_measures(self) -> bool:
        """Whether this step is one of those that are measured, and has not been: it was just begun, or broken off."""
        every = self.recipe.train.eval_every
        if self.step not in (0, self.schedule.max_steps) and not (every and self.step % every == 0):
            return False
        missing = self.world.main and not any(row["step"] == self.step for row in self._measured())
        return self.world.gather(missing)[0]  # what rank 0 sees of the log: all measure, or none

    def replicas(self) -> int:
        """Parts of a batch that are computed side by side in this process."""
        return replicas_of(self.task, self.recipe, self.schedule, self.device, self.world.size)

    def in_parallel(self) -> nn.Module:
        """The task as the loop calls it."""
        return in_parallel(self.task, self.world, self.device, replicas=self.replicas())

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
        with self.world.as_one() as failed:
            values = self._measure(limit)
            if self.world.main:
                self._keep_measures(values)
        if failed:
            raise OthersFailed

    def _keep_measures(self, values: dict[str, float]) -> None:
        if self.task.best and _beats(values[self.task.best], self.best):
            self.best = {"value": values[self.task.best], "step": self.step}
            self._write(self.folder / BEST)  # before the log says that this was measured
        self.log.write(
            **self.position(),
            held_out=self.clips.part,
            **{f"held_out_{name}": value for name, value in values.items()},
        )
        say(
            f"held out after step {self.step} ({self.clips.part}, {values['clips']:.0f} samples): "
            f"{self.task.in_words(values)}"
        )
        if self.recipe.task == PRETRAIN:
            self.draw()

    def draw(self) -> None:
        """Show what is predicted of a few held-out clips, the same ones every time."""
        dataset = self.clips.held_out_of
        views, chosen = self.task.evaluation_views(self.recipe, dataset, self.clips.held_out)
        few = spread_over(chosen, RECONSTRUCTED)
        (batch,) = batches_in_order(views, few, batch_size=len(few))
        with self.autocast(), torch.compiler.set_stance("force_eager"):
            picture = self.task.draw(
                {name: value.to(self.device) for name, value in batch.items()},
                [dataset.record(clip).id for clip in few],
            )
        write_png(self.folder / RECONSTRUCTIONS, picture)

    def _measure(self, limit: int) -> dict[str, float]:
        def batches(dataset: PreparedDataset, clips: np.ndarray) -> Iterator[Batch]:
            views, chosen = self.task.evaluation_views(self.recipe, dataset, clips)
            settings = self.recipe
            shown = spread_over(chosen, limit)
            share = self.world.share(math.ceil(len(shown) / self.task.group))
            for batch in batches_in_order(
                views,
                shown[share.start * self.task.group : share.stop * self.task.group],
                batch_size=settings.train.batch_size,
                workers=settings.data.workers,
                pin_memory=self.device.type == "cuda",
            ):
                yield {name: value.to(self.device) for name, value in batch.items()}

        # Two passes over other sizes are not worth compiling for.
        with self.autocast(), torch.compiler.set_stance("force_eager"):
            return self.task.measure(
                lambda: batches(self.clips.held_out_of, self.clips.held_out),
                lambda: batches(self.dataset, self.clips.training),
                self.world,
            )


def replicas_of(
    task: Training, recipe: Recipe, schedule: Schedule, device: torch.device, processes: int = 1
) -> int:
    """Parts of a batch that are computed side by side in one process. Several processes share the cores already,
    compiled blocks do not run in several threads, and BatchNorm is to see the whole batch."""
    if processes > 1 or recipe.train.compile or has_batch_norm(task):
        return 1
    return replicas_for(device, recipe.train.batch_size * schedule.merged)


def has_batch_norm(module: nn.Module) -> bool:
    """Whether its samples see each other in training."""
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())
