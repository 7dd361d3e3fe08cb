"""Fusion blocks: how the fusion tokens of a layer read its image and audio tokens.

Three interactions (DeepAVFusion, arXiv 2312.01017, section 3.2): ``token`` reads single tokens, ``dense`` all pairs of
an image and an audio token, ``factorized`` the pairs of a few tokens that first aggregate each modality. No pair is
ever built: see ``avtool.model.attention.attend_pairs``. ``avtool.model.bilinear`` is a fourth. A kind of interaction
is one class and one line in ``avtool.registry.FUSIONS``.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avtool.model.attention import attend, attend_pairs, attention_weights, merge_heads, split_heads
from avtool.model.transformer import BranchNoise, DropPath, Mlp
from avtool.registry import FUSIONS


class CrossAttention(nn.Module):
    """Queries of one sequence read another, with queries, keys and values of ``width``."""

    def __init__(self, dim: int, *, heads: int, width: int, scale: float) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale
        self.q = nn.Linear(dim, width)
        self.kv = nn.Linear(dim, 2 * width)
        self.proj = nn.Linear(width, dim)

    def _heads(self, x: Tensor, source: Tensor) -> list[Tensor]:
        key, value = self.kv(source).chunk(2, dim=-1)
        return [split_heads(part, self.heads) for part in (self.q(x), key, value)]

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """(B, T, D) queries, (B, N, D) read -> (B, T, D)."""
        query, key, value = self._heads(x, source)
        return self.proj(merge_heads(attend(query, key, value, scale=self.scale)))

    def weights(self, x: Tensor, source: Tensor, first: int | None = None) -> Tensor:
        """What each query attends to, of all or the ``first`` tokens of the source: (B, H, T, N), summing to 1 over
        N."""
        query, key, _ = self._heads(x, source)
        return attention_weights(query, key[:, :, :first], scale=self.scale)


class TokenAttention(CrossAttention):
    """Fusion tokens attend to the image and audio tokens in one sequence."""

    def __init__(self, dim: int, *, heads: int, attn_ratio: float, tokens: tuple[int, int, int]) -> None:
        width = int(dim * attn_ratio)
        super().__init__(dim, heads=heads, width=width, scale=(width / heads) ** -0.5)

    def forward(self, x: Tensor, image: Tensor, audio: Tensor) -> Tensor:  # type: ignore[override]
        """(B, T, D), (B, Ni, D), (B, Na, D) -> (B, T, D)."""
        return super().forward(x, torch.cat([image, audio], dim=1))

    def image_weights(self, x: Tensor, image: Tensor, audio: Tensor) -> Tensor:
        """Attention over the image tokens, renormalised without the audio's share: (B, H, T, Ni)."""
        return self.weights(x, torch.cat([image, audio], dim=1), first=image.shape[1])


class PairProjection(nn.Linear):
    """Linear map of a pair [image || audio] of width 2 D, applied to its halves; the bias goes into the audio half."""

    def forward(self, image: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(B, Ni, D), (B, Na, D) -> (B, Ni, width), (B, Na, width), whose sums over pairs are the map of the pairs."""
        image_weight, audio_weight = self.weight.chunk(2, dim=1)
        return F.linear(image, image_weight), F.linear(audio, audio_weight, self.bias)


class PairAttention(nn.Module):
    """Attention of x to all pairs of an image and an audio token, in the factored form that builds none of them.

    q and k have width D * attn_ratio, v has ``value_width``; the scale is (D / heads) ** -0.5 whatever attn_ratio is.
    """

    def __init__(self, dim: int, *, heads: int, attn_ratio: float, value_width: int) -> None:
        super().__init__()
        width = int(dim * attn_ratio)
        self.heads, self.scale = heads, (dim / heads) ** -0.5
        self.q = nn.Linear(dim, width)
        self.k = PairProjection(2 * dim, width)
        self.v = PairProjection(2 * dim, value_width)
        self.proj = nn.Linear(value_width, dim)

    def forward(self, x: Tensor, image: Tensor, audio: Tensor) -> Tensor:
        """(B, T, D), (B, Ni, D), (B, Na, D) -> (B, T, D)."""
        halves = (*self.k(image, audio), *self.v(image, audio))
        query, *parts = (split_heads(part, self.heads) for part in (self.q(x), *halves))
        return self.proj(merge_heads(attend_pairs(query, *parts, scale=self.scale)))

    def image_weights(self, x: Tensor, image: Tensor, audio: Tensor) -> Tensor:
        """The image half of the factored softmax: (B, H, T, Ni), summing to 1 over Ni."""
        query, image_key = (split_heads(part, self.heads) for part in (self.q(x), self.k(image, audio)[0]))
        return attention_weights(query, image_key, scale=self.scale)


class DenseAttention(PairAttention):
    """All fusion tokens attend to all pairs of image and audio tokens."""

    def __init__(self, dim: int, *, heads: int, attn_ratio: float, tokens: tuple[int, int, int]) -> None:
        super().__init__(dim, heads=heads, attn_ratio=attn_ratio, value_width=int(dim * attn_ratio))


class FactorizedAttention(nn.Module):
    """Aggregating tokens read one modality each; the fusion tokens attend to the pairs of what they gathered."""

    def __init__(self, dim: int, *, heads: int, attn_ratio: float, tokens: tuple[int, int, int]) -> None:
        super().__init__()
        self.tokens = tuple(tokens)
        scale = (dim / heads) ** -0.5
        self.aggregate_image = CrossAttention(dim, heads=heads, width=dim, scale=scale)
        self.aggregate_audio = CrossAttention(dim, heads=heads, width=dim, scale=scale)
        self.pairs = PairAttention(dim, heads=heads, attn_ratio=attn_ratio, value_width=dim)

    def forward(self, x: Tensor, image: Tensor, audio: Tensor) -> Tensor:
        """(B, T, D) as [fusion ; image-aggregating ; audio-aggregating], (B, Ni, D), (B, Na, D) -> (B, T, D)."""
        fusion, image_query, audio_query = x.split(self.tokens, dim=1)
        gathered_image = self.aggregate_image(image_query, image)
        gathered_audio = self.aggregate_audio(audio_query, audio)
        fusion = self.pairs(fusion, gathered_image, gathered_audio)
        return torch.cat([fusion, gathered_image, gathered_audio], dim=1)

    def image_weights(self, x: Tensor, image: Tensor, audio: Tensor) -> Tensor:
        """What fusion tokens see of the image through the aggregating ones: (B, H, F, Ni), summing to 1 over Ni."""
        fusion, image_query, audio_query = x.split(self.tokens, dim=1)
        gathered = self.aggregate_image(image_query, image), self.aggregate_audio(audio_query, audio)
        return self.pairs.image_weights(fusion, *gathered) @ self.aggregate_image.weights(image_query, image)


class FusionBlock(nn.Module):
    """One layer's update of the fusion tokens. The residual starts from the normalised tokens."""

    def __init__(
        self,
        dim: int,
        *,
        kind: str,
        heads: int,
        tokens: tuple[int, int, int],
        attn_ratio: float,
        mlp_ratio: float,
        rank: int | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm_fusion = nn.LayerNorm(dim)
        self.norm_image = nn.LayerNorm(dim)
        self.norm_audio = nn.LayerNorm(dim)
        own = {} if rank is None else {"rank": rank}  # of bilinear alone
        self.attn: Any = FUSIONS[kind](dim, heads=heads, attn_ratio=attn_ratio, tokens=tokens, **own)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def _normed(self, fusion: Tensor, image: Tensor, audio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.norm_fusion(fusion), self.norm_image(image), self.norm_audio(audio)

    def forward(
        self, fusion: Tensor, image: Tensor, audio: Tensor, noise: BranchNoise = (None, None)
    ) -> Tensor:
        """(B, T, D), (B, Ni, D), (B, Na, D), the inputs of the layer -> (B, T, D). ``noise`` is that of ``DropPath``
        for the two branches."""
        x, image, audio = self._normed(fusion, image, audio)
        x = x + self.drop_path(self.attn(x, image, audio), noise[0])
        return x + self.drop_path(self.mlp(self.norm2(x)), noise[1])

    def image_weights(self, fusion: Tensor, image: Tensor, audio: Tensor) -> Tensor:
        """How this layer's fusion tokens attend to the image tokens: (B, H, queries, Ni), summing to 1 over Ni."""
        return self.attn.image_weights(*self._normed(fusion, image, audio))
