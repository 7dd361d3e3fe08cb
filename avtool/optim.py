"""Parameter groups and learning rates."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

PRETRAINED = "pretrained"
"""Mark of the groups whose learning rate ramps up because their weights come from elsewhere."""
SCALE = "scale"
"""Share of the learning rate that a group's layer has, where the rate decays from layer to layer."""
MATRICES = "matrices"
"""How many matrices lie below each other in a group's parameters, if Muon moves them; 0: AdamW does."""


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
    muon: bool = False,
) -> list[dict]:
    """Every trained parameter in exactly one group: with or without weight decay, within a pretrained part or not, by
    layer where the learning rate decays from layer to layer, and for ``muon`` apart what it moves.

    ``pretrained`` lists names or prefixes of them, as ``encoder.image``; ``depth`` counts the encoder's blocks
    (see ``layer_id``). The names are those of ``module``.
    """
    whole, prefixes = frozenset(pretrained), tuple(f"{prefix}." for prefix in pretrained)
    groups: dict[tuple[bool, bool, float, int], dict] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        starts = name in whole or (bool(prefixes) and name.startswith(prefixes))
        scale = 1.0 if layer_decay == 1 else layer_decay ** (depth + 1 - layer_id(name, depth=depth))
        matrices = matrices_in(name, parameter) if muon else 0
        key = (decays(name, parameter), starts, scale, matrices)
        if key not in groups:
            decay = weight_decay if key[0] else 0.0
            groups[key] = {"params": [], "weight_decay": decay, PRETRAINED: starts, SCALE: scale}
            if muon:
                groups[key][MATRICES] = matrices
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


class Muon(torch.optim.AdamW):
    """Muon (Jordan et al. 2024) for what ``matrices_in`` finds, AdamW in its fused form for all else.

    A matrix moves by the orthogonal one nearest to its gradient's momentum (0.95, Nesterov), times 0.2 sqrt(its longer
    side): as far as AdamW moves it, so that both take the same learning rate and weight decay (arXiv 2502.16982).
    Queries, keys and values that lie in one parameter are matrices of their own. ``groups`` are those of
    ``parameter_groups(muon=True)``; ``precision`` is that of the products, bfloat16 where it is fast.
    """

    momentum, scale = 0.95, 0.2

    def __init__(self, groups: list[dict], *, betas: tuple[float, float], precision: torch.dtype) -> None:
        super().__init__(groups, lr=0.0, betas=betas, fused=True)
        self.precision = precision

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step with the gradients that are there, of which the matrices' are used up; where ``found_inf``, as
        torch's own optimizers have it, is 1, it moves no parameter and no momentum."""
        found = getattr(self, "found_inf", None)
        for group in self.param_groups:
            rate = group["lr"] if found is None else group["lr"] * (1 - found)
            alike: defaultdict[tuple[int, ...], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for parameter in group["params"] if group[MATRICES] else ():
                if parameter.grad is None:
                    continue
                gradient, parameter.grad = parameter.grad, None  # AdamW passes over what has none
                state = self.state[parameter]
                if not state:  # AdamW asks every state that it loads for its step
                    state |= {"step": torch.zeros(()), "momentum": torch.zeros_like(parameter)}
                momentum = state["momentum"]
                if found is not None:
                    gradient = torch.where(found > 0, momentum, gradient)  # which leaves it as it is
                momentum.lerp_(gradient, 1 - self.momentum)
                move = gradient.lerp(momentum, self.momentum).to(self.precision).flatten(1)
                alike[tuple(move.shape)].append((parameter, move))
            for shape, pairs in alike.items():  # in one product each: small ones fill no core alone
                matrices = torch.cat([move for _, move in pairs])
                matrices = matrices.unflatten(0, (-1, shape[0] // group[MATRICES]))
                rate_here = rate * self.scale * math.sqrt(max(matrices.shape[1:]))
                moves = orthogonal(matrices).flatten(0, 1).chunk(len(pairs))
                for (parameter, _), move in zip(pairs, moves, strict=True):
                    parameter.mul_(1 - rate * group["weight_decay"])
                    parameter.sub_(rate_here * move.to(parameter.dtype).view_as(parameter))
        super().step()


def orthogonal(matrices: Tensor, *, rounds: int = 4) -> Tensor:
    """About the orthogonal matrix nearest to each of ``matrices`` (K, R, C): the same singular vectors, and singular
    values of 0.7 to 1.2, but for those that are next to zero. By products alone, with Jordan's polynomial.

    Divided by the norm of their singular values' fourth powers, which the first product holds, they begin larger than
    by that of the squares, which saves a round."""
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    gram = wide @ wide.mT
    size = gram.norm(dim=(1, 2), keepdim=True).clamp(min=1e-14)
    wide, gram = wide / size.sqrt(), gram / size
    for number in range(rounds):
        gram = wide @ wide.mT if number else gram
        polynomial = torch.baddbmm(gram, gram, gram, beta=-4.775, alpha=2.0315)
        wide = torch.baddbmm(wide, polynomial, wide, beta=3.4445)
    return wide if wide.shape == matrices.shape else wide.mT


def rehearse(groups: list[dict], parameters: Iterable[Tensor]) -> None:
    """The matrix products of a step that moves ``parameters``, of those in ``groups``, on tensors without content:
    Muon's, for other optimizers make none."""
    moved = {id(parameter) for parameter in parameters}
    for group in groups:
        for parameter in group["params"] if group.get(MATRICES) else ():
            if id(parameter) in moved:
                matrices = torch.empty_like(parameter, device="meta").flatten(1)
                orthogonal(matrices.unflatten(0, (group[MATRICES], -1)))


def make_optimizer(
    name: str, groups: list[dict], *, betas: tuple[float, float], precision: torch.dtype
) -> torch.optim.Optimizer:
    """The optimizer ``name`` (see ``Recipe.optim``) of the parameters of ``groups``, in a run of ``precision``."""
    if name == "muon":
        products = torch.bfloat16 if precision == torch.bfloat16 else torch.float32
        return Muon(groups, betas=betas, precision=products)
    return LARS(groups) if name == "lars" else adamw(groups, betas=betas)


def bytes_of_moments(groups: list[dict], name: str) -> int:
    """What the optimizer ``name`` (see ``Recipe.optim``) keeps of the parameters of ``groups``."""
    kept = ((1 if name == "lars" or group.get(MATRICES) else 2, group["params"]) for group in groups)
    return sum(moments * parameter.nbytes for moments, parameters in kept for parameter in parameters)


def matrices_in(name: str, parameter: nn.Parameter) -> int:
    """How many matrices for Muon lie below each other in a parameter: those of a transformer block, and the kernels of
    a U-Net's levels, a channel's in a row; 0: it holds none."""
    if parameter.ndim == 4 and re.search(r"_decoder\.(top|laterals|ups)\.", name):
        return 1
    if parameter.ndim != 2 or not re.search(r"blocks\.\d+\.", name):
        return 0
    return 3 if name.endswith(".qkv.weight") else 2 if name.endswith(".kv.weight") else 1


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
