"""How much memory a training step takes, from shapes alone: it is run on tensors that have a size and no content."""

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from avtool.devices import autocast

ShapeUnknown = DataDependentOutputException, DynamicOutputShapeException
"""A task whose shapes depend on what is in its tensors raises one of these."""


@dataclass(frozen=True)
class Memory:
    """Bytes: of ``weights`` and buffers, of the ``gradients``, of the activations that the forward pass keeps for the
    backward pass (``kept``, inputs included), and ``peak``, the most there is at once in a step above the weights and
    the optimizer's moments."""

    weights: int
    gradients: int
    kept: int
    peak: int


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make while it is open, each storage once, until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._seen: set[int] = set()

    def note(self, made: Any) -> None:
        """Count what is new among the tensors in ``made``."""
        for tensor in tree_leaves(made):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage._cdata in self._seen:
                continue
            self._seen.add(storage._cdata)
            self.alive += storage.nbytes()
            weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.alive)

    def _forget(self, storage: int, size: int) -> None:
        self._seen.discard(storage)
        self.alive -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.note(made)
        return made


def memory_of_step(
    task: nn.Module,
    sample: Mapping[str, Tensor],
    *,
    clips: int,
    replicas: int,
    micro_steps: int,
    device: torch.device,
    precision: torch.dtype,
) -> Memory:
    """What one step of ``task`` takes on ``device``: ``micro_steps`` over ``clips`` clips each, which ``replicas``
    share.

    ``sample`` is a batch of one clip. The task's own tensors are replaced: it is of no use afterwards. Forward and
    backward run operation by operation with the shapes, types and lifetimes of a real step, recomputation and autocast
    included; what a kernel takes for itself inside an operation is not seen, nor what torch.compile saves. One of
    ``ShapeUnknown`` where a shape depends on values.
    """
    task.train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        _without_content(task, device)
        size = clips // replicas
        batch = {
            name: torch.empty((size, *value.shape[1:]), dtype=value.dtype, device=device)
            for name, value in sample.items()
        }
        weights = [p for p in task.parameters() if p.requires_grad]
        with LiveBytes() as live:
            live.note([*task.parameters(), *task.buffers()])
            before, live.peak = live.alive, 0
            live.note(batch)
            for _ in range(1 if replicas > 1 else min(micro_steps, 2)):  # more than two are like the second
                already = live.alive
                with autocast(device, precision):
                    loss = task(batch)["loss"]
                kept = live.alive - already
                loss.backward()
                del loss
            peak = live.peak - before
    gradients = sum(p.numel() * p.element_size() for p in weights)
    summed = (
        gradients if replicas > 1 and micro_steps > 1 else 0
    )  # each replica has gradients of its own beside the sum
    return Memory(before, gradients, replicas * kept, replicas * peak + summed)


def _without_content(task: nn.Module, device: torch.device) -> None:
    """Put tensors without content on ``device`` in place of the parameters and buffers."""
    for module in task.modules():
        for name, parameter in module.named_parameters(recurse=False):
            empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
            module.register_parameter(name, nn.Parameter(empty, requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=device))
