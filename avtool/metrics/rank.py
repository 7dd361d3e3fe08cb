"""Effective rank: how many directions do features use?"""

import torch
from torch import Tensor


def effective_rank(vectors: Tensor) -> float:
    """exp(-sum p ln p) of p = s / sum s, the normalised singular values s of the centred ``vectors`` (N, D).

    1 where all lie on one line, min(N - 1, D) at most, D where they spread evenly in all directions; 0 where all are
    equal: collapsed. In float64, on the vectors' device. ValueError for fewer than two vectors and for values that are
    not finite. Source: Roy and Vetterli, EUSIPCO 2007.
    """
    if vectors.ndim != 2 or len(vectors) < 2 or not vectors.isfinite().all():
        raise ValueError(f"vectors {tuple(vectors.shape)} are not two or more finite ones (N, D)")
    wide = vectors.detach().double()
    values = torch.linalg.svdvals(wide - wide.mean(dim=0))
    if values[0] <= wide.abs().max() * torch.finfo(wide.dtype).eps * max(wide.shape):
        return 0.0
    share = values / values.sum()
    return torch.special.entr(share).sum().exp().item()
