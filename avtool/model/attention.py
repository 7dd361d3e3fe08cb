"""Attention kernels: one place that chooses how softmax(q k^T) v is computed, and attention over pairs without pairs.

Dimension letters, here and in the whole package: B batch, H heads, T tokens, N patches, D width, d width of one head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, H * d) -> (B, H, T, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, T, d) -> (B, T, H * d)."""
    return x.transpose(1, 2).flatten(2)


def attention_weights(query: Tensor, key: Tensor, *, scale: float) -> Tensor:
    """softmax(scale * q k^T) over the keys: (B, H, Tq, d), (B, H, Tk, d) -> (B, H, Tq, Tk)."""
    return ((query * scale) @ key.transpose(-2, -1)).softmax(dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor, *, scale: float) -> Tensor:
    """softmax(scale * q k^T) v by the faster way on this device.

    (B, H, Tq, d), (B, H, Tk, d), (B, H, Tk, dv) -> (B, H, Tq, dv).

    The fused kernel wins on accelerators, and on a CPU wherever no gradient is needed. Where one is, plain matrix
    products are faster on a CPU, for the few hundred tokens of these models: a little in float32, 2 to 4 times in bf16.
    """
    if query.device.type != "cpu" or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(query, key, value, scale=scale)
    batch, heads = query.shape[:2]
    flat_query, flat_key, flat_value = (part.flatten(0, 1) for part in (query, key, value))
    nothing = flat_query.new_empty(1, 1, 1)  # beta=0: never read
    logits = torch.baddbmm(nothing, flat_query, flat_key.transpose(1, 2), beta=0, alpha=scale)
    return torch.bmm(logits.softmax(dim=-1), flat_value).unflatten(0, (batch, heads))


def attend_pairs(
    query: Tensor,
    image_key: Tensor,
    audio_key: Tensor,
    image_value: Tensor,
    audio_value: Tensor,
    *,
    scale: float,
) -> Tensor:
    """Attention over all pairs (image token i, audio token j) at the price of attention over the tokens.

    ``query`` is (B, H, T, d); the image and audio halves of keys and values are (B, H, Ni, d), (B, H, Na, d),
    (B, H, Ni, dv), (B, H, Na, dv); a bias belongs to one half alone. Returns (B, H, T, dv).

    A linear map of a concatenation splits, W [v || a] = Wv v + Wa a, so the key of a pair is k_i + k'_j and its logit
    s_i + t_j with s_i = q k_i and t_j = q k'_j. Then exp(s_i + t_j) = exp(s_i) exp(t_j), and the softmax over pairs is
    p_i r_j, with p the softmax of s over image tokens and r the softmax of t over audio tokens. Because sum_j r_j = 1
    and sum_i p_i = 1, the output sum_ij p_i r_j (u_i + w_j) = sum_i p_i u_i + sum_j r_j w_j: two attentions with one
    query, O(Ni + Na) instead of O(Ni Na), exactly.

    Source: dense and factorized interactions of DeepAVFusion (arXiv 2312.01017, section 3.2), rewritten.
    """
    return attend(query, image_key, image_value, scale=scale) + attend(
        query, audio_key, audio_value, scale=scale
    )
