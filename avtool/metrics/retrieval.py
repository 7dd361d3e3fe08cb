"""Retrieval: does a clip's sound find its picture, and its picture its sound? Protocol ``recall@1,5,10``."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

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
    means and intervals. ValueError for shapes that differ, and for values that are not finite.
    """
    first, second = (np.asarray(side, np.float64) for side in (first, second))
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"embeddings {first.shape} and {second.shape} are not (N, D) both")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("an embedding holds values that are not finite")
    first, second = _unit(first), _unit(second)
    return Recall(_found(first, second, ranks), _found(second, first, ranks))


def _found(queries: np.ndarray, gallery: np.ndarray, ranks: Sequence[int]) -> dict[int, np.ndarray]:
    found = {k: np.zeros(len(queries)) for k in ranks}
    for start in range(0, len(queries), ROWS_AT_ONCE):
        rows = np.arange(start, min(start + ROWS_AT_ONCE, len(queries)))
        cosine = queries[rows] @ gallery.T
        for k in ranks:
            found[k][rows] = top_k_correct(cosine, rows, k)
    return found


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Each row at length 1; rows of zeros stay so, and are as far from everything as from each other."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(float).tiny)
