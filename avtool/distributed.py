"""Several processes that do one job, as ``torchrun`` starts them: each takes its share of the samples.

In training they share every batch. Gradients are averaged once a step, after the last pass of an accumulated batch;
parts of a model that a task leaves unused need no special care, and a step on N processes is that of one process with
the whole batch. In an evaluation they share the samples, and rank 0 gets what was computed of them.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather

from avtool.errors import LOST, LOST_HINT, AvtoolError, UsageError, in_words

BUCKET = 32 * 2**20
"""Elements that are averaged in one message."""


class ProcessError(AvtoolError):
    """What ends a job of several processes: an error of one of them, or that one is gone."""

    @classmethod
    def of(cls, error: Exception, rank: int) -> ProcessError:
        """``error`` of the process ``rank``, as it is sent to the others: with its traceback as a note."""
        known = in_words(error)
        made = cls(known.message, hint=known.hint)
        made.exit_code = known.exit_code
        made.add_note(f"process {rank}: {''.join(traceback.format_exception(error))}")
        return made


@dataclass(frozen=True)
class World:
    """The processes of a job: this one's ``rank`` of ``size``. Rank 0 alone talks and writes."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process talks and writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's share of ``count`` samples: in order of rank they are all of them, each once, and no share is
        larger than another by more than one."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, in place, by its mean over all processes."""
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            dist.all_reduce(flat)
            flat /= self.size
            for tensor, mean in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(mean.view_as(tensor))

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether ``flag`` is set in any process."""
        if self.size == 1:
            return flag
        value = torch.tensor(int(flag), device=device)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return bool(value.item())

    def gather(self, value: Any) -> list[Any]:
        """The ``value`` of every process, in order of rank, in every process. It is pickled. ProcessError where one is
        gone, or has an error to tell (``as_one``)."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        with _all_there():
            dist.all_gather_object(gathered, value)
        for one in gathered:
            if isinstance(one, ProcessError):
                raise one
        return gathered

    def collect(self, value: Any) -> list[Any]:
        """``gather`` for what is large: rank 0 gets the values, the others nothing ([])."""
        if self.size == 1:
            return [value]
        collected: list[Any] | None = [None] * self.size if self.main else None
        with _all_there():
            dist.gather_object(value, collected)
        return collected or []

    @contextmanager
    def as_one(self) -> Iterator[None]:
        """A block that all processes end together, and that fails as a whole: an error of any of them is raised by rank
        0 at its next ``gather`` or at the block's end, and the others leave the block without one."""
        if self.size == 1:
            yield
            return
        try:
            try:
                yield
                self.gather(None)
            except ProcessError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, the others wait for this process
                self.gather(ProcessError.of(error, self.rank))
        except ProcessError:
            if self.main:
                raise

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


def of_all(tensor: Tensor) -> Tensor:
    """The ``tensor`` (n, ...) of every process, in order of rank, (N, ...), with gradient: what a loss needs that
    relates the samples of a batch to each other. Each process then computes the whole batch's loss."""
    if not (dist.is_available() and dist.is_initialized()):
        return tensor
    return torch.cat(all_gather(tensor.contiguous()))


def share_batch_norm(module: nn.Module, world: World, device: torch.device) -> None:
    """Let the BatchNorms in ``module`` take their statistics over the samples of all processes. On GPUs only, where
    torch can; on CPUs every process takes those of its own share."""
    if world.size > 1 and device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)


@contextmanager
def _all_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ProcessError(LOST, hint=LOST_HINT) from error


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size + tensor.numel() > BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket


def started_by_torchrun() -> bool:
    """Whether this process is one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def local_device(device: torch.device) -> torch.device:
    """``device``, and where several processes share a machine with GPUs this one's own."""
    if device.type != "cuda" or device.index is not None or not started_by_torchrun():
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def joined(device: torch.device, *, patience: timedelta | None = None) -> Iterator[World]:
    """The job that ``torchrun`` started this process for, or this process alone. Gloo on CPUs, NCCL on GPUs.

    ``patience``: how long processes wait for each other (None: PyTorch's own choice); one that dies is noticed at once.
    """
    if not started_by_torchrun():
        yield World()
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UsageError(
            f"WORLD_SIZE is set, but {', '.join(missing)} is not: this is no job of torchrun's",
            hint="torchrun --nproc-per-node N -m avtool ..., or unset WORLD_SIZE",
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, rank, size = next(iter(dist.rendezvous("env://")))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        # torchrun keeps its store over restarts: nothing that an attempt which failed left there is for this one.
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=patience)
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
