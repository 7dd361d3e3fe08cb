"""The training loop: forward, loss / accumulation, backward, clip, step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from avtool.engine.finite import FiniteCheck
from avtool.engine.meter import Meter, interruptible
from avtool.optim import set_learning_rate
from avtool.progress import progress_bar, say
from avtool.replicas import Batch, without_sync

if TYPE_CHECKING:
    from avtool.engine.run import Run


def train(run: Run, batches: Iterator[Batch], *, stop: int) -> None:
    """Steps of ``run`` up to ``stop``, with logs and checkpoints; a checkpoint is left wherever it ends."""
    settings = run.recipe.train
    log = run.log if run.world.main else None  # opened here: rows behind this step go before the next one
    meter = Meter(clips_per_step=settings.batch_size * settings.accumulate)
    model, check = run.in_parallel(), FiniteCheck(run)
    with (
        progress_bar(run.recipe.task, total=run.schedule.max_steps, unit="steps", start=run.step) as bar,
        interruptible() as interrupted,
    ):
        while run.step < stop:
            rate = run.schedule.rate(run.step)
            set_learning_rate(run.optimizer, rate, ramp=run.schedule.ramp(run.step))
            losses = train_step(run, model, batches, check=check, meter=meter, interrupted=interrupted)
            run.step += 1
            meter.steps += 1
            ends = run.step == stop or (bool(interrupted) if run.world.size == 1 else check.interrupted)
            measures = settings.eval_every and run.step % settings.eval_every == 0 and run.step < stop
            saves = ends or run.step % settings.save_every == 0
            logs = ends or measures or run.step % settings.log_every == 0
            if saves or logs:
                check.settle()  # nothing is kept of a step that was not finite
            if logs:
                values = {name: value.item() for name, value in losses.items()}
                speed = meter.read()
                run.seconds += speed.pop("elapsed")
                if log:
                    log.write(**run.position(), **values, lr=rate, **speed)
                shown = {"loss": f"{values['loss']:.3f}", "wait": f"{speed['waiting']:.0%}"}
                bar.advance(0, **shown, clips=f"{speed['samples_per_second']:.0f}/s")
            bar.advance()
            if measures and not ends:
                with meter.paused():
                    run.evaluate()
            if saves:
                run.save()
            if ends and run.step < stop:
                say(
                    f"stopped after step {run.step}; the same command with --resume --out {run.folder} goes on"
                )
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

    ``model`` is the task as ``run.in_parallel`` gives it. ``check`` then knows whether any process was ``interrupted``.
    """
    micro_steps = run.schedule.micro_steps
    sums: dict[str, Tensor] = {}
    indices = []
    for number in range(1, micro_steps + 1):
        with meter.waiting():
            batch = next(batches)
        indices.append(batch["index"])
        batch = {name: value.to(run.device, non_blocking=True) for name, value in batch.items()}
        with meter.working(), without_sync(model, last=number == micro_steps):
            with run.autocast():
                losses = model(batch)
            loss = losses["loss"] / micro_steps
            run.scaler.scale(loss).backward()
        for name, value in losses.items():
            sums[name] = sums.get(name, 0) + value.detach() / micro_steps
    with meter.working():
        means = check.mean_of(sums, bool(interrupted))
        run.scaler.unscale_(run.optimizer)
        norm = torch.nn.utils.get_total_norm([p.grad for p in run.parameters if p.grad is not None])
        check.note(means, norm, torch.cat(indices))
        if run.recipe.optim.clip_grad is not None:
            torch.nn.utils.clip_grads_with_norm_(run.parameters, run.recipe.optim.clip_grad, norm)
        run.scaler.step(run.optimizer)
        run.scaler.update()
        run.optimizer.zero_grad()
    if run.scaler.is_enabled():
        means["loss_scale"] = run.scaler.scale(torch.ones((), device=run.device))
    return means
