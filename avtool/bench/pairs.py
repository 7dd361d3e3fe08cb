"""The reference that builds the pairs: what ``attend_pairs`` and ``pair_weights`` have to equal, and to beat. Nothing
else uses it."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avtool.model.attention import attention_weights, merge_heads, split_heads
from avtool.model.bilinear import BilinearAttention
from avtool.model.fusion import FusionBlock, PairAttention


class BuiltPairs(nn.Module):
    """A ``PairAttention`` as the paper writes it down, with every pair [image_i || audio_j] built, projected and
    attended to. It holds the same parameters in the same order.

    Source: DeepAVFusion (arXiv 2312.01017), section 3.2.
    """

    def __init__(self, attention: PairAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor, image: Tensor, audio: Tensor) -> Tensor:
        """(B, T, D), (B, Ni, D), (B, Na, D) -> (B, T, D)."""
        module, rows, columns = self.attention, image.shape[1], audio.shape[1]
        pairs = torch.cat(
            [image.unsqueeze(2).expand(-1, -1, columns, -1), audio.unsqueeze(1).expand(-1, rows, -1, -1)],
            dim=-1,
        ).flatten(1, 2)
        key, value = (F.linear(pairs, part.weight, part.bias) for part in (module.k, module.v))
        query, key, value = (split_heads(part, module.heads) for part in (module.q(x), key, value))
        if not isinstance(module, BilinearAttention):
            return module.proj(merge_heads(attention_weights(query, key, scale=module.scale) @ value))
        a, b = module.factors(image, audio)
        products = (a.unsqueeze(3) * b.unsqueeze(2)).sum(dim=-1).flatten(2).unsqueeze(2)
        split = module.scale * query @ key.transpose(-2, -1)
        value = (split + products).softmax(dim=-1) @ value
        total = (split + products).logsumexp(-1, keepdim=True) - split.logsumexp(-1, keepdim=True)
        return module.proj(merge_heads(torch.cat([value, total], dim=-1)))


def with_built_pairs(block: FusionBlock) -> FusionBlock:
    """A copy of ``block`` that builds the pairs wherever ``block`` attends to some; parameters in the same order."""
    twin = copy.deepcopy(block)
    for name, module in list(twin.named_modules()):
        if isinstance(module, PairAttention):
            twin.set_submodule(name, BuiltPairs(module))
    return twin
