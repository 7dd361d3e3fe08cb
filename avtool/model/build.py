"""Models from keyword arguments."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from avtool.model.encoder import AudioVisualEncoder, VisionTransformer
from avtool.model.fusion import FusionBlock
from avtool.model.transformer import Block
from avtool.registry import VIT, kinds, resolve

AUTOENCODER = "autoencoder"
_OF_ENCODER = inspect.signature(AudioVisualEncoder).parameters


def build_model(kind: str, settings: Mapping[str, Any]) -> nn.Module:
    """A model from the keyword arguments of ``AudioVisualEncoder`` and of what stands on it, in one flat mapping.

    ``kind`` is one of ``avtool.registry.kinds``, or ``vit``: the encoder of one modality. The weights are whatever
    torch puts there: load them, or call ``reset_parameters``. TypeError for unknown keys, ValueError for a head that
    does not go with such an encoder.
    """
    if kind == VIT:
        return VisionTransformer(**settings, drop_path=[0.0] * settings["depth"])
    own = {key: value for key, value in settings.items() if key in _OF_ENCODER}
    rest = {key: value for key, value in settings.items() if key not in _OF_ENCODER}
    return resolve(kinds()[kind].kinds[kind])(encoder=AudioVisualEncoder(**own), **rest)


def random_model(kind: str, settings: Mapping[str, Any], *, seed: int) -> nn.Module:
    """``build_model`` with random weights, drawn from ``seed`` alone; torch's own generator is left as it is."""
    with torch.random.fork_rng(devices=[]):
        model: Any = build_model(kind, settings)
        torch.manual_seed(seed)
        if hasattr(model, "reset_head"):
            model.encoder.reset_parameters()
            model.reset_head()
        else:
            model.reset_parameters()
    return model


def build_empty_model(kind: str, settings: Mapping[str, Any]) -> nn.Module:
    """``build_model`` on the meta device: shapes and names without memory, for counting and for loading weights
    into."""
    with torch.device("meta"):
        return build_model(kind, settings)


def compile_blocks(model: nn.Module, *, backend: str = "inductor") -> None:
    """Let torch.compile make the kernels of every transformer and fusion block in ``model``, in place.

    Layers of one shape share their kernels, so that it takes as long as compiling one layer of each kind: the blocks
    are where the time goes, and the graph of a whole model took ten times as long to compile.
    """
    for module in model.modules():
        if isinstance(module, (Block, FusionBlock)):
            module.compile(dynamic=False, backend=backend)


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, trained or not; the encoders' fixed positions are none."""
    return sum(parameter.numel() for parameter in module.parameters())
