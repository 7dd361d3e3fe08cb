"""Which kernel torch runs for each attention of a model, and whether each kernel is right, forward and backward.

The attentions are those of the model itself: ``AttentionCalls`` notes queries, keys and values where a forward pass
asks for ``scaled_dot_product_attention``, memory layout included, and ``try_backends`` puts the same tensors through
each backend alone. The reference is plain math on the same numbers in float64.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from avtool.engine.run import Run
from avtool.model.attention import attention_weights, merge_heads, split_heads
from avtool.model.fusion import FusionBlock
from avtool.model.transformer import Block
from avtool.replicas import autocast
from tests.gpu.checks import FIRST, Found, Lab, moved

BACKENDS = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH")
UNIT = {torch.float32: 2.0**-20, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
"""What rounding a term may cost: the type's eps. Fused kernels multiply float32 in three TF32 parts, which keeps about
21 bits."""
LIMIT = 4.0
"""Units by which a value may be off: a probability, a sum and a result are rounded by half a unit each."""
LOW = -120.0
"""Softmax stays the same where all logits move alike. Below -log(largest float32) = -88.7 a kernel that fills its last
tile of keys with zeros overflows in exp(0 - logsumexp): cuDNN's NaN of pytorch's issue 196678."""


class Attended(NamedTuple):
    """The arguments of one attention: (B, H, Tq, d), (B, H, Tk, d), (B, H, Tk, dv) and the scale of the logits."""

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float

    def shape(self) -> str:
        """Queries x keys, and the width of a head."""
        widths = dict.fromkeys((self.query.shape[-1], self.value.shape[-1]))
        return f"{self.query.shape[2]} x {self.key.shape[2]}, d {'/'.join(map(str, widths))}"

    def leaves(self) -> list[Tensor]:
        """Query, key and value in their memory layout, to take gradients of."""
        return [part.detach().requires_grad_() for part in self[:3]]

    def lower(self) -> None:
        """Put every logit near ``LOW``, in place, so that the memory layout stays."""
        self.query[..., 0] = 1
        self.key[..., 0] = LOW / self.scale


class AttentionCalls(TorchFunctionMode):
    """While it is open, ``calls`` gathers each attention of ``model`` by its block, layer and shape. Without gradient
    alone: with one, avtool multiplies plainly on a CPU."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.calls: dict[tuple[str, str, str], Attended] = {}
        self.block: tuple[str, str] = ("", "")
        self.hooks = [
            module.register_forward_pre_hook(partial(self._enter, tuple(name.rsplit(".", 1))))
            for name, module in model.named_modules()
            if isinstance(module, Block | FusionBlock)
        ]

    def _enter(self, block: tuple[str, str], *_: Any) -> None:
        self.block = block

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            made = Attended(*args, **kwargs)
            self.calls.setdefault((*self.block, made.shape()), made)
        return func(*args, **(kwargs or {}))

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self.hooks:
            hook.remove()


Verdict = tuple[float, str]
"""By how many units the worst value of a backend is off, and that in words. Infinite: it raised an error, or a value is
not finite; -1: it does not take this attention."""


def check_attention(kind: str, precision: str, lab: Lab) -> Iterator[Found]:
    """A row for each place and shape, which fails where the backend is wrong that torch chooses. Encoders and decoders
    are alike in all kinds of fusion: they are looked at with the first."""
    run = lab.run(kind, precision, lab.device, *lab.size.fewer)
    chosen: dict[str, str] = {}
    worst: dict[str, dict[str, Verdict]] = defaultdict(dict)
    for weights in ("new weights", "low logits", "trained", "scaled up"):
        if weights == "trained":
            lab.steps(run, run.task, lab.batch)
        if weights == "scaled up":
            for name, weight in run.task.named_parameters():
                weight.data *= 8 if re.search(r"\.(qkv|q|k|kv)\.weight$", name) else 1
        for place, attended in attentions(run, lab):
            if kind != FIRST and "fusion_blocks" not in place:
                continue
            if weights == "low logits":
                attended.lower()
            chosen[place] = default_backend(attended)
            for name, (units, words) in try_backends(attended).items():
                verdict = (units, f"{words} (WRONG, {weights})" if units > LIMIT else words)
                worst[place][name] = max(worst[place].get(name, verdict), verdict)
    for place, verdicts in worst.items():
        default = chosen[place]
        words = ", ".join(f"{name.partition('_')[0]} {said}" for name, (_, said) in verdicts.items())
        figure = f"runs {default.partition('_')[0]}; units off (at most {LIMIT:g}): {words}"
        values = {"default": default, "units": {name: units for name, (units, _) in verdicts.items()}}
        yield Found(0 <= verdicts[default][0] <= LIMIT, figure, values, place)


def attentions(run: Run, lab: Lab) -> Iterator[tuple[str, Attended]]:
    """Each attention of every layer, by place and shape: of a masked pass, and of the encoder on all patches."""
    clips = moved(lab.clips, lab.device)
    with torch.no_grad(), autocast(lab.device, run.precision), AttentionCalls(run.task.model) as noted:
        run.task(clips)
        run.task.model.encoder(*run.task.inputs(clips))
    for (place, _, shape), attended in noted.calls.items():
        yield f"{place.removesuffix('.blocks')}, {shape}", attended


def default_backend(attended: Attended) -> str:
    """The backend that torch chooses where a gradient is needed, by the function that its own call asks."""
    return SDPBackend(torch._fused_sdp_choice(*attended.leaves(), scale=attended.scale)).name


def try_backends(attended: Attended) -> dict[str, Verdict]:
    """Each of ``BACKENDS`` on one attention. The gradient comes in the layout that it has in the model."""
    query, key, value, scale = attended
    gradient = torch.randn_like(merge_heads(query @ key.mT @ value))
    wanted = plain_math(attended, gradient)
    logits = (query.abs().float() @ key.abs().float().mT).max().item() * scale
    unit = UNIT[query.dtype] + UNIT[torch.float32] * logits
    return {
        name: try_one(SDPBackend.__members__[name], attended, gradient, wanted, unit) for name in BACKENDS
    }


def plain_math(attended: Attended, gradient: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """``out`` and the gradients ``dq``, ``dk``, ``dv`` in float64, each with the sum of the sizes of its terms, which
    rounding is relative to: where terms cancel, less is left than was rounded."""
    query, key, value = (part.detach().double().requires_grad_() for part in attended[:3])
    back = split_heads(gradient.double(), query.shape[1])
    weights = attention_weights(query, key, scale=attended.scale)
    out = weights @ value
    values = (out.detach(), *torch.autograd.grad(out, (query, key, value), back))
    weights, query, key, value, back = (part.detach().abs() for part in (weights, query, key, value, back))
    inner = (back * (weights @ value)).sum(dim=-1, keepdim=True)
    terms = attended.scale * weights * (back @ value.mT + inner)
    sizes = (weights @ value, terms @ key, terms.mT @ query, weights.mT @ back)
    # What is smaller than the type's smallest number is lost, in each of the terms.
    least = torch.finfo(gradient.dtype).tiny * max(weights.shape[-2:])
    sized = [(part, size + least * size.max() + 1e-30) for part, size in zip(values, sizes, strict=True)]
    return dict(zip(("out", "dq", "dk", "dv"), sized, strict=True))


def try_one(
    backend: SDPBackend, attended: Attended, gradient: Tensor, wanted: Mapping[str, tuple[Tensor, Tensor]], unit: float
) -> Verdict:  # fmt: skip
    """One backend, forward and backward, beside ``wanted``."""
    leaves = attended.leaves()
    try:
        with warnings.catch_warnings(), sdpa_kernel(backend):
            warnings.simplefilter("ignore")  # the reasons why it does not take this attention
            out = F.scaled_dot_product_attention(*leaves, scale=attended.scale)
            gradients = torch.autograd.grad(merge_heads(out), leaves, gradient)
    except RuntimeError as error:
        said = str(error).splitlines()[0]
        return (-1.0, "-") if re.search("No (available|viable)", said) else (math.inf, said)
    found = dict(zip(wanted, (out.detach(), *gradients), strict=True))
    counts = {name: int((~part.isfinite()).sum()) for name, part in found.items()}
    if any(counts.values()):
        bad = ", ".join(f"{count} of {name}" for name, count in counts.items() if count)
        return math.inf, f"{bad} not finite"
    off = [(found[name].double() - value).abs() / size for name, (value, size) in wanted.items()]
    units = max(part.nan_to_num(nan=math.inf).max().item() for part in off) / unit
    return units, f"{units:.2f}"
