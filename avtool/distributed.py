"""Several processes that do one job, as ``torchrun`` starts them: each takes its share of the samples.

In training they share every batch, and DistributedDataParallel averages their gradients while the backward pass of a
step's last batch goes on: a step on N processes is that of one process with the whole batch. In an evaluation, and
where training measures held-out clips, they share the samples, and rank 0 gets what was computed of them.
"""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from avtool.errors import LOST, LOST_HINT, AvtoolError, UsageError, in_words

PATIENCE = timedelta(days=1)
"""How long processes wait for each other: while one of them measures or draws, the others have nothing to say. A
process that dies is noticed at once, however long this is."""


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

    def shard(self, count: int) -> slice:
        """This process's share of ``count`` samples: in order of rank they are all of them, each once, and no share is
        larger than another by more than one."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def gather(self, value: Any) -> list[Any]:
        """The ``value`` of every process, in order of rank, in every process. It is pickled. ProcessError where one is
        gone, or has an error to tell (``fail_together``)."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        with _all_there():
            dist.all_gather_object(gathered, value)
        for one in gathered:
            if isinstance(one, ProcessError):
                raise one
        return gathered

    def gather_to_rank0(self, value: Any) -> list[Any]:
        """``gather`` for what is large: rank 0 gets the values, the others nothing ([])."""
        if self.size == 1:
            return [value]
        collected: list[Any] | None = [None] * self.size if self.main else None
        with _all_there():
            dist.gather_object(value, collected)
        return collected or []

    def gather_rows(self, parts: Sequence[Tensor]) -> Tensor:
        """The rows (n, ...) in ``parts`` of every process, one after the other in order of rank, (N, ...), in every
        process. One that has none contributes none."""
        if self.size == 1:
            return torch.cat(list(parts))
        gathered = self.gather(torch.cat(list(parts)).cpu() if parts else None)
        whole = torch.cat([rows for rows in gathered if rows is not None])
        return whole.to(parts[0].device) if parts else whole

    def all_reduce_sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """The sum over all processes of each of ``values``, by name, in every process."""
        gathered = self.gather(dict(values))
        names = dict.fromkeys(name for one in gathered for name in one)
        return {name: sum(one.get(name, 0.0) for one in gathered) for name in names}

    @contextmanager
    def fail_together(self) -> Iterator[list[ProcessError]]:
        """A block that all processes end together, and that fails as a whole: an error of any of them is raised by rank
        0 at its next ``gather`` or at the block's end, and the others leave the block without one. They find it in the
        list that the block is given, once it has ended."""
        failed: list[ProcessError] = []
        if self.size == 1:
            yield failed
            return
        try:
            try:
                yield failed
                self.gather(None)
            except ProcessError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, the others wait for this process
                self.gather(ProcessError.of(error, self.rank))
        except ProcessError as error:
            failed.append(error)
            if self.main:
                raise

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


class Peers:
    """Those that share a batch with this process, each with as many samples of it, in order of ``rank``: the processes
    of the job. Threads that do (``avtool.replicas``) say how themselves."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def gather(self, rows: Tensor) -> Tensor:
        """The rows (n, ...) of each, in order of rank: (N, ...)."""
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows)
        return torch.cat(parts)

    def sum_of_own(self, rows: Tensor) -> Tensor:
        """Of the sum of everyone's ``rows`` (N, ...) those that this one gave: (n, ...)."""
        whole = rows.clone()
        dist.all_reduce(whole)
        return whole.chunk(dist.get_world_size())[self.rank]


_OF_THREAD = threading.local()


@contextmanager
def peers(given: Peers) -> Iterator[None]:
    """In the block this thread is one of several that share a batch."""
    _OF_THREAD.peers = given
    try:
        yield
    finally:
        del _OF_THREAD.peers


class _OfAll(torch.autograd.Function):
    """``Peers.gather``, with gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, among: Peers) -> Tensor:
        ctx.among = among
        return among.gather(rows.contiguous())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.among.sum_of_own(gradient.contiguous()), None


def all_gather_with_grad(rows: Tensor) -> tuple[Tensor, int]:
    """The ``rows`` (n, ...) of every process or thread that shares the batch, in order of rank, (N, ...), with
    gradient, and the number of this one's first: what a loss needs that relates the samples of a batch to each other.
    All of them have as many. Each computes the loss of its own rows, whose mean over all is that of the batch."""
    among: Peers | None = getattr(_OF_THREAD, "peers", None)
    if among is None and dist.is_available() and dist.is_initialized():
        among = Peers(dist.get_rank())
    return (rows, 0) if among is None else (_OfAll.apply(rows, among), among.rank * len(rows))


def of_batches(total: int, first: int, count: int, batch_size: int) -> Iterator[tuple[slice, slice]]:
    """The batches of ``batch_size`` among ``total`` rows in which some of the ``count`` from ``first`` on are: all rows
    of each, and which of them these are."""
    for start in range(0, total, batch_size):
        batch = slice(start, min(start + batch_size, total))
        own = slice(max(batch.start, first), min(batch.stop, first + count))
        if own.start < own.stop:
            yield batch, own


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


def started_by_torchrun() -> bool:
    """Whether this process is one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def local_device(device: torch.device) -> torch.device:
    """``device``, and where several processes share a machine with GPUs this one's own."""
    if device.type != "cuda" or device.index is not None or not started_by_torchrun():
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def process_group(device: torch.device) -> Iterator[World]:
    """The job that ``torchrun`` started this process for, or this process alone. Gloo on CPUs, NCCL on GPUs."""
    if not started_by_torchrun():
        yield World()
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UsageError(
            f"WORLD_SIZE is set, but {', '.join(missing)} is not: torchrun did not start this process",
            hint="torchrun --nproc-per-node N -m avtool ..., or unset WORLD_SIZE",
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, rank, size = next(iter(dist.rendezvous("env://")))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        # torchrun keeps its store over restarts: nothing that an attempt which failed left there is for this one.
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
