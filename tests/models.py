"""What tests say of tiny models: their config.json from keyword arguments; and a decoder as the paper writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avtool.checkpoint import save_checkpoint
from avtool.config.checkpoint import Config, config_of, divided
from avtool.model.build import random_model
from avtool.model.mae import Decoder, Mask
from avtool.registry import VIT


def described(
    kind: str,
    settings: Mapping[str, Any],
    spectrogram: Mapping[str, Any] | None = None,
    origin: str = "a test",
) -> Config:
    """config.json of a model of ``kind`` with these keyword arguments, every default filled in."""
    usual = {} if kind == VIT else {"fusion": "factorized"}
    content = divided(kind, {**usual, **settings, **(spectrogram or {})})
    return config_of(kind).model_validate({"kind": kind, "origin": origin, **content})


ENCODER = {
    "image_size": [32, 32], "audio_size": [32, 64], "patch_size": 16, "depth": 2, "heads": 2,
    "fusion": "factorized", "fusion_tokens": [3, 2, 2],
}  # fmt: skip
UNTRAINED = {
    "localize": ("localization", {**ENCODER, "dim": 24, "encoding": "unimodal", "width": 8}),
    "segment": ("segmentation", {**ENCODER, "dim": 128, "classes": 1}),
    "separate": ("separation", {**ENCODER, "dim": 128}),
    "classify": ("classifier", {**ENCODER, "dim": 24, "classes": 10}),
}


def untrained_models(folder: Path) -> Callable[[str], Path]:
    """Checkpoints in ``folder`` of tiny models with random weights, by their task."""
    for task, (kind, settings) in UNTRAINED.items():
        config = described(kind, settings, {"n_fft": 400})
        save_checkpoint(folder / task, model=random_model(kind, settings, seed=3), config=config)
    return lambda task: folder / task


def decoded_everywhere(decoder: Decoder, visible: Tensor, fusion: Tensor, mask: Mask) -> Tensor:
    """What ``decoder`` predicts of all patches, (B, N, p * p * C) in grid order: every block asked for every row."""
    place = torch.cat([mask.keep, mask.removed], dim=1)
    tokens = torch.cat([decoder.embed(visible), decoder.mask_token.expand(*mask.removed.shape, -1)], dim=1)
    x = torch.cat([decoder.embed(fusion), tokens + decoder.pos_embed[0][place]], dim=1)
    for block in decoder.blocks:
        x = block(x)
    x = decoder.pred(decoder.norm(x))[:, fusion.shape[1] :]
    return x.gather(1, place.argsort(dim=1).unsqueeze(-1).expand_as(x))
