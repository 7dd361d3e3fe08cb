"""Classification: protocols ``top1`` and ``top5`` for one label a clip, ``mAP`` and ``AUC`` for several.

Letters: N clips, C classes. Scores are any numbers that are higher where a class is likelier.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from avtool.errors import NotFinite


def top_k_correct(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Whether the true class ``labels`` (N,) is among the k highest of ``scores`` (N, C): float64 (N,), 1 or 0.

    Where classes tie with the true one, it is the chance that a draw by lot among them takes it into the k, so that
    scores that say nothing get k / C and no hit by luck. The accuracy ``top-k`` is the mean.
    ValueError for shapes that do not go together, NotFinite for scores that are NaN.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != (len(scores),):
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} are not (N, C) and (N,)")
    if np.isnan(scores).any():
        raise NotFinite("a score is NaN")
    true = np.take_along_axis(scores, labels[:, None], axis=1)
    higher, equal = (scores > true).sum(axis=1), (scores == true).sum(axis=1)
    return np.clip((k - higher) / equal, 0.0, 1.0)


def top_is_true(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Whether the class that scores highest (N, C) is one of ``targets``, bool (N, C): float64 (N,), 1 or 0; where
    several score highest, the share of them that are. ValueError and NotFinite as ``top_k_correct``."""
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise ValueError(f"scores {scores.shape} and targets {targets.shape} are not (N, C) both")
    if np.isnan(scores).any():
        raise NotFinite("a score is NaN")
    highest = scores == scores.max(axis=1, keepdims=True, initial=-np.inf)
    return (highest & targets).sum(axis=1) / np.maximum(highest.sum(axis=1), 1)


def average_precision(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Average precision of each class: scores (N, C), targets bool (N, C) -> float64 (C,).

    AP = the mean over the class's positives of the precision among the clips that score at least as high: the sum over
    thresholds of (R_n - R_n-1) P_n, not interpolated; clips of one score enter together. The floor is the share of
    positives. NaN for a class without positives. ValueError as ``top_k_correct``.

    Source: AudioSet (Gemmeke et al., ICASSP 2017); the form is scikit-learn's ``average_precision_score``.
    """
    return _per_class(scores, targets, _average_precision)


def roc_auc(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each class: scores (N, C), targets bool (N, C) -> float64 (C,).

    The chance that a positive scores higher than a negative, a tie counts half (Mann and Whitney). The floor is 0.5.
    NaN for a class without positives or without negatives. ValueError as ``top_k_correct``.
    """
    return _per_class(scores, targets, _roc_auc)


class Macro(NamedTuple):
    """``mean`` over ``classes``, each counted once; ``left_out`` classes have no score."""

    mean: float
    classes: int
    left_out: int


def macro(per_class: np.ndarray) -> Macro:
    """The mean (mAP, AUC) over the classes (C,) that have a score; NaN ones are left out and counted."""
    known = per_class[~np.isnan(per_class)]
    mean = float(known.mean()) if len(known) else float("nan")
    return Macro(mean, len(known), len(per_class) - len(known))


def _average_precision(positive: np.ndarray, negative: np.ndarray) -> float:
    if not len(positive):
        return np.nan
    hits = len(positive) - np.searchsorted(positive, positive)
    false = len(negative) - np.searchsorted(negative, positive)
    return float((hits / (hits + false)).mean())


def _roc_auc(positive: np.ndarray, negative: np.ndarray) -> float:
    if not len(positive) or not len(negative):
        return np.nan
    below = np.searchsorted(negative, positive) + np.searchsorted(negative, positive, side="right")
    return float(below.mean() / (2 * len(negative)))


def _per_class(
    scores: np.ndarray, targets: np.ndarray, score: Callable[[np.ndarray, np.ndarray], float]
) -> np.ndarray:
    scores, targets = np.asarray(scores), np.asarray(targets, bool)
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise ValueError(f"scores {scores.shape} and targets {targets.shape} are not (N, C) both")
    if np.isnan(scores).any():
        raise NotFinite("a score is NaN")
    columns = zip(scores.T, targets.T, strict=True)
    return np.array(
        [score(np.sort(column[true]), np.sort(column[~true])) for column, true in columns], np.float64
    )
