"""Bilinear fusion: attention to pairs of an image and an audio token whose softmax does not split into two.

That of ``dense`` does, exactly, so it holds no interaction that two attentions do not: see
``avtool.model.attention.attend_pairs``. Not of the paper.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from avtool.model.attention import attention_weights, merge_heads, split_heads
from avtool.model.fusion import PairAttention

LARGEST_PRODUCT = 10.0
"""Two pairs then differ by a factor of e^20 at most, far more than there are pairs, and exp is finite in float16."""


class PairWeights(NamedTuple):
    """A softmax over pairs of an image and an audio token, times its sum ``total`` (B, H, T, 1): ``image``
    (B, H, T, Ni) and ``audio`` (B, H, T, Na), each summed over the other's tokens."""

    image: Tensor
    audio: Tensor
    total: Tensor


def pair_weights(
    query: Tensor, image_key: Tensor, audio_key: Tensor, products: Tensor, *, scale: float
) -> PairWeights:
    """Attention over pairs (image token i, audio token j) whose logits do not split: scale * q (k_i + k'_j) + x_ij.

    ``query`` (B, H, T, d), ``image_key`` (B, H, Ni, d), ``audio_key`` (B, H, Na, d); ``products`` x (B, H, Ni, Na), so
    small that their exponential is finite.

    With p and r the softmaxes over image and over audio tokens alone, as in ``attend_pairs``, a pair's weight is
    p_i r_j exp(x_ij) / Z. Its sums over j, over i and over both are matrix products with the one matrix exp(x), which
    all T queries share: exact, and the T Ni Na weights are never there.
    """
    image, audio = (attention_weights(query, key, scale=scale) for key in (image_key, audio_key))
    factor = products.exp()
    of_image = image * (audio @ factor.transpose(-2, -1))
    return PairWeights(of_image, audio * (image @ factor), of_image.sum(dim=-1, keepdim=True))


class BilinearAttention(PairAttention):
    """``DenseAttention`` in which the weight of a pair also depends on a product of its two tokens.

    In each head the product is x_ij = a_i b_j, where a_i and b_j are of width ``rank``: maps of the image and of the
    audio token, shortened so that x stays within ``LARGEST_PRODUCT`` of 0. The key of a pair is [k_i + k'_j ; x_ij],
    with a query [q ; 1]. Beside its value a head puts out the log of Z = sum_ij p_i r_j exp(x_ij), the soft maximum of
    x over the pairs that it attends to.
    """

    def __init__(
        self, dim: int, *, heads: int, attn_ratio: float, tokens: tuple[int, int, int], rank: int = 4
    ) -> None:
        width = int(dim * attn_ratio)
        super().__init__(dim, heads=heads, attn_ratio=attn_ratio, value_width=width)
        self.a, self.b = nn.Linear(dim, heads * rank), nn.Linear(dim, heads * rank)
        self.proj = nn.Linear(width + heads, dim)

    def factors(self, image: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(B, Ni, D), (B, Na, D) -> a (B, H, Ni, rank) and b (B, H, Na, rank), of norms below the root of
        ``LARGEST_PRODUCT``. Short ones are divided by the root of the rank, and a_i b_j so by the rank."""
        maps = (split_heads(part, self.heads) for part in (self.a(image), self.b(audio)))
        a, b = (
            part * (LARGEST_PRODUCT / (LARGEST_PRODUCT * part.shape[-1] + _square(part))).sqrt()
            for part in maps
        )
        return a, b

    def _weights(self, x: Tensor, image: Tensor, audio: Tensor) -> PairWeights:
        a, b = self.factors(image, audio)
        parts = (self.q(x), *self.k(image, audio))
        query, image_key, audio_key = (split_heads(part, self.heads) for part in parts)
        return pair_weights(query, image_key, audio_key, a @ b.transpose(-2, -1), scale=self.scale)

    def forward(self, x: Tensor, image: Tensor, audio: Tensor) -> Tensor:
        """(B, T, D), (B, Ni, D), (B, Na, D) -> (B, T, D)."""
        weights = self._weights(x, image, audio)
        image_value, audio_value = (split_heads(part, self.heads) for part in self.v(image, audio))
        value = (weights.image @ image_value + weights.audio @ audio_value) / weights.total
        return self.proj(merge_heads(torch.cat([value, weights.total.log()], dim=-1)))

    def image_weights(self, x: Tensor, image: Tensor, audio: Tensor) -> Tensor:
        """What falls to each image token in all of its pairs: (B, H, T, Ni), summing to 1 over Ni."""
        weights = self._weights(x, image, audio)
        return weights.image / weights.total


def _square(x: Tensor) -> Tensor:
    """Squared norms, (..., d) -> (..., 1)."""
    return x.square().sum(dim=-1, keepdim=True)
