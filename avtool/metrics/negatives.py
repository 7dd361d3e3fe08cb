"""Protocol ``negative-audio``: does a map tell the sound of what is in view from sounds that nothing in view makes?

A map's score is its maximum, so that something of it is marked exactly where the score reaches the threshold.
Source: the kinds of negative sounds are those of Juanola, Haro and Fuentes, "A critical assessment of visual sound
source localization models including negative audio" (arXiv 2410.01020).
"""

from collections.abc import Sequence

import numpy as np

from avtool.metrics.classification import roc_auc


def balanced_threshold(own: np.ndarray, negatives: Sequence[np.ndarray]) -> float:
    """The threshold t with the highest balanced accuracy of [score >= t], ``own`` scores (N,) against ``negatives``,
    scores (M,) of each kind, of which all kinds weigh the same and NaN are left out.

    It lies halfway between two neighbouring scores, or at the lowest of all; of several that are equally good, the
    lowest is taken. Source: Youden 1950, whose J is twice the balanced accuracy less 1.
    """
    kinds = [np.asarray(kind, np.float64)[~np.isnan(kind)] for kind in negatives]
    kinds = [kind for kind in kinds if len(kind)]
    scores = np.unique(np.concatenate([np.asarray(own, np.float64), *kinds]))
    cuts = np.concatenate([scores[:1], (scores[1:] + scores[:-1]) / 2])

    def share_below(values: np.ndarray) -> np.ndarray:
        return np.searchsorted(np.sort(values), cuts) / len(values)

    # rounded, so that equal sums in another order stay equal
    gain = np.round(np.mean([share_below(kind) for kind in kinds], axis=0) - share_below(own), 12)
    return float(cuts[gain.argmax()])


def separation_auc(own: np.ndarray, negative: np.ndarray) -> float:
    """The chance that one of the ``own`` scores (N,) is above one of the ``negative`` scores (M,), ties by half."""
    scores = np.concatenate([own, negative])[:, None]
    return float(roc_auc(scores, (np.arange(len(scores)) < len(own))[:, None])[0])
