"""Segmentation: which pixels of a frame sound, as one mask or as one of each class."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avtool.config.schema import Recipe
from avtool.data.dataset import PreparedDataset
from avtool.data.loader import DrawnViews, FixedViews, spread_over
from avtool.data.masks import DrawnMaskViews, MaskViews, class_names, frame_mask, masked_clips, masked_frames
from avtool.errors import TrainingError
from avtool.losses import segmentation_loss
from avtool.metrics.segmentation import (
    ClassScores,
    FrameScores,
    avs_semantic,
    avs_tpavi,
    class_scores,
    frame_scores,
)
from avtool.model.segmentation import NARROWEST
from avtool.tasks import Batches
from avtool.tasks.settings import drawn_views, encoder_settings, inputs_of, new_log_mel, new_model, view_size

KIND = "segmentation"
EVALUATION_SIZE = (224, 224)
"""Rows and columns at which masks are judged; what a model of another input gives is resized to it."""
PATCH_SIZE = 16
CHECKED = 64
"""Clips whose masks are looked at before anything is trained on classes."""


class Segmentation(nn.Module):
    """A segmentation model and its loss (DeepAVFusion, arXiv 2312.01017, section 4).

    A batch holds what ``DrawnMaskViews`` gives. Binary cross-entropy for one mask of all that sounds; cross-entropy
    where ``semantic``.
    """

    best: ClassVar[str] = "score"
    couples = False
    kind = KIND

    def __init__(self, recipe: Recipe, dataset: PreparedDataset) -> None:
        super().__init__()
        assert recipe.segment is not None
        self.semantic = recipe.segment.semantic
        self.settings = self.describe(recipe, dataset)[1]
        self.model = new_model(KIND, self.settings, recipe)
        self.log_mel = new_log_mel(recipe)

    @classmethod
    def describe(cls, recipe: Recipe, dataset: PreparedDataset) -> tuple[str, dict[str, Any]]:
        """A decoder for the masks of ``dataset``. TrainingError where the encoder carries none."""
        assert recipe.segment is not None
        model = recipe.model
        if model.dim < NARROWEST or model.patch_size != PATCH_SIZE:
            raise TrainingError(
                f"the segmentation decoder needs an encoder of width {NARROWEST} or more with patches of "
                f"{PATCH_SIZE}x{PATCH_SIZE}, not {model.dim} with {model.patch_size}x{model.patch_size}",
                hint="start from another model, as avtool pretrain --recipe tiny makes one",
            )
        classes = len(class_names(dataset)) if recipe.segment.semantic else 1
        return KIND, {**encoder_settings(recipe), "classes": classes}

    @classmethod
    def from_recipe(cls, recipe: Recipe, dataset: PreparedDataset, chosen: np.ndarray) -> Segmentation:
        """Random starting weights of a model that fits ``dataset``."""
        return cls(recipe, dataset)

    @classmethod
    def usable(cls, recipe: Recipe, dataset: PreparedDataset) -> tuple[np.ndarray, dict[str, int]]:
        """Clips with a mask. DataError where there is none, or where ``semantic`` finds masks without classes."""
        assert recipe.segment is not None
        clips = masked_clips(dataset, range(len(dataset)))
        if recipe.segment.semantic:
            check_classes(dataset, clips)
        without = len(dataset) - len(clips)
        return clips, {"without a mask": without} if without else {}

    def training_views(self, recipe: Recipe, dataset: PreparedDataset, chosen: np.ndarray) -> DrawnViews:
        """A random masked frame, window around it, crop, flip and gain."""
        return DrawnMaskViews(drawn_views(recipe, dataset), semantic=self.semantic)

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
        """``loss``, the mean over pixels."""
        return {"loss": segmentation_loss(self.model(*inputs_of(self.log_mel, batch)), batch["mask"])}

    @torch.no_grad()
    def measure(self, held_out: Batches, reference: Batches) -> dict[str, float]:
        """``score``: mIoU by ``avs-tpavi``, or by ``avs-semantic``, and ``f``; ``floor``: mIoU of the better of an
        empty and a full mask, or of background all over; ``loss``; ``clips``: how many frames there were."""
        training = self.training
        self.eval()
        found, blind, loss, frames = [], [], 0.0, 0
        for batch in held_out():
            logits = resized(self.model(*inputs_of(self.log_mel, batch)), EVALUATION_SIZE)
            loss += len(logits) * segmentation_loss(logits, batch["mask"]).item()
            frames += len(logits)
            found.append(scores_of(logits, batch["mask"]))
            blind.append([scores_of(guess, batch["mask"]) for guess in _blind(logits)])
        self.train(training)
        miou, f = summary(found)[:2]
        floor = max(summary(list(guesses))[0] for guesses in zip(*blind, strict=True))
        return {"score": miou, "f": f, "floor": floor, "loss": loss / frames, "clips": float(frames)}

    def in_words(self, values: dict[str, float]) -> str:
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


def scores_of(logits: Tensor, masks: Tensor) -> FrameScores | ClassScores:
    """Scores of every frame: ``logits`` (B, C, H, W) against ``masks`` (B, H, W), on the CPU."""
    if logits.shape[1] == 1:
        scores = frame_scores(logits[:, 0].sigmoid(), masks > 0)
        return FrameScores(*(part.cpu() for part in scores))
    of_class = class_scores(logits.argmax(dim=1), masks, classes=logits.shape[1])
    return ClassScores(*(part.cpu() for part in of_class))


def joined[T: (FrameScores, ClassScores)](parts: list[T]) -> T:
    """Scores of batches as those of the whole set."""
    return type(parts[0])(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def summary(parts: list[FrameScores] | list[ClassScores]) -> tuple[float, float]:
    """mIoU and F of a set's batches of scores: ``avs-tpavi``, or ``avs-semantic`` of class scores."""
    whole = joined(parts)
    found = avs_tpavi(whole) if isinstance(whole, FrameScores) else avs_semantic(whole)
    return found.miou, found.f


def _blind(logits: Tensor) -> list[Tensor]:
    """The logits of guesses that neither see nor hear: an empty and a full mask, or background all over."""
    if logits.shape[1] == 1:
        return [torch.full_like(logits, -100.0), torch.full_like(logits, 100.0)]
    background = torch.zeros_like(logits)
    background[:, 0] = 1
    return [background]
