"""Segmentation: which pixels of a frame sound, as one mask or as one of each class."""

from collections import defaultdict
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from avtool.config.schema import Recipe
from avtool.config.types import Section
from avtool.data.dataset import PreparedDataset
from avtool.data.loader import spread_over
from avtool.data.views import (
    DrawnViews,
    FixedViews,
    MaskViews,
    class_names,
    frame_mask,
    masked_clips,
    masked_frames,
)
from avtool.distributed import World
from avtool.errors import NotFinite, TrainingError
from avtool.features import inputs_of
from avtool.losses import overlap_loss, segmentation_loss
from avtool.metrics.localization import centred_disc
from avtool.metrics.segmentation import (
    ClassScores,
    FrameScores,
    avs_semantic,
    avs_tpavi,
    class_scores,
    frame_scores,
)
from avtool.tasks.names import ClassNames
from avtool.tasks.segment.recipe import Masks
from avtool.tasks.settings import drawn_views, view_size
from avtool.tasks.training import ALONE, Batches, Training

Scores = FrameScores | ClassScores
EVALUATION_SIZE = (224, 224)
"""Rows and columns at which masks are judged; what a model of another input gives is resized to it."""
MOST_CLASSES = 255
"""A mask is of bytes, of which 255 means none."""
SURE = 100.0
"""A logit whose probability is 0 or 1."""
CHECKED = 64
"""Clips whose masks are looked at before anything is trained on classes."""


class Segmentation(Training):
    """A segmentation model and its loss (DeepAVFusion, arXiv 2312.01017, section 4).

    A batch holds what ``TrainingViews`` of masks give. Binary cross-entropy for one mask of all that sounds;
    cross-entropy where ``semantic``; and the recipe's share of ``overlap_loss``.
    """

    monitor: ClassVar[str] = "score"
    unused_parameters = True

    def __init__(self, recipe: Recipe, dataset: PreparedDataset, chosen: np.ndarray) -> None:
        super().__init__(recipe, dataset, chosen)
        self.semantic, self.overlap = recipe.options.semantic, recipe.options.overlap
        self.class_names = ClassNames(tuple(class_names(dataset)), several=True) if self.semantic else None

    @classmethod
    def model_config(cls, recipe: Recipe, dataset: PreparedDataset) -> tuple[str, Section]:
        """A decoder for the masks of ``dataset``. TrainingError where they have more classes than a mask can."""
        classes = len(class_names(dataset)) if recipe.options.semantic else 1
        if classes > MOST_CLASSES:
            raise TrainingError(
                f"{dataset.folder} has {classes} classes with the background, a mask tells {MOST_CLASSES} apart",
                hint="use data with fewer classes, or segment.semantic=false",
            )
        return "segmentation", Masks(classes=classes, decoder_width=recipe.options.decoder_width)

    @classmethod
    def select_clips(cls, recipe: Recipe, dataset: PreparedDataset) -> tuple[np.ndarray, dict[str, int]]:
        """Clips with a mask. DataError where there is none, or where ``semantic`` finds masks without classes."""
        clips = masked_clips(dataset, range(len(dataset)))
        if recipe.options.semantic:
            check_classes(dataset, clips)
        without = len(dataset) - len(clips)
        return clips, {"without a mask": without} if without else {}

    def training_views(self, recipe: Recipe, dataset: PreparedDataset, chosen: np.ndarray) -> DrawnViews:
        """A random masked frame, window around it, crop, flip and gain."""
        return drawn_views(recipe, dataset, semantic=self.semantic)

    def evaluation_views(
        self, recipe: Recipe, dataset: PreparedDataset, chosen: np.ndarray
    ) -> tuple[FixedViews, np.ndarray]:
        """Every masked frame of the clips, whole."""
        frames = masked_frames(dataset, chosen)
        views = MaskViews(
            dataset, frames, **view_size(recipe), mask_size=EVALUATION_SIZE, semantic=self.semantic
        )
        return views, np.arange(len(frames))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss`` of a batch's masked frames."""
        return {"loss": self.loss(self.model(*inputs_of(self.log_mel, batch)), batch["mask"])}

    def loss(self, logits: Tensor, masks: Tensor) -> Tensor:
        """The loss of ``logits`` (B, C, H, W), a scalar."""
        loss = segmentation_loss(logits, masks)
        return loss + self.overlap * overlap_loss(logits, masks) if self.overlap else loss

    def measure(self, held_out: Batches, reference: Batches, world: World = ALONE) -> dict[str, float]:
        """``score``: mIoU by ``avs-tpavi`` or ``avs-semantic``, and ``f``; ``floor``: mIoU of the best of ``blind``;
        ``loss``; ``clips``: how many frames there were."""
        found, guesses, sums = [], defaultdict(list), {"loss": 0.0, "clips": 0.0}
        for batch in held_out():
            logits = resized(self.model(*inputs_of(self.log_mel, batch)), EVALUATION_SIZE)
            sums["loss"] += len(logits) * self.loss(logits, batch["mask"]).item()
            sums["clips"] += len(logits)
            found.append(scores_of(logits, batch["mask"]))
            for name, guess in blind(logits).items():
                guesses[name].append(scores_of(guess, batch["mask"]))
        whole: dict[str, list[Scores]] = defaultdict(list)
        for of_process in world.gather({"": found, **guesses}):
            for name, parts in of_process.items():
                whole[name] += parts
        sums = world.all_reduce_sum(sums)
        miou, f = summary(whole.pop(""))
        floor = max(summary(parts)[0] for parts in whole.values())
        return {
            "score": miou,
            "f": f,
            "floor": floor,
            "loss": sums["loss"] / sums["clips"],
            "clips": sums["clips"],
        }

    def summarize(self, values: dict[str, float]) -> str:
        """Held-out measures in words, with their floor."""
        protocol = "avs-semantic" if self.semantic else "avs-tpavi"
        blind = "background all over" if self.semantic else "a blind mask"
        return f"mIoU {values['score']:.1%} ({blind} gets {values['floor']:.1%}), F {values['f']:.1%}, by {protocol}"


def check_classes(dataset: PreparedDataset, clips: np.ndarray) -> None:
    """DataError where masks of ``clips``, of which some are looked at, name no classes."""
    for clip in spread_over(clips.tolist(), CHECKED):
        frame_mask(dataset, clip, dataset.record(clip).masked[0], semantic=True)


def resized(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (B, C, H, W) in ``size``, float32: bilinear, without aligned corners."""
    logits = logits.float()
    if logits.shape[2:] == size:
        return logits
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def scores_of(logits: Tensor, masks: Tensor) -> Scores:
    """Scores of every frame: ``logits`` (B, C, H, W) against ``masks`` (B, H, W), on the CPU. NotFinite."""
    if not logits.isfinite().all():
        raise NotFinite("a mask holds values that are not finite")
    if logits.shape[1] == 1:
        scores = frame_scores(logits[:, 0].sigmoid(), masks > 0)
        return FrameScores(*(part.cpu() for part in scores))
    of_class = class_scores(logits.argmax(dim=1), masks, classes=logits.shape[1])
    return ClassScores(*(part.cpu() for part in of_class))


def joined(parts: Sequence[Scores]) -> Scores:
    """Scores of batches as those of the whole set."""
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    return FrameScores(*columns) if isinstance(parts[0], FrameScores) else ClassScores(*columns)


def summary(parts: Sequence[Scores]) -> tuple[float, float]:
    """mIoU and F of a set's batches of scores: ``avs-tpavi``, or ``avs-semantic`` of class scores."""
    whole = joined(parts)
    found = avs_tpavi(whole) if isinstance(whole, FrameScores) else avs_semantic(whole)
    return found.miou, found.f


def blind(logits: Tensor) -> dict[str, Tensor]:
    """Logits of guesses that neither see nor hear, for a model that gives ``logits`` (B, C, H, W)."""
    if logits.shape[1] > 1:
        background = torch.zeros_like(logits)
        background[:, 0] = SURE
        return {"background all over": background}
    size = (len(logits), 1, *EVALUATION_SIZE)
    disc = torch.from_numpy(centred_disc(EVALUATION_SIZE)).to(logits.device).clamp(0, 1).logit(eps=1e-6)
    return {
        "foreground all over": logits.new_full(size, SURE),
        "a centred disc": disc.expand(size),
        "an empty mask": logits.new_full(size, -SURE),
    }
