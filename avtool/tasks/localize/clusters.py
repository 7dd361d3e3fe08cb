"""Clusters of sounds, found before training without labels: what frames learn from first.

A contrast between two encoders that both start from nothing makes little progress for long; with the sounds fixed,
frames learn at once. Clusters as targets across modalities: XDC (arXiv 1911.12667), SeLaVi (arXiv 2006.13662).
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

SAMPLE = 2000
"""Clips at most whose sounds are clustered."""
FLOOR = -5.0
"""Log10 mel power below the peak from which on everything is equally silent."""
STARTS, ROUNDS = 8, 50
"""How often k-means starts anew, and its rounds at most."""


def describe(audio: Tensor) -> Tensor:
    """Log-mels (B, 1, mel, frames), log10 mel power -> (B, 3 mel): of each band the mean, the standard deviation and
    the mean absolute step over time. The peak is set to 0 first, so that loudness does not count, and ``FLOOR`` is the
    least."""
    bands = audio.float().squeeze(1)
    bands = (bands - bands.amax(dim=(1, 2), keepdim=True)).clamp(min=FLOOR)
    return torch.cat(
        [bands.mean(dim=2), bands.std(dim=2, correction=0), bands.diff(dim=2).abs().mean(dim=2)], dim=1
    )


def nearest(points: Tensor, centroids: Tensor) -> Tensor:
    """The number of the nearest of ``centroids`` (K, F) to each of ``points`` (B, F): int64 (B,)."""
    with torch.autocast(points.device.type, enabled=False):
        distances = torch.cdist(points, centroids, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.argmin(dim=1)


def k_means(points: Tensor, count: int, *, seed: int) -> Tensor:
    """Centroids (``count``, F) of ``points`` (N, F), N at least ``count``: the best of ``STARTS`` by the sum of squared
    distances, each begun by k-means++ (Arthur and Vassilvitskii 2007). A function of the points and ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    found = [_one_start(points, count, generator) for _ in range(STARTS)]
    return min(
        found, key=lambda centroids: float((points - centroids[nearest(points, centroids)]).square().sum())
    )


def _one_start(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    centroids = points[torch.randint(len(points), (1,), generator=generator)]
    while len(centroids) < count:
        away = (points - centroids[nearest(points, centroids)]).square().sum(dim=1)
        # all at a centroid already: any of them
        chances = away if away.sum() > 0 else torch.ones_like(away)
        centroids = torch.cat([centroids, points[torch.multinomial(chances, 1, generator=generator)]])
    for _ in range(ROUNDS):
        of = nearest(points, centroids)
        sizes = torch.bincount(of, minlength=count).unsqueeze(1)
        means = torch.zeros_like(centroids).index_add_(0, of, points) / sizes.clamp(min=1)
        moved = torch.where(sizes > 0, means, centroids)
        if torch.equal(moved, centroids):
            break
        centroids = moved
    return centroids


def purity(clusters: np.ndarray, labels: np.ndarray) -> float:
    """The share of clips whose label (N,) is the most common one of their cluster (N,)."""
    counts = np.zeros((clusters.max() + 1, labels.max() + 1), np.int64)
    np.add.at(counts, (clusters, labels), 1)
    return float(counts.max(axis=1).sum() / len(labels))


class Found(NamedTuple):
    """How many ``clusters`` of the sounds of so many ``clips``; of the ``labelled`` ones, those with a single label,
    the ``purity`` of their clusters, and its ``floor``, that of shuffled labels: None where there are none."""

    clusters: int
    clips: int
    labelled: int
    purity: float | None
    floor: float | None

    def __str__(self) -> str:
        found = f"{self.clusters} clusters of the sounds of {self.clips} clips"
        if self.purity is None:
            return found
        return (
            f"{found}; of {self.labelled} with a single label {self.purity:.1%} have the most common one of their "
            f"cluster (labels shuffled: {self.floor:.1%})"
        )


class SoundClusters(nn.Module):
    """``count`` clusters of sounds, described by ``features`` numbers, and for each a unit vector (``width``,) that is
    orthogonal to those of the others. Everything is in buffers, empty before ``find``."""

    mean: Tensor
    scale: Tensor
    centroids: Tensor
    vectors: Tensor

    def __init__(self, *, count: int, features: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.register_buffer("centroids", torch.zeros(count, features))
        self.register_buffer("vectors", torch.zeros(count, width))

    @torch.no_grad()
    def find(self, described: Tensor, labels: np.ndarray, *, seed: int) -> Found:
        """Cluster sounds ``described`` (N, features), standardised over all of them. ``labels`` int64 (N,), -1 for
        none or several, are only compared with what was found. A function of both and ``seed``."""
        self.mean.copy_(described.mean(dim=0))
        self.scale.copy_(described.std(dim=0, correction=0).clamp(min=1e-6))
        self.centroids.copy_(k_means(self._standardised(described), len(self.centroids), seed=seed))
        drawn = torch.randn(self.vectors.t().shape, generator=torch.Generator().manual_seed(seed))
        self.vectors.copy_(torch.linalg.qr(drawn).Q.t())
        known = labels >= 0
        clusters, true = self.clusters_of(described).numpy()[known], labels[known]
        shuffled = np.random.default_rng(seed).permutation(true)
        pure = [purity(clusters, given) if known.any() else None for given in (true, shuffled)]
        return Found(len(self.centroids), len(labels), len(true), *pure)

    def clusters_of(self, described: Tensor) -> Tensor:
        """The cluster of each sound (B, features): int64 (B,)."""
        return nearest(self._standardised(described), self.centroids)

    @torch.no_grad()
    def forward(self, audio: Tensor) -> Tensor:
        """Log-mels (B, 1, mel, frames) -> the unit vectors (B, width) of their clusters."""
        return self.vectors[self.clusters_of(describe(audio))]

    def _standardised(self, described: Tensor) -> Tensor:
        return (described - self.mean) / self.scale
