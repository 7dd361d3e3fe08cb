"""What the engine asks of a task that is trained: a ``torch.nn.Module`` that gives the losses of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
from torch import Tensor, nn

from avtool.distributed import World

if TYPE_CHECKING:
    from avtool.config.schema import Recipe
    from avtool.data.dataset import PreparedDataset
    from avtool.data.loader import DrawnViews, FixedViews
    from avtool.features import LogMel

ALONE = World()
Batches = Callable[[], Iterable[dict[str, Tensor]]]
"""Begins the same batches anew, on the task's device."""


class Training(Protocol):
    """What the engine asks of a task, beside being a module.

    ``kind`` and ``settings`` are those of the model's config.json. ``best`` names the measure, the larger the better,
    that the best checkpoint is chosen by ("": the last one is meant). ``leaves_unused`` says
    whether some of the parameters get no gradient. Held-out samples are shared by the processes in groups of ``group``.

    A forward pass may get a part of a batch, several batches one after the other, or a part of those: the loss is the
    mean over its samples, or what relates them to others of their batch asks for these (``distributed.of_all``).
    """

    best: ClassVar[str]
    leaves_unused: ClassVar[bool]
    group: ClassVar[int]
    kind: str
    model: nn.Module
    log_mel: LogMel
    settings: dict[str, Any]

    @classmethod
    def describe(cls, recipe: Recipe, dataset: PreparedDataset) -> tuple[str, dict[str, Any]]:
        """``kind`` and ``settings`` of a model whose head fits ``dataset``. AvtoolError where none can."""

    @classmethod
    def from_recipe(cls, recipe: Recipe, dataset: PreparedDataset, chosen: np.ndarray) -> Self:
        """That model with random starting weights, drawn from the recipe's seed alone, and its loss on ``dataset``, of
        which the clips ``chosen`` are trained on."""

    @classmethod
    def usable(cls, recipe: Recipe, dataset: PreparedDataset) -> tuple[np.ndarray, dict[str, int]]:
        """The numbers of the clips that can be trained on, int64 (N,), and how many were left out, by reason."""

    def training_views(self, recipe: Recipe, dataset: PreparedDataset, chosen: np.ndarray) -> DrawnViews:
        """What a training sample shows; ``chosen``: the clips that are trained on."""

    def evaluation_views(
        self, recipe: Recipe, dataset: PreparedDataset, chosen: np.ndarray
    ) -> tuple[FixedViews, np.ndarray]:
        """What ``measure`` looks at, of the held-out clips ``chosen``: views and the numbers to show of them."""

    def measure(self, held_out: Batches, reference: Batches, world: World = ALONE) -> dict[str, float]:
        """Measures over held-out samples; ``reference``: the same views of clips that are trained on. Each process of
        ``world`` is given its share of both, and all of them get the measures of the whole."""

    @staticmethod
    def in_words(values: dict[str, float]) -> str:
        """What ``measure`` gave, in words, each with its floor."""

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss`` and its parts, scalars."""
