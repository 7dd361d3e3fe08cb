"""What the engine asks of a task that is trained: a ``torch.nn.Module`` that gives the losses of a batch."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from avtool.config.checkpoint import config_of
from avtool.config.model import Encoder
from avtool.config.schema import Recipe
from avtool.config.types import Section
from avtool.data.dataset import PreparedDataset
from avtool.data.views import DrawnViews, FixedViews
from avtool.distributed import World
from avtool.errors import TrainingError
from avtool.features import LogMel
from avtool.model.build import random_model
from avtool.model.mae import patch_noise
from avtool.registry import TASKS, resolve
from avtool.tasks.settings import drawn_views, fixed_views

ALONE = World()
Batches = Callable[[], Iterable[dict[str, Tensor]]]
"""Begins the same batches anew, on the task's device."""
_PATCHES = 0x9A7C
"""Added to the seed: which patches are kept has nothing to do with what else is drawn of a sample."""


class Training(nn.Module):
    """A task's model and its loss. The engine trains any of them with the same loop.

    ``config`` is the model's config.json but for its ``origin``. ``monitor`` names the measure, the larger the better,
    that the best checkpoint is chosen by ("": the last one is meant). ``unused_parameters`` says whether some of the
    parameters get no gradient, ``draws`` whether it can ``draw`` what is predicted, ``drops_patches`` whether it can
    train on a part of the patches (``train.keep_patches``). Held-out samples are shared by the processes in groups of
    ``group``. ``progress`` is the share of the run's steps that are done; buffers of the task itself are kept in
    checkpoints (``own_state``).

    ``forward`` takes a batch and gives ``loss`` and its parts, scalars: means over the samples it gets, which may be a
    slice of one or of several batches. A loss that compares samples gathers the others of their batch
    (``distributed.all_gather_with_grad``).
    """

    monitor: ClassVar[str] = ""
    unused_parameters: bool = False
    draws: bool = False
    group: ClassVar[int] = 1
    drops_patches: ClassVar[bool] = False
    progress = 0.0

    def __init__(self, recipe: Recipe, dataset: PreparedDataset | None, chosen: np.ndarray | None) -> None:
        """Random starting weights, drawn from the recipe's seed alone; ``chosen``: the clips of ``dataset`` that are
        trained on."""
        super().__init__()
        self.keep_patches, self.patch_seed = recipe.train.keep_patches, recipe.seed + _PATCHES
        if self.keep_patches < 1 and not self.drops_patches:
            what = f"train.keep_patches is {self.keep_patches:g}: {recipe.task} needs every patch"
            raise TrainingError(what, hint="train.keep_patches=1")
        kind, head = self.model_config(recipe, dataset)
        self.config = config_of(kind)(
            kind=kind, origin="", model=Encoder.of(recipe.model), head=head, spectrogram=recipe.spectrogram
        )
        how = {name: getattr(recipe.train, name) for name in ("activation_checkpointing", "drop_path")}
        try:
            self.model: Any = random_model(kind, {**self.config.settings, **how}, seed=recipe.seed)
        except ValueError as error:
            hint = "start from another model, or change model.* of the recipe"
            raise TrainingError(str(error), hint=hint) from error
        self.log_mel = LogMel(**self.config.log_mel)

    @classmethod
    def model_config(cls, recipe: Recipe, dataset: Any) -> tuple[str, Section]:
        """The ``kind`` of model and what config.json says of its ``head``: of the recipe's section what the task's
        ``head`` has, unless a task says more. AvtoolError where no head fits ``dataset``."""
        task = TASKS[recipe.task]
        return next(iter(task.kinds)), resolve(task.head).of(recipe.options)

    @classmethod
    def select_clips(cls, recipe: Recipe, dataset: PreparedDataset) -> tuple[np.ndarray, dict[str, int]]:
        """The numbers of the clips that can be trained on, int64 (N,), and how many were left out, by reason."""
        return np.arange(len(dataset)), {}

    def look_at_clips(self, recipe: Recipe, dataset: PreparedDataset, chosen: np.ndarray) -> dict[str, Any]:
        """Fill the task's own buffers before the first step, from the clips ``chosen`` that are trained on; facts for
        run.json."""
        return {}

    def own_state(self) -> dict[str, Tensor]:
        """The task's own buffers by name, which a run keeps in its checkpoints beside the model's weights."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("model.")}

    def training_views(self, recipe: Recipe, dataset: PreparedDataset, chosen: np.ndarray) -> DrawnViews:
        """What a training sample shows: a random window, frame, crop, flip and gain. ``chosen``: the clips that are
        trained on."""
        return drawn_views(recipe, dataset)

    def evaluation_views(
        self, recipe: Recipe, dataset: PreparedDataset, chosen: np.ndarray
    ) -> tuple[FixedViews, np.ndarray]:
        """What ``measure`` looks at, of the held-out clips ``chosen``: views and the numbers to show of them."""
        return fixed_views(recipe, dataset), chosen

    def kept_patches(self, batch: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """Which image and audio patches of a batch are encoded, (B, K) each as the encoder takes them, None for all: in
        training the share ``keep_patches`` of them, a function of (seed, epoch, index)."""
        if not self.training or self.keep_patches == 1:
            return None, None
        image, audio = (
            part.argsort(dim=1, stable=True)[:, : max(1, round(self.keep_patches * part.shape[1]))]
            for part in patch_noise(self.model, batch["index"], seed=self.patch_seed, epoch=batch["epoch"])
        )
        return image, audio

    @contextmanager
    def judged(self) -> Iterator[None]:
        """In evaluation mode and without gradients, as ``measure`` and ``draw`` are called."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.train(training)

    def validate(self, held_out: Batches, reference: Batches, world: World = ALONE) -> dict[str, float]:
        """``measure``, in evaluation mode and without gradients."""
        with self.judged():
            return self.measure(held_out, reference, world)

    def measure(self, held_out: Batches, reference: Batches, world: World = ALONE) -> dict[str, float]:
        """Measures over held-out samples; ``reference``: the same views of clips that are trained on. Each process of
        ``world`` is given its share of both, and all of them get the measures of the whole."""
        raise NotImplementedError

    def draw(self, batch: dict[str, Tensor], names: Sequence[str]) -> np.ndarray:
        """What is predicted of the clips of ``batch``, uint8 (height, width, 3) RGB: pretraining's alone."""
        raise NotImplementedError

    def summarize(self, values: dict[str, float]) -> str:
        """What ``measure`` gave, in words, each with its floor."""
        raise NotImplementedError
