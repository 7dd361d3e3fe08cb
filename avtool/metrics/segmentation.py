"""Segmentation: protocols ``avs-tpavi``, ``avs-published`` and ``avs-semantic``.

Each is per-frame scores, whose batches can be of any size and are concatenated, then a summary of the whole set.
Letters: B frames, T thresholds, C classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

BETA_SQUARED = 0.3
"""Of the F measure: precision counts more than recall."""
THRESHOLDS = 255


class FrameScores(NamedTuple):
    """What a frame's mask is worth, float64 but for ``empty``; each of B frames."""

    foreground: Tensor
    """(B,): IoU of the object at 0.5; 0 where truth and prediction hold none"""
    background: Tensor
    """(B,): IoU of the rest"""
    f_curve: Tensor
    """(B, T): F at each of ``THRESHOLDS`` thresholds from 0 to 1"""
    empty: Tensor
    """(B,) bool: the truth holds no object"""


def frame_scores(probabilities: Tensor, truth: Tensor) -> FrameScores:
    """Scores of masks ``probabilities`` (B, H, W) in 0 to 1 against ``truth`` (B, H, W), true where the object is.

    IoU = |A and G| / |A or G| of A = [p > 0.5]; background IoU is that of their complements (1 where both are empty:
    there is nothing else to see). F = 1.3 P R / (0.3 P + R) of A = [p >= t], where P and R, precision and recall, are 0
    where they have no denominator. From counts of pixels, so the same for any batch size.
    ValueError for shapes that differ and probabilities outside 0 to 1.

    Source: TPAVI (Zhou et al., ECCV 2022, AVSBench), section 5.1; F: Achanta et al., CVPR 2009.
    """
    if probabilities.ndim != 3 or probabilities.shape != truth.shape:
        raise ValueError(
            f"masks {tuple(probabilities.shape)} and truth {tuple(truth.shape)} are not (B, H, W) both"
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("a mask holds values that are not probabilities")
    level, inside = probabilities.flatten(1), truth.flatten(1).bool()
    predicted = level > 0.5
    foreground = _share((predicted & inside).sum(dim=1), (predicted | inside).sum(dim=1))
    outside = (~predicted | ~inside).sum(dim=1)
    background = torch.where(outside > 0, _share((~predicted & ~inside).sum(dim=1), outside), 1.0)
    return FrameScores(foreground, background, _f_curve(level, inside), ~inside.any(dim=1))


def _f_curve(level: Tensor, inside: Tensor) -> Tensor:
    """F (B, T) of the pixels ``level`` (B, n) against ``inside`` (B, n), from one histogram a frame."""
    thresholds = torch.linspace(0, 1 - 1e-10, THRESHOLDS, device=level.device, dtype=level.dtype)
    # how many thresholds each pixel reaches
    reached = torch.bucketize(level.contiguous(), thresholds, right=True)

    def at_least(which: Tensor) -> Tensor:
        counts = torch.zeros(len(level), THRESHOLDS + 1, dtype=torch.int64, device=level.device)
        counts.scatter_add_(1, reached, which.long())
        return counts.flip(1).cumsum(dim=1).flip(1)[:, 1:]

    hit, predicted = at_least(inside), at_least(torch.ones_like(inside))
    precision = _share(hit, predicted)
    recall = _share(hit, inside.sum(dim=1, keepdim=True).expand_as(hit))
    return _f_measure(precision, recall)


class MaskScores(NamedTuple):
    """A set's scores, 0 to 1, over ``frames``; ``left_out`` of them hold no object and count in ``f`` not at all, in
    ``miou`` as the protocol says."""

    miou: float
    f: float
    frames: int
    left_out: int


def avs_tpavi(scores: FrameScores) -> MaskScores:
    """Protocol ``avs-tpavi``, the literature's, from the scores of a whole set.

    miou: the mean over all frames of foreground IoU, of background IoU where the truth is empty; f: the highest point
    of the F curve averaged over the frames with an object. The original averages over a batch first, then over batches,
    so that its F depends on the batch size: this is its value for one batch of everything. NaN where there is no frame.
    Source: TPAVI (Zhou et al., ECCV 2022).
    """
    iou = torch.where(scores.empty, scores.background, scores.foreground)
    curve = scores.f_curve[~scores.empty].mean(dim=0)
    return MaskScores(iou.mean().item(), curve.max().item(), len(iou), int(scores.empty.sum()))


def avs_published(scores: FrameScores) -> MaskScores:
    """Protocol ``avs-published``: what the published DeepAVFusion numbers are, over the frames with an object.

    miou: the mean of (foreground IoU + background IoU) / 2; f: the mean of each frame's own highest F. Both are higher
    than ``avs_tpavi``'s on the same predictions (where objects are small, the background is nearly always right), so
    the two cannot stand in one table. NaN where there is no such frame. Source: DeepAVFusion's release.
    """
    kept = ~scores.empty
    iou = (scores.foreground[kept] + scores.background[kept]) / 2
    f = scores.f_curve[kept].amax(dim=1).mean()
    return MaskScores(iou.mean().item(), f.item(), int(kept.sum()), int(scores.empty.sum()))


class ClassScores(NamedTuple):
    """Each class's IoU and F in each frame, float64 (B, C); NaN where the class is in neither truth nor prediction."""

    iou: Tensor
    f: Tensor


def class_scores(predicted: Tensor, truth: Tensor, *, classes: int = 71) -> ClassScores:
    """Scores of class maps ``predicted`` against ``truth``, both (B, H, W) of ids from 0 to ``classes`` - 1.

    In each frame and for each class: IoU = |A and G| / |A or G|, F as in ``frame_scores``, at no threshold.
    ValueError for shapes that differ and ids that are none. Source: AVSBench-semantic (Zhou et al., IJCV 2024).
    """
    if predicted.ndim != 3 or predicted.shape != truth.shape:
        raise ValueError(
            f"maps {tuple(predicted.shape)} and truth {tuple(truth.shape)} are not (B, H, W) both"
        )
    for ids in (predicted, truth):
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= classes):
            raise ValueError(f"a class map holds ids outside 0 to {classes - 1}")
    area, true_area = _areas(predicted, classes), _areas(truth, classes)
    both = _areas(torch.where(predicted == truth, predicted, classes), classes + 1)[:, :classes]
    either = area + true_area - both
    f = _f_measure(_share(both, area), _share(both, true_area))
    return ClassScores(*(torch.where(either > 0, score, torch.nan) for score in (_share(both, either), f)))


def _areas(ids: Tensor, classes: int) -> Tensor:
    """How many pixels each class has in each frame: (B, H, W) -> int64 (B, C)."""
    ids = ids.flatten(1).long()
    return torch.zeros(len(ids), classes, dtype=torch.int64, device=ids.device).scatter_add_(
        1, ids, torch.ones_like(ids)
    )


class Semantic(NamedTuple):
    """A set's scores, 0 to 1: means over ``classes``; ``left_out`` classes are in no truth and no prediction."""

    miou: float
    f: float
    classes: int
    left_out: int


def avs_semantic(scores: ClassScores) -> Semantic:
    """Protocol ``avs-semantic``, from the scores of a whole set.

    Per class, the sum of its frames' IoU (and F) divided by the number of frames in which it is in truth or prediction;
    then the mean over classes. A class that is in none is left out and counted (the original counts it 0, which differs
    only in part of the test set). NaN where there is no frame. Source: AVSBench-semantic (Zhou et al., IJCV 2024).
    """
    iou, f = scores.iou.nanmean(dim=0), scores.f.nanmean(dim=0)
    there = ~iou.isnan()
    return Semantic(iou[there].mean().item(), f[there].mean().item(), int(there.sum()), int((~there).sum()))


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole of counts, in float64; 0 where the whole is 0."""
    return part.double() / whole.clamp(min=1)


def _f_measure(precision: Tensor, recall: Tensor) -> Tensor:
    top = (1 + BETA_SQUARED) * precision * recall
    return torch.where(top > 0, top / (BETA_SQUARED * precision + recall), 0.0)
