"""Training: one loop from a recipe and prepared data to a run folder."""

from __future__ import annotations

import math
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from avtool.checkpoint import load_trainer, read_safetensors, save_checkpoint
from avtool.config.recipes import dump_recipe, load_recipe
from avtool.config.schema import Recipe
from avtool.data.dataset import PreparedDataset
from avtool.data.loader import STOP_SIGNALS, evaluation_loader, steps_per_epoch, training_loader
from avtool.devices import check_compiler, keep_freed_memory, resolve_device, resolve_precision
from avtool.errors import CheckpointError, TrainingError, UsageError
from avtool.features import window_samples
from avtool.files import check_output
from avtool.lanes import Batch, Lanes, lanes_for
from avtool.model.build import build_empty, compile_blocks, count_parameters
from avtool.model.config import Config
from avtool.optim import adamw, cosine_schedule, parameter_groups, pretrained_ramp, set_learning_rate
from avtool.places import CHECKPOINTS, checkpoints_of
from avtool.progress import progress_bar, say, warn
from avtool.tasks.pretrain import Pretraining, evaluate_pretraining, model_settings, spectrogram_settings
from avtool.tracking import RUN_JSON, MetricsLog, write_run_facts
from avtool.weights import find_starting_weights, load_vit

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
    def of(cls, recipe: Recipe, clips: int, device: torch.device) -> Schedule:
        passes = max(1, steps_per_epoch(clips, recipe.train.batch_size))
        accumulate = recipe.train.accumulate
        steps = recipe.max_steps or math.ceil((recipe.epochs or 0) * passes / accumulate)
        return cls(
            passes_per_epoch=passes,
            accumulate=accumulate,
            together=batches_in_a_pass(recipe, device),
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


def pretrain(
    recipe: Recipe,
    *,
    data: Path,
    out: Path,
    device: str = "auto",
    resume: bool = False,
    stop_after: int | None = None,
    force: bool = False,
    command: list[str] | None = None,
) -> Path:
    """Train by ``recipe`` on the prepared data in ``data`` and return the run folder ``out``.

    With ``resume``, go on from the newest whole checkpoint of ``out``, or start afresh where there is none.
    ``stop_after`` ends early after that step; the schedule stays as it is. On SIGINT or SIGTERM a checkpoint
    is written, then KeyboardInterrupt is raised. AvtoolError where the recipe, the data, the weights and the
    machine do not fit together; nothing is written before that is known.
    """
    check_output(out, force=force or resume, markers=(RUN_JSON,))
    target = resolve_device(device)
    precision = resolve_precision(recipe.train.precision, target)
    dataset = PreparedDataset(data, recipe.data.split)
    _check_sample_rate(recipe, dataset)
    if recipe.train.compile:
        check_compiler(target)
    keep_freed_memory(target)
    saved = _newest_checkpoint(recipe, out, force=force) if resume else None
    resumed_from = saved.folder.name if saved else None
    run = Run(recipe, dataset, folder=out, device=target, precision=precision, saved=saved)
    del saved  # as large as the model and its optimizer
    batches = run.batches()
    if out.exists() and resumed_from is None:
        shutil.rmtree(out)
    if run.step >= run.schedule.max_steps:
        say(f"{out} is finished: {run.step} of {run.schedule.max_steps} steps are done")
        return out
    write_run_facts(
        out,
        recipe_yaml=dump_recipe(recipe),
        command=command or [],
        resumed_from=resumed_from,
        data={"folder": str(data), "name": dataset.name, "checksum": dataset.checksum, "clips": len(dataset)},
        device=str(target),
        precision=run.precision_name,
        threads=torch.get_num_threads(),
    )
    say(
        f"pretraining on {len(dataset)} clips of {dataset.name}, {run.schedule.max_steps} steps of "
        f"{recipe.train.batch_size * recipe.train.accumulate} clips ({target}, {run.precision_name}), into {out}"
    )
    if resumed_from is None:
        run.evaluate(0)
    run.train(batches, stop=min(run.schedule.max_steps, stop_after or run.schedule.max_steps))
    run.evaluate(run.step)
    return out


def _check_sample_rate(recipe: Recipe, dataset: PreparedDataset) -> None:
    if recipe.spectrogram.sample_rate != dataset.sample_rate:
        raise TrainingError(
            f"spectrogram.sample_rate is {recipe.spectrogram.sample_rate}, but {dataset.folder} holds sound of "
            f"{dataset.sample_rate} samples a second",
            hint=f"spectrogram.sample_rate={dataset.sample_rate}",
        )


@dataclass(frozen=True)
class Saved:
    """What a checkpoint folder holds."""

    folder: Path
    weights: dict[str, Tensor]
    trainer: dict[str, Any]


def _newest_checkpoint(recipe: Recipe, out: Path, *, force: bool) -> Saved | None:
    """What to go on from. UsageError where the run was made by another recipe, unless ``force``."""
    saved = None
    for folder in reversed(checkpoints_of(out)):
        try:
            saved = Saved(folder, read_safetensors(folder / "model.safetensors"), load_trainer(folder))
            break
        except CheckpointError as error:
            warn(f"{folder} is damaged ({error.message}): trying the one before")
    if saved is None:
        say(f"no whole checkpoint in {out}: starting afresh")
        return None
    before = load_recipe(str(out / "recipe.yaml")).model_dump()
    differences = _differences(before, recipe.model_dump())
    if differences and not force:
        raise UsageError(
            f"{out} was made by another recipe: {'; '.join(differences)}",
            hint="resume with the settings it was started with, or add --force to go on with these",
        )
    say(f"resuming from {saved.folder}")
    return saved


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in now.items():
        if isinstance(value, dict):
            found += _differences(before[key], value, f"{prefix}{key}.")
        elif before[key] != value:
            found.append(f"{prefix}{key} was {before[key]}, is now {value}")
    return found


def _starting_weights(task: Pretraining, recipe: Recipe) -> list[str]:
    """Load what the recipe's ``init`` names; the prefixes of the parts that start from weights."""
    named, problems = {}, []
    for part in ("image", "audio"):
        try:
            named[part] = find_starting_weights(f"init.{part}", getattr(recipe.init, part))
        except CheckpointError as error:
            problems.append(error)
    if problems:  # all at once, so that one more round is enough
        raise CheckpointError(
            "; ".join(error.message for error in problems), hint="; ".join(error.hint for error in problems)
        )
    pretrained = []
    for part, path in named.items():
        if path is not None:
            load_vit(getattr(task.model.encoder, part), path)
            say(f"the {part} encoder starts from {path}")
            pretrained.append(f"model.encoder.{part}")
    return pretrained


class Run:
    """A training run: its task and optimizer, as new or as ``saved``, and the loop."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: PreparedDataset,
        *,
        folder: Path,
        device: torch.device,
        precision: torch.dtype,
        saved: Saved | None,
    ) -> None:
        self.recipe, self.dataset, self.folder = recipe, dataset, folder
        self.device, self.precision = device, precision
        self.schedule = Schedule.of(recipe, len(dataset), device)
        self.task = Pretraining.from_recipe(recipe)
        if saved:
            self.task.model.load_state_dict(saved.weights)
            self.step, self.seconds = saved.trainer["step"], saved.trainer["seconds"]
            self.pretrained = saved.trainer["pretrained"]
        else:
            self.step, self.seconds = 0, 0.0
            self.pretrained = _starting_weights(self.task, recipe)
        self.task.to(device).train()
        if recipe.train.compile:
            compile_blocks(self.task.model)
        groups = parameter_groups(
            self.task, weight_decay=recipe.optim.weight_decay, pretrained=self.pretrained
        )
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.optimizer = adamw(groups, betas=recipe.optim.betas)
        if saved:
            self.optimizer.load_state_dict(saved.trainer["optimizer"])

    @property
    def precision_name(self) -> str:
        return {torch.float32: "float32", torch.bfloat16: "bf16"}[self.precision]

    def autocast(self) -> torch.autocast:
        """The run's precision for a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16)

    def _views(self) -> dict[str, Any]:
        model, spectrogram = self.recipe.model, self.recipe.spectrogram
        return {
            "image_size": model.image_size,
            "window_samples": window_samples(model.audio_size[1], spectrogram.hop),
            "batch_size": self.recipe.train.batch_size,
            "workers": self.recipe.data.workers,
            "pin_memory": self.device.type == "cuda",
        }

    def batches(self) -> Iterator[Batch]:
        """Endless training batches, from where the run is."""
        data = self.recipe.data
        return training_loader(
            self.dataset,
            **self._views(),
            crop_scale=data.crop_scale,
            flip=data.flip,
            gain_db=data.gain_db,
            seed=self.recipe.seed,
            start_step=self.step * self.schedule.accumulate,
            together=self.schedule.together,
        )

    def train(self, batches: Iterator[Batch], *, stop: int) -> None:
        """Steps up to ``stop``, with logs and checkpoints; a checkpoint is left wherever it ends."""
        settings = self.recipe.train
        log = MetricsLog(self.folder, resume_step=self.step)
        meter = Meter(clips_per_step=settings.batch_size * settings.accumulate)
        with (
            Lanes(self.lanes()) as lanes,
            progress_bar("pretrain", total=self.schedule.max_steps, unit="steps", start=self.step) as bar,
            interruptible() as interrupted,
        ):
            while self.step < stop:
                rate = self.schedule.rate(self.step)
                set_learning_rate(self.optimizer, rate, ramp=self.schedule.ramp(self.step))
                losses = self.optimize(batches, lanes, meter)
                self.step += 1
                meter.steps += 1
                ends = self.step == stop or bool(interrupted)
                if ends or self.step % settings.log_every == 0:
                    values = {name: value.item() for name, value in losses.items()}
                    speed = meter.read()
                    self.seconds += speed.pop("elapsed")
                    facts = {"epoch": self.schedule.epochs(self.step), "seconds": self.seconds, "lr": rate}
                    log.write(step=self.step, **values, **facts, **speed)
                    shown = {"loss": f"{values['loss']:.3f}", "wait": f"{speed['waiting']:.0%}"}
                    bar.advance(0, **shown, clips=f"{speed['samples_per_second']:.0f}/s")
                bar.advance()
                if ends or self.step % settings.save_every == 0:
                    self.save()
                if interrupted:
                    say(
                        f"stopped after step {self.step}; the same command with --resume --out {self.folder} goes on"
                    )
                    raise KeyboardInterrupt

    def lanes(self) -> int:
        """Parts of a pass that are computed side by side; compiled blocks do not run in several threads."""
        clips = self.recipe.train.batch_size * self.schedule.together
        return 1 if self.recipe.train.compile else lanes_for(self.device, clips)

    def optimize(self, batches: Iterator[Batch], lanes: Lanes, meter: Meter) -> dict[str, Tensor]:
        """One optimizer step over ``accumulate`` batches; returns the mean of each loss over them."""
        rounds = self.schedule.accumulate // self.schedule.together
        total: dict[str, Tensor] = {}
        indices = []
        for _ in range(rounds):
            with meter.waiting():
                batch = next(batches)
            indices.append(batch["index"])
            batch = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
            losses = lanes.backward(self.losses, batch, self.parameters, scale=1 / rounds)
            for name, value in losses.items():
                total[name] = total.get(name, 0) + value / rounds
        self.check_finite(total, torch.cat(indices))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The task's losses in the run's precision."""
        with self.autocast():
            return self.task(batch)

    def check_finite(self, losses: dict[str, Tensor], indices: Tensor) -> None:
        """TrainingError, before the step, on anything that is not finite. Clips the gradient where the recipe says."""
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if norm.isfinite() and losses["loss"].isfinite():
            if self.recipe.optim.clip_grad is not None:
                torch.nn.utils.clip_grads_with_norm_(self.parameters, self.recipe.optim.clip_grad, norm)
            return
        bad = [f"loss {name}" for name, value in losses.items() if not value.isfinite()] or ["the gradient"]
        ids = [self.dataset.record(int(index)).id for index in indices]
        raise TrainingError(
            f"step {self.step + 1}: {', '.join(bad)} is not finite; the batch's clips: {', '.join(ids)}",
            hint=("earlier checkpoints are good; " if checkpoints_of(self.folder) else "")
            + "lower optim.base_lr, set optim.clip_grad, or use train.precision=float32",
        )

    def save(self) -> None:
        """Write a checkpoint, then let go of all but the newest ``keep``."""
        save_checkpoint(
            self.folder / CHECKPOINTS / f"step-{self.step:08d}",
            model=self.task.model,
            config=Config(
                model=model_settings(self.recipe),
                spectrogram=spectrogram_settings(self.recipe),
                origin=f"avtool pretrain on {self.dataset.name}, step {self.step} of {self.schedule.max_steps}",
            ),
            trainer={
                "step": self.step,
                "seconds": self.seconds,
                "pretrained": self.pretrained,
                "optimizer": self.optimizer.state_dict(),
            },
        )
        for old in checkpoints_of(self.folder)[: -self.recipe.train.keep]:
            shutil.rmtree(old)

    def evaluate(self, step: int) -> None:
        """Measure on held-out clips, where the data has a split that is not trained on; into metrics.jsonl."""
        limit = self.recipe.train.eval_clips
        others = [
            name for name, clips in self.dataset.splits.items() if clips and name != self.recipe.data.split
        ]
        if not limit or not others or self.recipe.data.split == "all":
            return
        split = "test" if "test" in others else others[0]
        held_out = PreparedDataset(self.dataset.folder, split)

        def batches(dataset: PreparedDataset) -> Iterator[Batch]:
            for batch in evaluation_loader(dataset, **self._views(), limit=limit):
                yield {name: value.to(self.device) for name, value in batch.items()}

        # Two passes over other sizes are not worth compiling for.
        with self.autocast(), torch.compiler.set_stance("force_eager"):
            values = evaluate_pretraining(self.task, lambda: batches(held_out), batches(self.dataset))
        MetricsLog(self.folder, resume_step=step).write(
            step=step, held_out=split, **{f"held_out_{name}": value for name, value in values.items()}
        )
        say(f"held out after step {step} (split {split}, {values['clips']:.0f} clips): {describe(values)}")


def describe(values: dict[str, float]) -> str:
    """Held-out measures in words, each with its floor."""
    text = f"loss {values['loss']:.3f}, {values['share_of_floor']:.3f} of what each patch's mean gets"
    accuracy = [
        f"{name.removeprefix('knn_')} {value:.1%}"
        for name, value in values.items()
        if name.startswith("knn_")
    ]
    if accuracy:
        text += f"; nearest-neighbour accuracy (knn, k = 1, among training clips): {', '.join(accuracy)}"
    return text


class Meter:
    """Speed and the share of time that went by waiting for data, since it was last read."""

    def __init__(self, *, clips_per_step: int) -> None:
        self.clips_per_step = clips_per_step
        self.steps, self.waited, self.since = 0, 0.0, time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The block waits for data."""
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began

    def read(self) -> dict[str, float]:
        """``elapsed`` seconds, ``samples_per_second``, and ``waiting``, a share of the time; then begin anew."""
        now = time.perf_counter()
        elapsed = now - self.since
        result = {
            "elapsed": elapsed,
            "samples_per_second": self.steps * self.clips_per_step / elapsed,
            "waiting": self.waited / elapsed,
        }
        self.steps, self.waited, self.since = 0, 0.0, now
        return result


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Collect the first of STOP_SIGNALS instead of dying of it in the middle of a step; the second one kills."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, previous[number])
        say("stopping after this step, with a checkpoint; once more ends at once and loses what is not saved")

    previous = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def dry_run(recipe: Recipe, *, data: Path, device: str = "auto") -> str:
    """What a run would be: parameters by part, shapes of one batch, and the schedule on the data in ``data``."""
    target = resolve_device(device)
    model = build_empty(model_settings(recipe))
    dataset = PreparedDataset(data, recipe.data.split)
    schedule = Schedule.of(recipe, len(dataset), target)
    encoder, size = model.encoder, recipe.model
    batch, samples = recipe.train.batch_size, window_samples(size.audio_size[1], recipe.spectrogram.hop)
    parts = {
        "image encoder": encoder.image,
        "audio encoder": encoder.audio,
        "fusion blocks": encoder.fusion_blocks,
        "image decoder": model.image_decoder,
        "audio decoder": model.audio_decoder,
    }
    lines = ["parameters", *(f"  {name:<16}{count_parameters(part):>14,}" for name, part in parts.items())]
    lines += [f"  {'all':<16}{count_parameters(model):>14,}", "shapes of a batch"]
    shapes = {
        "image": (batch, 3, *size.image_size),
        "waveform": (batch, samples),
        "log-mel": (batch, 1, *size.audio_size),
        "image patches": (batch, math.prod(encoder.image_grid)),
        "audio patches": (batch, math.prod(encoder.audio_grid)),
    }
    lines += [f"  {name:<16}{' x '.join(map(str, shape))}" for name, shape in shapes.items()]
    steps, clips = schedule.max_steps, schedule.max_steps * batch * schedule.accumulate
    lines += [
        "schedule",
        f"  {len(dataset):,} clips of {dataset.name} (split {recipe.data.split}), {steps:,} steps, {clips:,} samples, "
        f"{schedule.epochs(steps):.1f} epochs",
        f"  peak learning rate {schedule.peak_rate:g}, {schedule.warmup_steps:,} steps of warm-up",
    ]
    return "\n".join(lines)
