"""Parameter groups and learning rates."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import torch
from torch import nn

PRETRAINED = "pretrained"
"""Mark of the groups whose learning rate ramps up because their weights come from elsewhere."""


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices, not to gains, biases, learned tokens and positions."""
    return parameter.ndim > 1 and not name.rsplit(".", 1)[-1].endswith(("token", "tokens", "pos_embed"))


def parameter_groups(module: nn.Module, *, weight_decay: float, pretrained: Iterable[str] = ()) -> list[dict]:
    """Every trained parameter in exactly one group: with or without decay, within a pretrained part or not.

    ``pretrained`` lists module prefixes, such as ``encoder.image``.
    """
    prefixes = tuple(f"{prefix}." for prefix in pretrained)
    groups: dict[tuple[bool, bool], dict] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        key = (decays(name, parameter), bool(prefixes) and name.startswith(prefixes))
        if key not in groups:
            groups[key] = {"params": [], "weight_decay": weight_decay if key[0] else 0.0, PRETRAINED: key[1]}
        groups[key]["params"].append(parameter)
    return list(groups.values())


def adamw(groups: list[dict], *, betas: tuple[float, float]) -> torch.optim.AdamW:
    """AdamW in its fused form. Learning rates are set before each step by ``set_learning_rate``."""
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=True)


def cosine_schedule(step: int, *, max_steps: int, warmup_steps: int) -> float:
    """Share of the peak learning rate at ``step`` (from 0): linear warm-up, then half a cosine to zero."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def pretrained_ramp(step: int, *, ramp_steps: int) -> float:
    """Multiplier for pretrained parts: from 0 to 1 along half a cosine over ``ramp_steps`` (DeepAVFusion, appendix)."""
    if step >= ramp_steps:
        return 1.0
    return 0.5 * (1 - math.cos(math.pi * step / ramp_steps))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float, *, ramp: float = 1.0) -> None:
    """``rate`` for every group, times ``ramp`` for the pretrained ones."""
    for group in optimizer.param_groups:
        group["lr"] = rate * (ramp if group[PRETRAINED] else 1.0)


_EMBEDDED = re.compile(r"encoder\.(?:(?:image|audio)\.patch_embed\..*|fusion_tokens)")
_BLOCK = re.compile(r"encoder\.(?:image\.blocks|audio\.blocks|fusion_blocks)\.(\d+)\..*")


def layer_id(name: str, *, depth: int) -> int:
    """The layer of the parameter ``name`` of a model with an ``encoder`` of ``depth`` blocks, for layer-wise
    learning-rate decay: rate * decay ** (depth + 1 - layer).

    Patch embeddings and fusion tokens are layer 0; the image, audio and fusion block k layer k + 1; final norms, heads
    and decoders depth + 1. Source: BEiT (arXiv 2106.08254), for three streams as in DeepAVFusion.
    """
    if _EMBEDDED.fullmatch(name):
        return 0
    match = _BLOCK.fullmatch(name)
    return int(match[1]) + 1 if match else depth + 1
