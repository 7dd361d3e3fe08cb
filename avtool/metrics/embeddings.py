"""Embeddings: does a clip's sound find its picture, and its picture its sound (protocol ``recall@1,5,10``), does the
nearest other clip share the label (``knn``), and how many directions do features use?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from avtool.errors import NotFinite
from avtool.metrics.classification import top_k_correct

RANKS = (1, 5, 10)
ROWS_AT_ONCE = 1024


class Recall(NamedTuple):
    """{k: found} in both directions; ``found`` float64 (N,) is 1 where a clip's partner is among the k nearest."""

    first_to_second: dict[int, np.ndarray]
    second_to_first: dict[int, np.ndarray]


def recall(first: np.ndarray, second: np.ndarray, *, ranks: Sequence[int] = RANKS) -> Recall:
    """Retrieval by cosine between ``first`` and ``second`` (N, D), whose rows n are of one clip.

    recall@k = the mean over queries of [partner among the k nearest of all N]; a partner that ties with others counts
    by the chance of a draw by lot, so that embeddings that say nothing get k / N, the floor. Per-query values, for
    means and intervals. ValueError for shapes that differ, NotFinite.
    """
    first, second = (np.asarray(side, np.float64) for side in (first, second))
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"embeddings {first.shape} and {second.shape} are not (N, D) both")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise NotFinite("an embedding holds values that are not finite")
    # rows of zeros stay so, and are as far from everything as from each other
    first, second = (
        side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), np.finfo(float).tiny)
        for side in (first, second)
    )
    return Recall(_found(first, second, ranks), _found(second, first, ranks))


def _found(queries: np.ndarray, gallery: np.ndarray, ranks: Sequence[int]) -> dict[int, np.ndarray]:
    found = {k: np.zeros(len(queries)) for k in ranks}
    for start in range(0, len(queries), ROWS_AT_ONCE):
        rows = np.arange(start, min(start + ROWS_AT_ONCE, len(queries)))
        cosine = queries[rows] @ gallery.T
        for k in ranks:
            found[k][rows] = top_k_correct(cosine, rows, k)
    return found


def nearest_neighbour_hits(
    queries: Tensor, query_labels: Tensor, references: Tensor, reference_labels: Tensor
) -> Tensor:
    """Whether the reference (R, D) nearest to each of ``queries`` (Q, D) by cosine has the same label (``knn``, k = 1):
    bool (Q,). Labels are integers; the floor is the share of the commonest. NotFinite.
    """
    if not (queries.isfinite().all() and references.isfinite().all()):
        raise NotFinite("an embedding holds values that are not finite")
    similarity = F.normalize(queries.float(), dim=1) @ F.normalize(references.float(), dim=1).T
    return reference_labels[similarity.argmax(dim=1)] == query_labels


def effective_rank(vectors: Tensor) -> float:
    """exp(-sum p ln p) of p = s / sum s, the normalised singular values s of the centred ``vectors`` (N, D).

    1 where all lie on one line, min(N - 1, D) at most, D where they spread evenly in all directions; 0 where all are
    equal: collapsed. In float64, on the vectors' device. ValueError for fewer than two vectors, NotFinite.
    Source: Roy and Vetterli, EUSIPCO 2007.
    """
    if vectors.ndim != 2 or len(vectors) < 2:
        raise ValueError(f"vectors {tuple(vectors.shape)} are not two or more (N, D)")
    if not vectors.isfinite().all():
        raise NotFinite("a vector holds values that are not finite")
    wide = vectors.detach().double()
    values = torch.linalg.svdvals(wide - wide.mean(dim=0))
    if values[0] <= wide.abs().max() * torch.finfo(wide.dtype).eps * max(wide.shape):
        return 0.0
    share = values / values.sum()
    return torch.special.entr(share).sum().exp().item()
