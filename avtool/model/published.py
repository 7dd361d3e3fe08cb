"""The published checkpoint layout, and the one-to-one map between its keys and this package's.

What differs: decoders are flat there (``image_decoder_blocks.0`` is ``image_decoder.blocks.0`` here); norms of fusion
blocks have other names, and in ``token`` blocks the names of the image and the audio norm are exchanged; a ``dense``
block keeps keys and values in one matrix that reads the pair as [audio || image]; the encoders' positions are in the
file although they are fixed; the separation decoder numbers its levels from the finest, and the segmentation decoder
lies beside the encoder without a prefix.
"""

import re

import torch
from torch import Tensor

FIXED_POSITIONS = re.compile(r"encoder\.(image|audio)\.pos_embed$")
_DECODER = re.compile(r"^(image|audio)_decoder_")
_FUSION = re.compile(r"(.*\bfusion_blocks\.\d+\.)(.*)")


def _fusion_names(fusion: str) -> dict[str, str]:
    """Prefixes inside a fusion block, published -> ours."""
    image, audio = ("norm1_aud", "norm1_img") if fusion == "token" else ("norm1_img", "norm1_aud")
    names = {"norm1_mm": "norm_fusion", image: "norm_image", audio: "norm_audio"}
    if fusion == "factorized":
        names |= {"attn.attn_v": "attn.aggregate_image", "attn.attn_a": "attn.aggregate_audio"}
        names |= {f"attn.{part}": f"attn.pairs.{part}" for part in ("q", "k", "v", "proj")}
    return names


def _replace_prefix(key: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        if key.startswith(f"{old}."):
            return new + key.removeprefix(old)
    return key


def _rename(key: str, names: dict[str, str]) -> str:
    match = _FUSION.fullmatch(key)
    return match[1] + _replace_prefix(match[2], names) if match else key


_DOUBLE_CONV = {"0": "conv1", "1": "norm1", "3": "conv2", "4": "norm2"}


def _task_names() -> dict[str, str]:
    enlargers = {"lat": "laterals", "up": "ups"}
    separation = {"xv_norm": "image_norm", "top": "top", "pred": "predict"}
    for level in range(5):
        separation[f"xa_norm.{4 - level}"] = f"audio_norms.{level}"
        separation[f"cond{5 - level}"] = f"conditions.{level}"
    for step in range(4):
        separation |= {f"{old}{4 - step}": f"{new}.{step}" for old, new in enlargers.items()}
    segmentation = {
        "normv": "image_norms",
        "proja": "audio_projections",
        "norma": "audio_norms",
        "top": "top",
    }
    segmentation |= {"predictor.0": "hidden", "predictor.2": "predict", **enlargers}
    names = {f"avss_decoder.{old}": f"separation_decoder.{new}" for old, new in separation.items()}
    return names | {old: f"segmentation_decoder.{new}" for old, new in segmentation.items()}


_TASK_DECODERS = _task_names()
"""Prefixes in the separation and segmentation decoders, published -> ours."""


def _task_decoder_to(name: str) -> str:
    key = _replace_prefix(name, {ours: theirs for theirs, ours in _TASK_DECODERS.items()})
    if key != name:
        for number, part in _DOUBLE_CONV.items():
            key = key.replace(f".{part}.", f".double_conv.{number}.")
    return key


def _exchange_halves(name: str, tensor: Tensor) -> Tensor:
    """[audio || image] columns to [image || audio], or back; biases as they are."""
    return tensor if name.endswith("bias") else torch.cat(tensor.chunk(2, dim=1)[::-1], dim=1)


def from_published(state: dict[str, Tensor], *, fusion: str) -> dict[str, Tensor]:
    """A published state dict under this package's keys. ``fusion`` is token, dense or factorized."""
    names, result = _fusion_names(fusion), {}
    for key, tensor in state.items():
        if FIXED_POSITIONS.search(key):
            continue
        name = _replace_prefix(_DECODER.sub(r"\1_decoder.", key), _TASK_DECODERS)
        name = re.sub(r"\.double_conv\.(\d)\.", lambda match: f".{_DOUBLE_CONV[match[1]]}.", name)
        name = _rename(name, names)
        if fusion == "dense" and (
            match := re.fullmatch(r"(.*fusion_blocks\.\d+\.attn\.)kv\.(weight|bias)", name)
        ):
            for part, half in zip("kv", tensor.chunk(2, dim=0), strict=True):
                result[f"{match[1]}{part}.{match[2]}"] = _exchange_halves(name, half)
        else:
            result[name] = tensor
    return result


def to_published(state: dict[str, Tensor], *, fusion: str) -> dict[str, Tensor]:
    """The inverse of ``from_published``, for anything with one tensor a parameter (weights or their gradients)."""
    names = {new: old for old, new in _fusion_names(fusion).items()}
    result: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = re.sub(r"^(image|audio)_decoder\.", r"\1_decoder_", _task_decoder_to(key))
        name = _rename(name, names)
        if fusion == "dense" and (
            match := re.fullmatch(r"(.*fusion_blocks\.\d+\.attn\.)([kv])\.(weight|bias)", name)
        ):
            if match[2] == "v":
                continue
            value = state[key.replace(".attn.k.", ".attn.v.")]
            halves = [_exchange_halves(name, half) for half in (tensor, value)]
            result[f"{match[1]}kv.{match[3]}"] = torch.cat(halves, dim=0)
        else:
            result[name] = tensor
    return result
