"""One way to call a task in training, whatever it runs on: over several processes, over the cores of a CPU, or alone.

Small models spend most of a step in operations too short to split: with two OpenMP threads they wait for each other
after every one of them, and crawl where another process takes a core. Two replicas of one thread each meet twice a
step. Unlike processes they share weights, gradients and moments, and nothing has to be started or to be missed.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from avtool.distributed import Peers, World, peers

# Those of the patch embeddings: their weights are stored as convolutions and used as matrices.
warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")

Batch = dict[str, Tensor]
Losses = dict[str, Tensor]
Result = TypeVar("Result")

CLIPS_PER_REPLICA = 8
"""With fewer, operations are split over threads as usual."""


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Forward passes on ``device`` in ``precision``: float32 weights, cast where they are used."""
    half = precision != torch.float32
    return torch.autocast(device.type, precision if half else None, enabled=half)


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """The parts of ``module`` in which samples see each other in training."""
    return [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]


def replicas_for(
    task: nn.Module, batch_size: int, device: torch.device, *, compiled: bool = False, processes: int = 1
) -> int:
    """As many replicas as torch has threads, on a CPU, where they divide the batch into parts that are large enough.

    Several processes share the cores already, compiled blocks do not run in several threads, and BatchNorm is to see
    the whole batch."""
    threads = torch.get_num_threads()
    enough = batch_size % threads == 0 and batch_size >= threads * CLIPS_PER_REPLICA
    if device.type != "cpu" or not enough or processes > 1 or compiled or batch_norms(task):
        return 1
    return threads


def in_parallel(task: nn.Module, world: World, device: torch.device, *, replicas: int) -> nn.Module:
    """``task`` as the training loop calls it; its ``unused_parameters``: whether some of them get no gradient."""
    if world.size > 1:
        with warnings.catch_warnings():
            # Not `forward_sync_buffers`, its new name: torch 2.11 does not have it.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return DistributedDataParallel(
                task,
                device_ids=[device] if device.type == "cuda" else None,
                broadcast_buffers=False,  # of BatchNorm alone: all have the same on GPUs, rank 0's are kept on CPUs
                gradient_as_bucket_view=True,
                find_unused_parameters=bool(task.unused_parameters),
            )
    return Replicas(task, replicas) if replicas > 1 else task


def without_sync(model: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """For a batch of an accumulated step: processes average gradients in the backward pass of the ``last`` alone."""
    return nullcontext() if last or not isinstance(model, DistributedDataParallel) else model.no_sync()


class Replicas(nn.Module):
    """``task`` over the cores of a CPU: ``count`` threads of one core each take equal shares of a batch, forward and
    backward, with one set of weights.

    As with DistributedDataParallel, ``forward`` gives losses of whose ``loss`` the backward pass adds the mean gradient
    to each parameter's ``grad``. Sums are taken in a fixed order, so that the same count gives the same bits.
    """

    def __init__(self, task: nn.Module, count: int) -> None:
        super().__init__()
        self.task, self.count = task, count
        # A thread's first products are split by MKL, whatever was set in other threads, until it is set here too.
        self._pool = ThreadPoolExecutor(
            count, thread_name_prefix="replica", initializer=torch.set_num_threads, initargs=(1,)
        )

    def forward(self, batch: Batch) -> Losses:
        """The mean over the replicas of each of the task's losses of their shares of ``batch``."""
        split = {name: value.chunk(self.count) for name, value in batch.items()}
        meeting = _Meeting(self.count)
        results = self.each(
            meeting, lambda rank: self.task({name: parts[rank] for name, parts in split.items()})
        )
        mean = {
            name: torch.stack([losses[name].detach() for losses in results]).mean() for name in results[0]
        }
        trained = [parameter for parameter in self.task.parameters() if parameter.requires_grad]
        mean["loss"] = _MeanLoss.apply(self, meeting, [losses["loss"] for losses in results], *trained)
        return mean

    def each(self, meeting: _Meeting, work: Callable[[int], Result]) -> list[Result]:
        """What ``work`` gives in each replica, by rank, in this thread's autocast; the first error of its own."""
        half, enabled = torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")

        def replica(rank: int) -> Result:
            try:
                with peers(_Peer(meeting, rank)), torch.autocast("cpu", half, enabled=enabled):
                    return work(rank)
            except BaseException:
                meeting.barrier.abort()  # the others do not wait for this one
                raise

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # operations are not split over threads meanwhile
        try:
            futures = [self._pool.submit(replica, rank) for rank in range(self.count)]
            errors = [error for error in (future.exception() for future in futures) if error is not None]
        finally:
            torch.set_num_threads(threads)
        for error in errors:
            if not isinstance(error, threading.BrokenBarrierError):
                raise error
        return [future.result() for future in futures]


class _MeanLoss(torch.autograd.Function):
    """The mean of the replicas' losses; its backward pass is theirs, side by side."""

    @staticmethod
    def forward(
        ctx: Any, replicas: Replicas, meeting: _Meeting, losses: list[Tensor], *parameters: Tensor
    ) -> Tensor:
        ctx.replicas, ctx.meeting, ctx.losses, ctx.parameters = replicas, meeting, losses, parameters
        return torch.stack([loss.detach() for loss in losses]).mean()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        share = gradient / ctx.replicas.count

        def replica(rank: int) -> list[Tensor | None]:
            return list(torch.autograd.grad(ctx.losses[rank], ctx.parameters, share, allow_unused=True))

        first, *others = ctx.replicas.each(ctx.meeting, replica)
        for gradients in others:
            pairs = [(one, two) for one, two in zip(first, gradients, strict=True) if one is not None]
            torch._foreach_add_(*map(list, zip(*pairs, strict=True)))
        return None, None, None, *first


class _Meeting:
    """Where the replicas of one pass hand each other tensors."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size)
        self.brought = [torch.empty(0)] * size

    def exchange(self, rank: int, tensor: Tensor) -> list[Tensor]:
        """What each replica brought, by rank."""
        self.brought[rank] = tensor
        self.barrier.wait()
        found = list(self.brought)
        self.barrier.wait()  # before anybody brings something else
        return found


class _Peer(Peers):
    """A replica among those of its pass."""

    def __init__(self, meeting: _Meeting, rank: int) -> None:
        super().__init__(rank)
        self.meeting = meeting

    def gather(self, rows: Tensor) -> Tensor:
        return torch.cat(self.meeting.exchange(self.rank, rows))

    def sum_of_own(self, rows: Tensor) -> Tensor:
        parts = self.meeting.exchange(self.rank, rows)
        return torch.stack([part.chunk(len(parts))[self.rank] for part in parts]).sum(dim=0)
