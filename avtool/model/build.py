"""Models from flat settings, as they stand in a checkpoint's config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from avtool.model.encoder import AudioVisualEncoder
from avtool.model.mae import MaskedAutoencoder

DECODER_KEYS = ("decoder_dim", "decoder_depth", "decoder_heads", "image_mask_ratio", "audio_mask_ratio")


def build_autoencoder(settings: Mapping[str, Any]) -> MaskedAutoencoder:
    """A masked autoencoder from the keyword arguments of ``AudioVisualEncoder`` and ``MaskedAutoencoder`` in one flat
    mapping. Its weights are whatever torch puts there: load them, or call ``reset_parameters``."""
    decoder = {key: settings[key] for key in DECODER_KEYS if key in settings}
    encoder = {key: value for key, value in settings.items() if key not in DECODER_KEYS}
    return MaskedAutoencoder(encoder=AudioVisualEncoder(**encoder), **decoder)


def build_empty(settings: Mapping[str, Any]) -> MaskedAutoencoder:
    """The same on the meta device: shapes and names without memory, for counting or for loading weights into."""
    with torch.device("meta"):
        return build_autoencoder(settings)


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, trained or not; the encoders' fixed positions are none."""
    return sum(parameter.numel() for parameter in module.parameters())
