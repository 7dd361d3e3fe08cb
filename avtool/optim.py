"""Parameter groups and learning rates."""

import math
import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

PRETRAINED = "pretrained"
"""Mark of the groups whose learning rate ramps up because their weights come from elsewhere."""
SCALE = "scale"
"""Share of the learning rate that a group's layer has, where the rate decays from layer to layer."""


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices, not to gains, biases, learned tokens and positions."""
    return parameter.ndim > 1 and not name.rsplit(".", 1)[-1].endswith(("token", "tokens", "pos_embed"))


def parameter_groups(
    module: nn.Module,
    *,
    weight_decay: float,
    pretrained: Iterable[str] = (),
    layer_decay: float = 1.0,
    depth: int = 0,
) -> list[dict]:
    """Every trained parameter in exactly one group: with or without weight decay, within a pretrained part or not, by
    layer where the learning rate decays from layer to layer.

    ``pretrained`` lists names or prefixes of them, as ``encoder.image``; ``depth`` counts the encoder's blocks
    (see ``layer_id``). The names are those of ``module``.
    """
    whole, prefixes = frozenset(pretrained), tuple(f"{prefix}." for prefix in pretrained)
    groups: dict[tuple[bool, bool, float], dict] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        starts = name in whole or (bool(prefixes) and name.startswith(prefixes))
        scale = 1.0 if layer_decay == 1 else layer_decay ** (depth + 1 - layer_id(name, depth=depth))
        key = (decays(name, parameter), starts, scale)
        if key not in groups:
            decay = weight_decay if key[0] else 0.0
            groups[key] = {"params": [], "weight_decay": decay, PRETRAINED: starts, SCALE: scale}
        groups[key]["params"].append(parameter)
    return list(groups.values())


def adamw(groups: list[dict], *, betas: tuple[float, float]) -> torch.optim.AdamW:
    """AdamW in its fused form. Learning rates are set before each step by ``set_learning_rate``."""
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=True)


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (arXiv 1708.03888), as linear probes use it: momentum 0.9 on the gradient plus
    weight decay, both times ``trust`` |w| / |gradient| for matrices; gains and biases are stepped plainly."""

    def __init__(self, groups: list[dict], *, momentum: float = 0.9, trust: float = 1e-3) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0, "momentum": momentum, "trust": trust})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step with the gradients that are there; where ``found_inf``, as torch's own optimizers have it, is 1, it
        moves no parameter."""
        found = getattr(self, "found_inf", None)
        for group in self.param_groups:
            rate = group["lr"] if found is None else group["lr"] * (1 - found)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                move = parameter.grad
                if parameter.ndim > 1:
                    move = move.add(parameter, alpha=group["weight_decay"])
                    move = move * self._trust(parameter, move, group["trust"])
                if found is not None:
                    move = torch.where(found > 0, torch.zeros_like(move), move)
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].mul_(group["momentum"]).add_(move)
                parameter.sub_(rate * state["momentum"])

    @staticmethod
    def _trust(parameter: Tensor, move: Tensor, trust: float) -> Tensor:
        """``trust`` |w| / |move|, and 1 where either is zero."""
        weight, size = parameter.norm(), move.norm()
        return torch.where((weight > 0) & (size > 0), trust * weight / size, torch.ones_like(weight))


def cosine_schedule(step: int, *, max_steps: int, warmup_steps: int) -> float:
    """Share of the peak learning rate at ``step`` (from 0): linear warm-up, then half a cosine to zero."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def backbone_warmup(step: int, *, ramp_steps: int) -> float:
    """Multiplier for pretrained parts: from 0 to 1 along half a cosine over ``ramp_steps`` (DeepAVFusion, appendix)."""
    if step >= ramp_steps:
        return 1.0
    return 0.5 * (1 - math.cos(math.pi * step / ramp_steps))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float, *, ramp: float = 1.0) -> None:
    """``rate`` for every group, times ``ramp`` for the pretrained ones."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group[SCALE] * (ramp if group[PRETRAINED] else 1.0)


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
