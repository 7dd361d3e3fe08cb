"""Batches of views as torch tensors, the same for any number of workers and after a resume.

A worker writes a batch straight into a slot: memory that it shares with the main process and that is used again and
again. The main process copies it out. Fresh shared pages for every batch cost ten times what that copy does, and so
does a file descriptor for every tensor.
"""

from __future__ import annotations

import errno
import gc
import itertools
import signal
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch.utils.data import DataLoader, Dataset, default_convert, get_worker_info

from avtool.data.views import DrawnViews, FixedViews
from avtool.errors import AvtoolError, DataError, in_mebibytes, more_shared_memory
from avtool.places import SHARED_MEMORY, shared_memory

# How many workers is the recipe's to say; a hint on it at every start is noise.
warnings.filterwarnings("ignore", message="This DataLoader will create")

ALL = slice(None)
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""What ends a run after its step: Ctrl-C, a scheduler, a terminal that closes."""
LAST_WORDS = 1.0
"""Seconds in which the death of a worker becomes known after the connection to it broke."""
Batch = dict[str, Any]
View = dict[str, Any]

PREFETCH = 4
"""Batches that a worker makes ahead."""
SLOTS = PREFETCH + 2
"""Slots of a worker; a batch that finds none free is handed over as fresh tensors."""
LEAST_ROOM = 2**20
"""Bytes of /dev/shm without which no loader begins: its locks lie there too."""
ALIGNED = 64
"""Arrays in a slot begin at multiples of it; the first byte of a slot says whether it holds a batch."""
Place = tuple[str, str, tuple[int, ...], int]
"""Name, type, shape and first byte of an array in a slot."""


def steps_per_epoch(clips: int, batch_size: int) -> int:
    """Whole batches in an epoch: the last short one is dropped."""
    return clips // batch_size


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
    """Endless batches of the samples ``chosen`` (N,) of ``views``, N at least ``batch_size``, from step ``start_step``
    on, ``merged`` of them handed over as one; ``share`` of each, where several processes have one batch.

    A batch of ``TrainingViews``: ``image`` uint8 (B, 3, rows, columns), ``waveform`` int16 (B, window_samples),
    ``gain_db`` float32 (B,), ``index``, ``epoch`` and ``label`` int64 (B,). The order of an epoch is a function of
    (seed, epoch), the views one of (seed, epoch, index): the batch of a step is the same for any number of ``workers``
    and any ``start_step``.
    """

    def order() -> Iterator[list[tuple[int, int]]]:
        steps = _training_steps(chosen, batch_size, seed, start_step)
        while True:
            yield [sample for _ in range(merged) for sample in next(steps)][share]

    return _batches(views, order(), workers, pin_memory)


def batches_in_order(
    views: FixedViews, chosen: Sequence[int], *, batch_size: int, workers: int = 0, pin_memory: bool = False
) -> Iterator[Batch]:
    """The samples ``chosen`` of ``views`` once, in this order, the last batch short."""
    samples = [(index,) for index in chosen]
    order = (samples[start : start + batch_size] for start in range(0, len(samples), batch_size))
    return _batches(views, order, workers, pin_memory)


def spread_over(items: Sequence[int] | np.ndarray, limit: int | None) -> list[int]:
    """At most ``limit`` of ``items`` (None: all), spread evenly over them."""
    count = len(items) if limit is None else min(limit, len(items))
    return [int(items[position * len(items) // count]) for position in range(count)]


def epoch_order(clips: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the clips in an epoch, a function of the three numbers: int64 (clips,)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch)))).permutation(clips)


def _training_steps(
    chosen: np.ndarray, batch_size: int, seed: int, start_step: int
) -> Iterator[list[tuple[int, int]]]:
    """For every step from ``start_step`` on the (epoch, index) of its samples, without end."""
    steps = steps_per_epoch(len(chosen), batch_size)
    epoch, first = divmod(start_step, steps)
    while True:
        order = chosen[epoch_order(len(chosen), seed, epoch)]
        for step in range(first, steps):
            yield [(epoch, int(index)) for index in order[step * batch_size : (step + 1) * batch_size]]
        epoch, first = epoch + 1, 0


class _Batches(Dataset[Any]):
    """A whole batch is one item, so that a worker makes it without any hand-over in between."""

    def __init__(self, views: DrawnViews | FixedViews) -> None:
        self.views, self.sender = views, Sender()

    def __getitems__(self, samples: Sequence[tuple[int, ...]]) -> Batch | Parcel:
        """A batch, or under the key ``error`` what it failed of: raised in a worker, it would come out as text."""
        try:
            return self.sender.send([self.views.sample(*sample) for sample in samples])
        except AvtoolError as error:
            return {"error": error}


def _batches(
    views: DrawnViews | FixedViews, order: Iterator[Any], workers: int, pin_memory: bool
) -> Iterator[Batch]:
    """The batches of samples in ``order``, up to one that is an error, which is raised."""
    if workers:
        check_shared_memory(LEAST_ROOM)
    batches = _Batches(views)
    receiver = Receiver(batches.sender)
    with _without_collector():
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
def _without_collector() -> Iterator[None]:
    """No garbage is collected in the block, nor in workers that are forked in it, up to ``_start_worker``."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


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


def _loader(batches: _Batches, order: Iterator[Any], workers: int, pin_memory: bool) -> DataLoader[Any]:
    return DataLoader(
        batches,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=default_convert,  # a batch stays as it is
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # nothing is drawn by it, and the global one is left alone
    )


def _start_worker(worker: int) -> None:
    """Workers share the cores with each other and with the model: none starts threads of its own. What is
    sent to the whole process group (Ctrl-C, a scheduler's SIGTERM) is the training process's to act on: it ends them
    after its last step."""
    import cv2

    gc.freeze()  # what came by the fork stays: to free a filter graph of PyAV's is to wait for threads that did not
    gc.enable()
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)
    threadpool_limits(1, "blas")
    torch.set_num_threads(1)
    sys.excepthook = _unless_hung_up


def _unless_hung_up(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """In a worker what hands memory over reports here alone: that the training process has gone is no news."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


# From a worker to the main process --------------------------------------------------------------------


def collate(views: Sequence[View]) -> Batch:
    """Views as one batch of tensors."""
    return {name: torch.from_numpy(np.stack(values)) for name, values in _columns(views).items()}


def _columns(views: Sequence[View]) -> dict[str, list[np.ndarray]]:
    """What is stacked, by name."""
    return {name: [np.asarray(view[name]) for view in views] for name in views[0]}


class Sender:
    """Hands over the batches of one loader: made in the main process, put to use in each of its workers."""

    numbers = itertools.count()

    def __init__(self) -> None:
        self.number = next(self.numbers)
        self.slots: list[np.ndarray] = []

    def send(self, views: Sequence[View]) -> Batch | Parcel:
        """A batch of views: in a worker as it crosses to the main process, elsewhere as it is."""
        worker = get_worker_info()
        number = next((k for k, slot in enumerate(self.slots) if not slot[0]), len(self.slots))
        if worker is None or number == SLOTS:
            return collate(views)
        arrays = _columns(views)
        places, size = _arranged(arrays)
        memory = None
        if number == len(self.slots) or len(self.slots[number]) < size:
            memory = _shared(size, batch=len(views), workers=worker.num_workers)
            self.slots[number : number + 1] = [memory.numpy()]
        slot = self.slots[number]
        for place in places:
            np.stack(arrays[place[0]], out=_array(slot, place))
        slot[0] = True
        return Parcel(self.number, (worker.id, number), memory, places)


def _shared(size: int, *, batch: int, workers: int) -> torch.Tensor:
    """``size`` bytes that processes share, for a batch of ``batch`` samples; DataError where /dev/shm is full."""
    needed = workers * SLOTS * size
    who = "1 worker" if workers == 1 else f"{workers} workers"
    words = f": {who} with batches of {batch} may need {in_mebibytes(needed)}"
    check_shared_memory(size, needed, words)
    try:
        return torch.empty(size, dtype=torch.uint8).share_memory_()
    except RuntimeError as error:  # another worker was quicker
        if f"({errno.ENOSPC})" in str(error):
            raise _full(needed, words) from error
        raise


def check_shared_memory(size: int, needed: int = 0, words: str = "") -> None:
    """DataError where /dev/shm has no room for ``size`` bytes; ``words`` say what takes the ``needed`` bytes."""
    found = shared_memory()
    if found is not None and found[1] < size:
        raise _full(needed, words)


def _full(needed: int, words: str) -> DataError:
    found = shared_memory()
    figures = f" ({in_mebibytes(found[0])} in all, {in_mebibytes(found[1])} free)" if found else ""
    return DataError(
        f"{SHARED_MEMORY} is full{figures}{words}",
        hint=f"{more_shared_memory(needed)}, or take fewer workers (data.workers, --workers) or smaller batches "
        "(train.batch_size, --batch-size)",
    )


def _arranged(arrays: dict[str, list[np.ndarray]]) -> tuple[list[Place], int]:
    """Where each array goes once it is stacked, and the bytes of a slot for all."""
    places, end = [], ALIGNED
    for name, values in arrays.items():
        places.append((name, values[0].dtype.str, (len(values), *values[0].shape), end))
        end += -(-len(values) * values[0].nbytes // ALIGNED) * ALIGNED
    return places, end


def _array(slot: np.ndarray, place: Place) -> np.ndarray:
    _, dtype, shape, begin = place
    return np.ndarray(shape, dtype, slot, begin)


class Receiver:
    """The slots of one loader's workers as the main process knows them. Hold it while batches arrive."""

    known: ClassVar[weakref.WeakValueDictionary[int, Receiver]] = weakref.WeakValueDictionary()

    def __init__(self, sender: Sender) -> None:
        self.slots: dict[tuple[int, int], np.ndarray] = {}
        self.known[sender.number] = self


@dataclass(frozen=True)
class Parcel:
    """A batch on its way: in ``slot`` (worker, slot) of ``loader``, which comes along as ``memory`` the first time."""

    loader: int
    slot: tuple[int, int]
    memory: torch.Tensor | None
    places: list[Place]

    def unpacked(self, *, pin: bool = False) -> Batch:
        """The batch in memory of its own; its slot is free again."""
        slots = Receiver.known[self.loader].slots
        if self.memory is not None:
            slots[self.slot] = self.memory.numpy()
        slot = slots[self.slot]
        batch = {}
        for place in self.places:
            array = _array(slot, place)
            copy = torch.empty(array.shape, dtype=torch.from_numpy(array[:0]).dtype, pin_memory=pin)
            np.copyto(copy.numpy(), array)  # by one thread: more would take the workers' cores
            batch[place[0]] = copy
        slot[0] = False
        return batch

    def pin_memory(self) -> Batch:
        """What DataLoader's own thread calls where batches are to be in pinned memory."""
        return self.unpacked(pin=True)
