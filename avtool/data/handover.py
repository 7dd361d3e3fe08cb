"""Batches from a worker process to the main one.

A worker writes a batch straight into a slot: memory that both share and that is used again and again. The main process
copies it out. Fresh shared pages for every batch cost ten times what that copy does, and so does a file descriptor for
every tensor.
"""

from __future__ import annotations

import errno
import itertools
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import get_worker_info

from avtool.errors import DataError, in_mebibytes, more_shared_memory
from avtool.places import SHARED_MEMORY, shared_memory

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
        tensors = {place[0]: _copied(_array(slot, place), pin=pin) for place in self.places}
        slot[0] = False
        return tensors

    def pin_memory(self) -> Batch:
        """What DataLoader's own thread calls where batches are to be in pinned memory."""
        return self.unpacked(pin=True)


def _copied(array: np.ndarray, *, pin: bool) -> torch.Tensor:
    """By one thread: more would take the workers' cores."""
    copy = torch.empty(array.shape, dtype=torch.from_numpy(array[:0]).dtype, pin_memory=pin)
    np.copyto(copy.numpy(), array)
    return copy
