"""Nearest-neighbour accuracy: does the closest other clip share the label?"""

import torch
import torch.nn.functional as F
from torch import Tensor


def nearest_neighbour_accuracy(
    queries: Tensor,
    query_labels: Tensor,
    references: Tensor | None = None,
    reference_labels: Tensor | None = None,
) -> float:
    """Share of ``nearest_neighbour_hits``. The floor is the share of the commonest label."""
    hits = nearest_neighbour_hits(queries, query_labels, references, reference_labels)
    return hits.float().mean().item()


def nearest_neighbour_hits(
    queries: Tensor,
    query_labels: Tensor,
    references: Tensor | None = None,
    reference_labels: Tensor | None = None,
) -> Tensor:
    """Whether the reference (R, D) nearest to each of ``queries`` (Q, D) by cosine has the same label (``knn``, k = 1):
    bool (Q,).

    Without references, each query's neighbours are the other queries (leave one out). Labels are integers. ValueError
    for vectors that are not finite.
    """
    if not (queries.isfinite().all() and (references is None or references.isfinite().all())):
        raise ValueError("an embedding holds values that are not finite")
    leave_one_out = references is None
    if references is None or reference_labels is None:
        references, reference_labels = queries, query_labels
    similarity = F.normalize(queries.float(), dim=1) @ F.normalize(references.float(), dim=1).T
    if leave_one_out:
        similarity.fill_diagonal_(-torch.inf)
    return reference_labels[similarity.argmax(dim=1)] == query_labels
