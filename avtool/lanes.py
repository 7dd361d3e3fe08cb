"""Training on the cores of a CPU: each takes its share of a batch with a thread of its own.

Small models spend most of a step in operations too short to split: with two OpenMP threads they wait for each other
after every one of them, and crawl where another process takes a core. Two lanes of one thread each meet once a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

Batch = dict[str, Tensor]
Losses = dict[str, Tensor]

CLIPS_PER_LANE = 8
"""With fewer, operations are split over threads as usual."""


def lanes_for(device: torch.device, batch_size: int) -> int:
    """As many lanes as torch has threads, on a CPU, where they divide the batch into parts that are large enough."""
    threads = torch.get_num_threads()
    if device.type == "cpu" and batch_size % threads == 0 and batch_size >= threads * CLIPS_PER_LANE:
        return threads
    return 1


class Lanes:
    """Backward passes over ``count`` equal parts of a batch at once; while it is open, torch has one thread a lane."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count) if count > 1 else None
        self._threads = torch.get_num_threads()

    def __enter__(self) -> Self:
        if self._pool is not None:
            torch.set_num_threads(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            torch.set_num_threads(self._threads)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The block has all of torch's threads to itself, as if no lanes were open."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def backward(
        self,
        losses_of: Callable[[Batch], Losses],
        batch: Batch,
        parameters: Sequence[Tensor],
        *,
        scale: float,
    ) -> Losses:
        """Add ``scale`` times the gradient of the mean ``loss`` to each parameter's ``grad``; return the losses.

        ``losses_of`` gives a batch's mean losses, without a graph between samples of a batch. Sums are taken in a fixed
        order, so that the same number of lanes gives the same bits.
        """
        if self._pool is None:
            losses = losses_of(batch)
            (losses["loss"] * scale).backward()
            return {name: value.detach() for name, value in losses.items()}

        def lane(part: Batch) -> tuple[Losses, list[Tensor | None]]:
            losses = losses_of(part)
            gradients = torch.autograd.grad(
                losses["loss"] * (scale / self.count), parameters, allow_unused=True
            )
            return {name: value.detach() for name, value in losses.items()}, list(gradients)

        split = {name: value.chunk(self.count) for name, value in batch.items()}
        parts = [{name: chunks[number] for name, chunks in split.items()} for number in range(self.count)]
        results = list(self._pool.map(lane, parts))
        for _, gradients in results:
            _add_gradients(parameters, gradients)
        return {name: torch.stack([losses[name] for losses, _ in results]).mean() for name in results[0][0]}


def _add_gradients(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    have, add = [], []
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        if parameter.grad is None:
            parameter.grad = gradient
        else:
            have.append(parameter.grad)
            add.append(gradient)
    if have:
        torch._foreach_add_(have, add)
