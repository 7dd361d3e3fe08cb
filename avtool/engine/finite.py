"""That a step which is not finite changes no weight and ends the run, on every process, without waiting for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from avtool.errors import TrainingError
from avtool.places import checkpoints_of

if TYPE_CHECKING:
    from avtool.engine.run import Run


@dataclass
class _Noted:
    """What is on its way from the device: flags (K,) of a step, float32, 1 where one of ``names`` is finite, and last
    where a process was interrupted."""

    step: int
    names: list[str]
    flags: Tensor
    arrived: torch.cuda.Event | None
    indices: Tensor


class FiniteCheck:
    """Looks at losses and gradient of each step.

    On a CPU reading them costs nothing: TrainingError comes before the step. On a GPU it would make the host wait for
    everything it asked for, after every step. There the optimizer itself passes over such a step (``found_inf``), and
    what was found is copied aside and read while the next step is computed, or before anything is logged, measured or
    saved (``settle``); ``late`` says so.
    """

    def __init__(self, run: Run, *, late: bool | None = None) -> None:
        self.run = run
        self.late = run.device.type == "cuda" if late is None else late
        self.interrupted = False
        self._asked = torch.zeros((), device=run.device)
        self._noted: _Noted | None = None

    def mean_of(self, losses: dict[str, Tensor], interrupted: bool) -> dict[str, Tensor]:
        """The mean of each of the ``losses`` over the processes, in one message with who was ``interrupted``."""
        asked = torch.tensor(float(interrupted)).to(self.run.device, non_blocking=True)
        *means, self._asked = self.run.world.mean(torch.stack([*losses.values(), asked]).float())
        return dict(zip(losses, means, strict=True))

    def note(self, losses: dict[str, Tensor], norm: Tensor, indices: Tensor) -> None:
        """Before the step after ``run.step``: its ``losses`` and the ``norm`` of its gradient are to be finite.

        In fp16 a gradient that overflowed is the scaler's: it skips the step and scales less, down to not at all.
        """
        self.settle()
        scale = self.run.scaler.scale(torch.ones((), device=self.run.device))
        fine = [value.isfinite() for value in losses.values()]
        flags = torch.stack([*fine, norm.isfinite() | (scale > 1), self._asked > 0]).float()
        arrived = None
        if self.late and not self.run.scaler.is_enabled():
            bad = ~(losses["loss"].isfinite() & norm.isfinite())
            self.run.optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        if self.run.device.type == "cuda":
            flags = torch.empty_like(flags, device="cpu", pin_memory=True).copy_(flags, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._noted = _Noted(self.run.step + 1, [*losses, "gradient"], flags, arrived, indices)
        if not self.late:
            self.settle()

    def settle(self) -> None:
        """TrainingError where what was noted last is not finite: the loss, or the gradient."""
        if self._noted is None:
            return
        noted, self._noted = self._noted, None
        if noted.arrived is not None:
            noted.arrived.synchronize()
        *fine, asked = noted.flags.tolist()
        self.interrupted = bool(asked)
        finite = dict(zip(noted.names, fine, strict=True))
        if finite["loss"] and finite["gradient"]:
            return
        bad = [
            name if name == "loss" else f"{name} loss"
            for name, value in finite.items()
            if name != "gradient" and not value
        ]
        own = [self.run.dataset.record(int(index)).id for index in noted.indices]
        ids = [id for of_one in self.run.world.gather(own) for id in of_one]
        raise TrainingError(
            f"step {noted.step}: {' and '.join(bad or ['the gradient'])} {'are' if bad[1:] else 'is'} not finite; "
            f"the batch's clips: {', '.join(ids)}",
            hint=("earlier checkpoints are good; " if checkpoints_of(self.run.folder) else "")
            + "lower optim.base_lr, set optim.clip_grad, or use train.precision=float32",
        )
