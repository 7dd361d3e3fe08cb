"""Batches of views as torch tensors, the same for any number of workers and after a resume."""

import gc
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from avtool.data.dataset import PreparedDataset
from avtool.data.handover import (  # noqa: F401 - collate is offered here too
    LEAST_ROOM,
    PREFETCH,
    Batch,
    Parcel,
    Receiver,
    Sender,
    check_shared_memory,
    collate,
)
from avtool.data.views import TrainingViews
from avtool.errors import AvtoolError, DataError

# How many workers is the recipe's to say; a hint on it at every start is noise.
warnings.filterwarnings("ignore", message="This DataLoader will create")

ALL = slice(None)
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""What ends a run after its step: Ctrl-C, a scheduler, a terminal that closes."""
LAST_WORDS = 1.0
"""Seconds in which the death of a worker becomes known after the connection to it broke."""


def steps_per_epoch(clips: int, batch_size: int) -> int:
    """Whole batches in an epoch: the last short one is dropped."""
    return clips // batch_size


def training_loader(
    dataset: PreparedDataset,
    *,
    batch_size: int,
    workers: int,
    seed: int,
    start_step: int = 0,
    merged: int = 1,
    pin_memory: bool = False,
    **views: Any,
) -> Iterator[Batch]:
    """Endless batches of ``TrainingViews`` of all clips, made with ``views``, from step ``start_step`` on, ``merged``
    of them handed over as one.

    A batch: ``image`` uint8 (B, 3, rows, columns), ``waveform`` int16 (B, window_samples), ``gain_db`` float32
    (B,), ``index``, ``epoch`` and ``label`` int64 (B,). The order of an epoch is a function of (seed, epoch), the
    views one of (seed, epoch, index): the batch of a step is the same for any number of ``workers`` and any
    ``start_step``. Raises DataError where there are fewer clips than a batch.
    """
    if len(dataset) < batch_size:
        raise DataError(
            f"{dataset.folder} has {len(dataset)} clips of split {dataset.split}, a batch needs {batch_size}",
            hint=f"set train.batch_size={len(dataset)} or less"
            + ("" if dataset.split == "all" else ", or take every split: data.split=all"),
        )
    return batches_in_training(
        TrainingViews(dataset, seed=seed, **views),
        np.arange(len(dataset)),
        batch_size=batch_size,
        workers=workers,
        seed=seed,
        start_step=start_step,
        merged=merged,
        pin_memory=pin_memory,
    )


class DrawnViews(Protocol):
    """Training views: what sample ``index`` shows in ``epoch``."""

    def sample(self, epoch: int, index: int) -> dict[str, Any]: ...


class FixedViews(Protocol):
    """Evaluation views: what sample ``index`` shows, every time."""

    def sample(self, index: int) -> dict[str, Any]: ...


def batches_in_training(
    views: DrawnViews,
    chosen: np.ndarray,
    *,
    batch_size: int,
    workers: int,
    seed: int,
    start_step: int = 0,
    merged: int = 1,
    share: slice = ALL,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Endless batches of the samples ``chosen`` (N,) of ``views``, N at least ``batch_size``, in ``training_loader``'s
    order; ``share`` of each, where several processes have one batch."""
    order = _TrainingOrder(
        chosen, batch_size=batch_size, seed=seed, start_step=start_step, merged=merged, share=share
    )
    return _batches(_TrainingBatches(views), order, workers, pin_memory)


def batches_in_order(
    views: FixedViews, chosen: Sequence[int], *, batch_size: int, workers: int = 0, pin_memory: bool = False
) -> Iterator[Batch]:
    """The samples ``chosen`` of ``views`` once, in this order, the last batch short."""
    order = [chosen[start : start + batch_size] for start in range(0, len(chosen), batch_size)]
    return _batches(_EvaluationBatches(views), order, workers, pin_memory)


def spread_over(items: Sequence[int] | np.ndarray, limit: int | None) -> list[int]:
    """At most ``limit`` of ``items`` (None: all), spread evenly over them."""
    count = len(items) if limit is None else min(limit, len(items))
    return [int(items[position * len(items) // count]) for position in range(count)]


def epoch_order(clips: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the clips in an epoch, a function of the three numbers: int64 (clips,)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch)))).permutation(clips)


class _TrainingOrder(Sampler[list[tuple[int, int]]]):
    """For every step from ``start_step`` on the (epoch, index) of its samples, without end; ``merged`` steps make one
    item, over the end of an epoch if need be."""

    def __init__(
        self,
        chosen: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        start_step: int,
        merged: int,
        share: slice,
    ) -> None:
        self.chosen, self.batch_size, self.seed = chosen, batch_size, seed
        self.start_step, self.merged, self.share = start_step, merged, share

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        steps = self._steps()
        while True:
            yield [sample for _ in range(self.merged) for sample in next(steps)][self.share]

    def _steps(self) -> Iterator[list[tuple[int, int]]]:
        steps = steps_per_epoch(len(self.chosen), self.batch_size)
        epoch, first = divmod(self.start_step, steps)
        while True:
            order = self.chosen[epoch_order(len(self.chosen), self.seed, epoch)]
            for step in range(first, steps):
                samples = order[step * self.batch_size : (step + 1) * self.batch_size]
                yield [(epoch, int(index)) for index in samples]
            epoch, first = epoch + 1, 0


class _Batches(Dataset[Batch | Parcel]):
    """A whole batch is one item, so that a worker makes it without any hand-over in between."""

    def __init__(self, views: Any) -> None:
        self.views, self.sender = views, Sender()

    def made(self, views: Iterable[Callable[[], dict[str, Any]]]) -> Batch | Parcel:
        """A batch, or under the key ``error`` what it failed of: raised in a worker, it would come out as text."""
        try:
            return self.sender.send([view() for view in views])
        except AvtoolError as error:
            return {"error": error}


class _TrainingBatches(_Batches):
    def __getitems__(self, keys: list[tuple[int, int]]) -> Batch | Parcel:
        return self.made(partial(self.views.sample, epoch, index) for epoch, index in keys)


class _EvaluationBatches(_Batches):
    def __getitems__(self, indices: Sequence[int]) -> Batch | Parcel:
        return self.made(partial(self.views.sample, index) for index in indices)


def _batches(batches: _Batches, order: Any, workers: int, pin_memory: bool) -> Iterator[Batch]:
    """The batches, up to one that is an error, which is raised."""
    if workers:
        check_shared_memory(LEAST_ROOM)
    receiver = Receiver(batches.sender)
    with _out_of_workers_reach():
        arriving = iter(_loader(batches, order, workers, pin_memory))
    try:
        for item in _unless_lost(arriving):
            batch = item.unpacked() if isinstance(item, Parcel) else item
            if "error" in batch:
                raise batch["error"]
            yield batch
    finally:
        if workers and hasattr(signal, "SIGCHLD"):
            _end_workers(arriving)
    del receiver


@contextmanager
def _out_of_workers_reach() -> Iterator[None]:
    """What there is now is no garbage to workers that are forked meanwhile: to free a filter graph of PyAV's is to wait
    for threads that did not come by the fork."""
    frozen = gc.get_freeze_count()
    gc.freeze()
    try:
        yield
    finally:
        if not frozen:  # else it was the program's own wish
            gc.unfreeze()


def _unless_lost(arriving: Iterator[Any]) -> Iterator[Any]:
    """What arrives. Where a worker dies while memory of its is taken over, the connection to it breaks first; torch's
    handler of SIGCHLD, which says who died and of which signal, raises its RuntimeError a moment later."""
    try:
        yield from arriving
    except (ConnectionError, EOFError):
        time.sleep(LAST_WORDS)
        raise


def _end_workers(arriving: Any) -> None:
    """Torch's handler would raise once more, wherever that happens to be, for a worker that died, as others end."""
    if threading.current_thread() is not threading.main_thread():
        return  # handlers run in the main thread alone
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        arriving._shutdown_workers()
    finally:
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def _loader(batches: _Batches, order: Any, workers: int, pin_memory: bool) -> DataLoader[Any]:
    return DataLoader(
        batches,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_as_it_is,
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # nothing is drawn by it, and the global one is left alone
    )


def _as_it_is(batch: Any) -> Any:
    return batch


def _start_worker(worker: int) -> None:
    """Workers share the cores with each other and with the model: none starts threads of its own. What is
    sent to the whole process group (Ctrl-C, a scheduler's SIGTERM) is the training process's to act on: it ends them
    after its last step."""
    import cv2

    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    sys.excepthook = _unless_hung_up


def _unless_hung_up(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """In a worker what hands memory over reports here alone: that the training process has gone is no news."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
