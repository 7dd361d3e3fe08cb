"""Protocol ``negative-audio`` of segmentation: the samples and the maps."""

import numpy as np
import torch
from torch import Tensor

from avtool.data.dataset import PreparedDataset
from avtool.data.views import MaskViews, frame_mask, masked_clips, masked_frames
from avtool.errors import DataError
from avtool.tasks.context import Context
from avtool.tasks.negatives import Samples, negative_table, validation_clips
from avtool.tasks.segment import TASK
from avtool.tasks.segment.train import EVALUATION_SIZE
from avtool.tasks.table import UNTRAINED, Table


def negative_audio(context: Context) -> list[Table]:
    """The table of the masked frames. A map is the logit that a pixel sounds: of the one class, or of any but the
    background. DataError where no mask to choose a threshold on holds anything."""
    TASK.check_kind(context.config, context.checkpoint)
    judged, shares, left_out = _samples(context, context.dataset, context.chosen)
    other, held_out, which = validation_clips(context)
    validation, of_validation, _ = _samples(context, other, held_out)
    if not of_validation.any():
        raise DataError(
            f"{other.folder}: no mask of split {other.split} holds anything that sounds",
            hint="leave negative-audio out",
        )
    model, log_mel = context.load()
    ways = {"model": model, UNTRAINED: context.untrained()}

    def maps(image: Tensor, audio: Tensor) -> dict[str, Tensor]:
        return {name: _sounding(used(image, audio).float()) for name, used in ways.items()}

    return negative_table(
        context,
        maps,
        log_mel,
        judged,
        validation.part(of_validation > 0),
        which=which,
        task="segment",
        truth=shares,
        left_out=left_out,
        level=lambda logit: torch.tensor(logit).sigmoid().item(),
    )


def _sounding(logits: Tensor) -> Tensor:
    """Logits (B, C, H, W) of classes -> (B, H, W) that a pixel sounds."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    return logits[:, 1:].logsumexp(dim=1) - logits[:, 0]


def _samples(
    context: Context, dataset: PreparedDataset, clips: np.ndarray
) -> tuple[Samples, np.ndarray, dict[str, int]]:
    """The masked frames of ``clips``, the share (N,) of each that sounds, and how many clips are left out."""
    masked = masked_clips(dataset, clips.tolist())
    frames = masked_frames(dataset, masked.tolist())
    shares = np.array([frame_mask(dataset, int(i), int(k), semantic=False).mean() for i, k in frames])
    views = MaskViews(dataset, frames, **context.view_size(), mask_size=EVALUATION_SIZE, semantic=False)
    left_out = {"without a mask": len(clips) - len(masked)}
    return Samples(dataset, views, np.arange(len(frames)), frames[:, 0]), shares, left_out
