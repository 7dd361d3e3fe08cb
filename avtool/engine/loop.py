"""The training loop: forward, loss / accumulation, backward, clip, step."""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from avtool.data.loader import STOP_SIGNALS
from avtool.errors import TrainingError
from avtool.optim import set_learning_rate
from avtool.progress import progress_bar, say
from avtool.replicas import Batch, autocast, in_parallel, without_sync

if TYPE_CHECKING:
    from avtool.engine.run import Run


def train(run: Run, batches: Iterator[Batch], *, stop: int) -> None:
    """Steps of ``run`` up to ``stop``, with logs and checkpoints; a checkpoint is left wherever it ends."""
    settings = run.recipe.train
    log = run.log if run.world.main else None
    work = {"gflop_per_sample": run.flop_of_sample / 1e9} if log else {}
    meter = Meter(clips_per_step=settings.batch_size * settings.accumulate)
    model, check = in_parallel(run.task, run.world, run.device, replicas=run.replicas), FiniteCheck(run)
    with (
        progress_bar(run.recipe.task, total=run.schedule.max_steps, unit="steps", start=run.step) as bar,
        interruptible() as interrupted,
    ):
        while run.step < stop:
            rate = run.schedule.rate(run.step)
            set_learning_rate(run.optimizer, rate, ramp=run.schedule.ramp(run.step))
            run.task.progress = run.step / run.schedule.max_steps
            losses = train_step(run, model, batches, check=check, meter=meter, interrupted=interrupted)
            run.step += 1
            meter.steps += 1
            ends = run.step == stop or (bool(interrupted) if run.world.size == 1 else check.interrupted)
            measures = settings.eval_every and run.step % settings.eval_every == 0 and run.step < stop
            saves = ends or run.step % settings.save_every == 0
            logs = ends or measures or run.step % settings.log_every == 0
            if saves or logs:
                check.raise_if_not_finite()  # nothing is kept of a step that was not finite
            if logs:
                values = {name: value.item() for name, value in losses.items()}
                speed = meter.read()
                run.seconds += speed.pop("elapsed")
                if log:
                    log.write(**run.position(), **values, lr=rate, **speed, **work)
                shown = {"loss": f"{values['loss']:.3f}", "wait": f"{speed['waiting']:.0%}"}
                bar.advance(0, **shown, clips=f"{speed['samples_per_second']:.0f}/s")
            bar.advance()
            if measures and not ends:
                with meter.timing("paused"):
                    run.evaluate()
            if saves:
                run.save()
            if ends and run.step < stop:
                again = f"the same command with --resume --out {run.folder} goes on"
                say(f"stopped after step {run.step}; {again}")
                raise KeyboardInterrupt


def train_step(
    run: Run,
    model: nn.Module,
    batches: Iterator[Batch],
    *,
    check: FiniteCheck,
    meter: Meter,
    interrupted: Sequence[int] = (),
) -> dict[str, Tensor]:
    """One optimizer step over ``accumulate`` batches; the mean of each loss over them and over the processes.

    ``model`` is the run's task as ``in_parallel`` gives it. ``check`` then knows whether a process was ``interrupted``.
    """
    micro_steps = run.schedule.micro_steps
    sums: dict[str, Tensor] = {}
    indices = []
    for number in range(1, micro_steps + 1):
        with meter.timing("waiting"):
            batch = next(batches)
        indices.append(batch["index"])
        batch = {name: value.to(run.device, non_blocking=True) for name, value in batch.items()}
        with meter.timing("working"), without_sync(model, last=number == micro_steps):
            with autocast(run.device, run.precision):
                losses = model(batch)
            loss = losses["loss"] / micro_steps
            run.scaler.scale(loss).backward()
        for name, value in losses.items():
            sums[name] = sums.get(name, 0) + value.detach() / micro_steps
    with meter.timing("working"):
        stop_requested = torch.tensor(float(bool(interrupted))).to(run.device, non_blocking=True)
        values = torch.stack([*sums.values(), stop_requested]).float()
        if run.world.size > 1:
            dist.all_reduce(values)
            values /= run.world.size
        *averages, stop_requested = values
        means = dict(zip(sums, averages, strict=True))
        run.scaler.unscale_(run.optimizer)
        norm = torch.nn.utils.get_total_norm([p.grad for p in run.parameters if p.grad is not None])
        check.record(means, norm, torch.cat(indices), stop_requested)
        if run.recipe.optim.clip_grad is not None:
            torch.nn.utils.clip_grads_with_norm_(run.parameters, run.recipe.optim.clip_grad, norm)
        run.scaler.step(run.optimizer)
        run.scaler.update()
        run.optimizer.zero_grad()
    if run.scaler.is_enabled():
        means["loss_scale"] = run.scaler.scale(torch.ones((), device=run.device))
    return means


class FiniteCheck:
    """Skips a step whose loss or gradient is not finite and ends the run, on every process, without waiting for it.

    Reading losses and gradient would make the host wait for everything it asked a GPU for, after every step. Instead
    the optimizer itself passes over such a step (``found_inf``), and what was found is copied aside and read while the
    next step is computed, or before anything is logged, measured or saved (``raise_if_not_finite``).
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.interrupted = False
        self._recorded: tuple[int, list[str], Tensor, torch.cuda.Event | None, Tensor] | None = None

    def record(self, losses: dict[str, Tensor], norm: Tensor, indices: Tensor, stop: Tensor) -> None:
        """Before the step after ``run.step``: its ``losses`` and the ``norm`` of its gradient are to be finite.
        ``indices`` are its clips; ``stop`` is above 0 where a process was interrupted.

        In fp16 a gradient that overflowed is the scaler's: it skips the step and scales less, down to not at all.
        """
        self.raise_if_not_finite()
        scale = self.run.scaler.scale(torch.ones((), device=self.run.device))
        fine = [value.isfinite() for value in losses.values()]
        flags = torch.stack([*fine, norm.isfinite() | (scale > 1), stop > 0]).float()
        arrived = None
        if not self.run.scaler.is_enabled():
            bad = ~(losses["loss"].isfinite() & norm.isfinite())
            self.run.optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        if self.run.device.type == "cuda":
            flags = torch.empty_like(flags, device="cpu", pin_memory=True).copy_(flags, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._recorded = (self.run.step + 1, [*losses, "gradient"], flags, arrived, indices)

    def raise_if_not_finite(self) -> None:
        """TrainingError where what was recorded last is not finite: the loss, or the gradient."""
        if self._recorded is None:
            return
        (step, names, flags, arrived, indices), self._recorded = self._recorded, None
        if arrived is not None:
            arrived.synchronize()
        *fine, stop_requested = flags.tolist()
        self.interrupted = bool(stop_requested)
        finite = dict(zip(names, fine, strict=True))
        gradient = finite.pop("gradient")
        if finite["loss"] and gradient:
            return
        bad = [name if name == "loss" else f"{name} loss" for name, value in finite.items() if not value]
        own = [self.run.dataset.record(int(index)).id for index in indices]
        ids = [id for of_one in self.run.world.gather(own) for id in of_one]
        raise TrainingError(
            f"step {step}: {' and '.join(bad or ['the gradient'])} {'are' if bad[1:] else 'is'} not finite; "
            f"the batch's clips: {', '.join(ids)}",
            hint=self.run.way_back(),
        )


class Meter:
    """Speed, and the shares of time that went by waiting for data and beside the work, since it was last read."""

    def __init__(self, *, clips_per_step: int) -> None:
        self.clips_per_step = clips_per_step
        self.steps, self.since = 0, time.perf_counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def timing(self, what: str) -> Iterator[None]:
        """The block is ``waiting`` for data, or ``working``: the task's and the optimizer's passes, averaging, the
        check of gradients, the step; or it is no part of the training that is timed (``paused``). An accelerator's time
        is seen where the host waits for it, at that check."""
        began = time.perf_counter()
        yield
        self.seconds[what] += time.perf_counter() - began

    def read(self) -> dict[str, float]:
        """``elapsed`` seconds, ``samples_per_second``, and as shares of the time ``waiting`` and ``overhead``, what was
        neither waiting nor working: transfers, logs, display, checkpoints; then begin anew."""
        now, spent = time.perf_counter(), self.seconds
        elapsed = now - self.since - spent["paused"]
        result = {
            "elapsed": elapsed,
            "samples_per_second": self.steps * self.clips_per_step / elapsed,
            "waiting": spent["waiting"] / elapsed,
            "overhead": max(0.0, 1 - (spent["waiting"] + spent["working"]) / elapsed),
        }
        self.steps, self.since, self.seconds = 0, now, defaultdict(float)
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
