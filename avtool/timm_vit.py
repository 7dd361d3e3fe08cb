"""The image encoder from timm and to it. A ViT of timm's, by name, is a start of the image encoder; whether it fits is
seen before its weights are fetched. The image encoder alone is one of timm's ViTs."""

from __future__ import annotations

import copy
import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from avtool.checkpoint import NAMED, check_fit
from avtool.convert import ratio_of
from avtool.errors import CheckpointError, explain
from avtool.features import IMAGE_MEAN, IMAGE_STD
from avtool.libraries import need
from avtool.model.encoder import VisionTransformer
from avtool.model.transformer import VIT_EPS, grid_of
from avtool.published import TIMM
from avtool.vits import LEFT_OUT, left_out
from avtool.weight_files import read_state_dict

_REFUSED = {
    "reg_token": "register tokens",
    "norm_pre.": "a norm before the first block",
    "patch_embed.backbone.": "convolutions before its patches",
    "blocks.ls1.": "LayerScale",
    "blocks.ls2.": "LayerScale",
    "blocks.attn.q_norm.": "a norm of queries and keys",
    "blocks.attn.k_norm.": "a norm of queries and keys",
}
"""What the blocks here do not have: beginning of its keys, without a block's number -> name."""


@dataclass(frozen=True)
class TimmViT:
    """``NAME`` or ``NAME@FILE``: an architecture that timm knows, with timm's own weights or those in ``file``."""

    key: str
    name: str
    file: Path | None

    @classmethod
    def find(cls, key: str, value: str) -> TimmViT:
        """What recipe key ``key`` = ``value`` names after ``timm:``. CheckpointError where timm knows no such name, or
        the file is not there. Nothing is fetched."""
        timm = need("timm", purpose="init.image=timm:NAME")
        name, has_file, path = value.removeprefix(TIMM).partition("@")
        names = {*timm.list_models(), *timm.list_models(include_tags=True)}
        if name not in names:
            near = difflib.get_close_matches(name, sorted(names), n=3)
            hint = f"did you mean {', '.join(near)}? " if near else ""
            raise CheckpointError(
                f"{key}={value}: timm knows no model {name!r}",
                hint=f"{hint}timm.list_pretrained('vit*') lists names",
            )
        if has_file and not Path(path).is_file():
            raise CheckpointError(
                f"{key}={value}: there is no file {path!r}",
                hint=f"correct the path, or leave it out for timm's own weights: {key}={TIMM}{name}",
            )
        return cls(key, name, Path(path) if has_file else None)

    def __str__(self) -> str:
        return f"timm's {self.name}" + (f" in {self.file}" if self.file else "")

    def check(self, encoder: VisionTransformer) -> Any:
        """timm's model without weights, on the meta device, once its blocks were seen to compute what those of
        ``encoder`` do. CheckpointError names all that does not fit."""
        import timm
        from timm.models.vision_transformer import VisionTransformer as Plain

        with torch.device("meta"):
            model = timm.create_model(self.name)
        if not isinstance(model, Plain):
            raise self._refused(f"it is a {type(model).__name__}, not a plain VisionTransformer")
        if faults := _faults(model, encoder):
            raise self._refused("; ".join(faults))
        theirs, ours = _settings(model), _settings(encoder)
        if other := [name for name in theirs if theirs[name] != ours[name]]:
            sizes = "; its ".join(
                f"{name} is {theirs[name]:g}, the recipe's {ours[name]:g}" for name in other
            )
            fit = " ".join(f"model.{name}={theirs[name]:g}" for name in other)
            if "patch_size" in other:
                fit += " and image_size and audio_size of whole patches"
            raise self._refused(f"its {sizes}", hint=f"set {fit}, or name a ViT of the recipe's sizes")
        if not _compute_the_same(model.blocks[0], encoder.blocks[0]):
            raise self._refused(f"its blocks ({type(model.blocks[0]).__name__}) compute something else")
        return model

    def _refused(self, reason: str, *, hint: str = "") -> CheckpointError:
        return CheckpointError(
            f"{self} cannot start the image encoder: {reason}",
            hint=hint
            or f"name a plain ViT of the recipe's sizes, as {self.key}={TIMM}vit_base_patch16_224.mae for dim 768",
        )

    def load(self, encoder: VisionTransformer) -> str:
        """Start ``encoder`` from the weights, as its pixels' normalisation asks for; returns in words what was left out
        or changed. CheckpointError where they do not fit, or are neither in timm's cache nor to be had."""
        model = self.check(encoder)
        state = self._read(self.file) if self.file else self._fetch(model.pretrained_cfg)
        left = left_out(state)
        notes = [f"without its {', '.join(left)}"] if left else []
        weights = {key: value for key, value in state.items() if not key.startswith(tuple(LEFT_OUT))}
        if isinstance(model.norm, nn.Identity):
            weights |= {f"norm.{key}": value for key, value in encoder.norm.state_dict().items()}
            notes.append("with a new final norm")
        hint = f"name the architecture of {self.file}"
        check_fit(weights, encoder, source=self.file or self.name, hint=hint)
        mean, std = (tuple(model.pretrained_cfg[key]) for key in ("mean", "std"))
        if (mean, std) != (IMAGE_MEAN, IMAGE_STD):
            weights |= _for_our_pixels(weights, mean, std)
            notes.append(f"its pixels' mean {mean} and deviation {std} folded into the patch embedding")
        encoder.load_state_dict(weights)
        return "; ".join(notes)

    def _read(self, file: Path) -> dict[str, Tensor]:
        from timm.models import clean_state_dict

        return clean_state_dict(read_state_dict(file))

    def _fetch(self, cfg: dict[str, Any]) -> dict[str, Tensor]:
        import timm
        from huggingface_hub.constants import HF_HUB_CACHE
        from huggingface_hub.errors import HTTPError  # httpx's, or requests' in older versions

        by_hand = f"{self.key}={TIMM}{self.name}@FILE"
        source = cfg.get("hf_hub_id") or cfg.get("url")
        if not source:
            tagged = ", ".join(timm.list_pretrained(f"{cfg['architecture']}.*"))
            raise CheckpointError(
                f"timm has no weights for {self.name}",
                hint=f"name weights of your own, {by_hand}{f', or one of {tagged}' if tagged else ''}",
            )
        try:
            with torch.random.fork_rng(devices=[]):  # what a run draws does not depend on where it starts
                return timm.create_model(self.name, pretrained=True).state_dict()
        except (OSError, HTTPError, SafetensorError) as error:
            if explain(error) is not None:
                raise
            reason = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
            raise CheckpointError(
                f"timm cannot get the weights of {self.name} ({source}): {reason}",
                hint=f"(1) where there is a network, fetch them with huggingface_hub or timm and name the file: "
                f"{by_hand}; or copy that machine's cache to {HF_HUB_CACHE}; (2) start from random weights with "
                f"{self.key}=none",
            ) from error


def weights_for_timm(encoder: VisionTransformer, size: tuple[int, int]) -> dict[str, Tensor]:
    """The image encoder alone under timm's names, with its fixed table of positions for frames of ``size`` (rows,
    columns), of which the patch makes whole ones: float32, contiguous.

    It is the encoder without fusion: patches and positions, then blocks in which image tokens read image tokens only,
    then the final norm. Of a model without fusion blocks these are its image tokens. Of others they are not: there each
    block with a fusion block beside it reads the fusion tokens, too, and what it learned from them is not in this file.
    """
    grid = grid_of(*size, encoder.patch_embed.patch_size)
    weights = {"pos_embed": encoder.positions(grid, torch.device("cpu"))[None], **encoder.state_dict()}
    return {key: value.detach().cpu().float().contiguous() for key, value in weights.items()}


def arguments_for_timm(encoder: VisionTransformer, size: tuple[int, int]) -> dict[str, Any]:
    """The arguments of ``timm.create_model`` for a model that ``weights_for_timm`` of the same fill, every one: its
    ``forward_features`` gives tokens (B, N, D) as the image encoder alone, its ``forward`` their mean."""
    names = {"dim": "embed_dim", "heads": "num_heads"}
    shape = {names.get(name, name): value for name, value in _settings(encoder).items()}
    pixels = {"mean": IMAGE_MEAN, "std": IMAGE_STD, "input_size": (3, *size)}
    return {
        "model_name": "vit_base_patch16_224",
        "img_size": tuple(size),
        **shape,
        "num_classes": 0,
        "class_token": False,
        "global_pool": "avg",
        "fc_norm": False,
        "pretrained_cfg_overlay": pixels,
    }


def _faults(model: Any, encoder: VisionTransformer) -> list[str]:
    """What makes the blocks or the patch embedding of ``model`` another function than that of ``encoder``, in words."""
    theirs, ours = (
        {re.sub(r"^blocks\.\d+\.", "blocks.", key) for key in vit.state_dict()} for vit in (model, encoder)
    )
    more = [key for key in sorted(theirs - ours) if not key.startswith(tuple(LEFT_OUT))]
    less = [key for key in sorted(ours - theirs) if not key.startswith("norm.")]
    named = [next((name for start, name in _REFUSED.items() if key.startswith(start)), key) for key in more]
    named = list(dict.fromkeys(named))
    many = [f"{len(named) - NAMED} more"] if len(named) > NAMED else []
    faults = [f"it has {', '.join(named[:NAMED] + many)}"] if named else []
    faults += [f"it lacks {', '.join(less)}"] if less else []
    act = getattr(getattr(model.blocks[0], "mlp", None), "act", None)
    x = torch.linspace(-4, 4, 81)
    if act is not None and not torch.allclose(act(x), F.gelu(x), atol=1e-6):
        faults.append(f"its activation is {act}, not the exact GELU")
    norms = [part for name, part in model.named_modules() if re.match(r"(blocks\.\d+\.norm\d|norm)$", name)]
    eps = {getattr(part, "eps", None) for part in norms if not isinstance(part, nn.Identity)}
    if eps != {VIT_EPS}:
        faults.append(f"its norms have an eps of {', '.join(map(str, eps))}, not {VIT_EPS}")
    proj = getattr(model.patch_embed, "proj", None)
    if not isinstance(proj, nn.Conv2d) or proj.kernel_size != proj.stride or len({*proj.kernel_size}) > 1:
        faults.append(f"its patches are not square ones side by side ({proj})")
    return faults


def _settings(vit: Any) -> dict[str, float]:
    """The settings of a recipe's ``model`` that fit a ViT."""
    block = vit.blocks[0]
    width, dim = block.mlp.fc1.out_features, block.norm1.weight.shape[0]
    heads = getattr(block.attn, "num_heads", None) or block.attn.heads
    sizes = {"dim": dim, "depth": len(vit.blocks), "heads": heads, "mlp_ratio": ratio_of(width, dim)}
    return {**sizes, "patch_size": vit.patch_embed.proj.kernel_size[0]}


def _compute_the_same(theirs: nn.Module, ours: nn.Module) -> bool:
    """Whether two blocks give the same for random tokens once they have the same random weights."""
    shapes = [{key: value.shape for key, value in block.state_dict().items()} for block in (theirs, ours)]
    if shapes[0] != shapes[1]:
        return False
    generator = torch.Generator().manual_seed(0)
    theirs, ours = (copy.deepcopy(block).to_empty(device="cpu").double().eval() for block in (theirs, ours))
    weights = {
        key: torch.randn(value.shape, generator=generator) / (value.shape[-1] ** 0.5 if value.ndim > 1 else 1)
        for key, value in ours.state_dict().items()
    }
    for block in (theirs, ours):
        block.load_state_dict(weights)
    tokens = torch.randn(1, 5, weights["norm1.weight"].shape[0], generator=generator).double()
    with torch.no_grad():
        return torch.allclose(theirs(tokens), ours(tokens), atol=1e-9, rtol=1e-6)


def _for_our_pixels(weights: dict[str, Tensor], *theirs: tuple[float, ...]) -> dict[str, Tensor]:
    """The patch embedding for pixels that are normalised as here, of one for pixels less their mean over their
    deviation: exact, for both are one linear map of a pixel's channel."""
    theirs_mean, theirs_std, ours_mean, ours_std = (
        torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)
        for values in (*theirs, IMAGE_MEAN, IMAGE_STD)
    )
    kernel, bias = (weights[f"patch_embed.proj.{part}"].double() for part in ("weight", "bias"))
    shift = (kernel * (ours_mean - theirs_mean) / theirs_std).sum((1, 2, 3))
    return {
        "patch_embed.proj.weight": (kernel * ours_std / theirs_std).float(),
        "patch_embed.proj.bias": (bias + shift).float(),
    }
