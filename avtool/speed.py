"""How much arithmetic a pass takes, how fast a device does it, and the speed of a run in words."""

import math
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from avtool.distributed import Peers, peers
from avtool.replicas import autocast, batch_norms

Pass = Callable[[], object]
"""A function without arguments that frees what it made before it returns."""
MIN_SECONDS = 0.1
"""A pass shorter than this is repeated within its turn until the turn takes so long."""
PRODUCT_SIDE = 4096
"""A device's rate, which GFLOP-equivalents are expressed in too, is that of a product of two square matrices of this
side."""


def seconds_of(run: Pass, device: torch.device) -> Callable[[], float]:
    """A measure: the seconds of a pass. At first, in the warm-up, the pass runs twice: once for what is made or
    compiled at first use, once to see how often it has to run in a turn."""
    repeats = 0

    def measure() -> float:
        nonlocal repeats
        if not repeats:
            run()
        synchronize(device)
        began = time.perf_counter()
        for _ in range(repeats or 1):
            run()
        synchronize(device)
        taken = (time.perf_counter() - began) / (repeats or 1)
        repeats = repeats or max(1, math.ceil(MIN_SECONDS / taken))
        return taken

    return measure


def synchronize(device: torch.device) -> None:
    """Wait until ``device`` has done what it was asked for."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def matrix_product(side: int, device: torch.device, precision: torch.dtype) -> Pass:
    """One product of two matrices ``side`` x ``side``."""
    first, second = torch.randn(2, side, side, device=device).to(precision)
    return lambda: first @ second


def product_rate(device: torch.device, precision: torch.dtype) -> float:
    """Floating-point operations a second of ``device`` in a large matrix product."""
    seconds = seconds_of(matrix_product(PRODUCT_SIDE, device, precision), device)
    seconds()
    return 2 * PRODUCT_SIDE**3 / seconds()


def count_flops(run: Pass) -> int:
    """Floating-point operations of the matrix products, convolutions and fused attention in ``run``, compiled or not
    (a multiplication and an addition are two)."""
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


class _Alone(Peers):
    """Nobody shares the batch, whatever other processes there are."""

    def gather(self, rows: Tensor) -> Tensor:
        return rows

    sum_of_own = gather


def flop_of_sample(
    task: nn.Module, batch: Mapping[str, Tensor], *, device: torch.device, precision: torch.dtype
) -> tuple[float, list[Tensor]]:
    """Floating-point operations (as ``count_flops``) that training ``task`` on ``device`` takes for a sample, forward
    and backward, recomputation included, counted on a small ``batch`` in this process alone; and the parameters that
    get a gradient. Weights, gradients, buffers and torch's generators stay as they are."""
    own = {
        **{
            name: value.detach().requires_grad_(value.requires_grad)
            for name, value in task.named_parameters()
        },
        **{name: value.clone() for name, value in task.named_buffers()},
    }
    batch = {name: value.to(device) for name, value in batch.items()}

    def run() -> None:
        with autocast(device, precision):
            loss = functional_call(task, own, (batch,))["loss"]
        loss.backward()

    generators = [device] if device.type == "cuda" else []
    norms = [part for part in batch_norms(task) if part.training]
    try:
        for part in norms:  # as many operations, and none that waits for other processes
            part.eval()
        with torch.random.fork_rng(devices=generators), peers(_Alone(0)):
            flop = count_flops(run) / len(batch["index"])
    finally:
        for part in norms:
            part.train()
    return flop, [value for name, value in task.named_parameters() if own[name].grad is not None]


def figure(value: float) -> str:
    """A number with three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def in_hours(seconds: float) -> str:
    """A time in hours, or in minutes or seconds where it is shorter than one."""
    unit, size = next(
        ((name, size) for name, size in (("hours", 3600), ("minutes", 60)) if seconds >= size), ("s", 1)
    )
    return f"{figure(seconds / size)} {unit}"
