"""What tests say of tiny models: their config.json from keyword arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from avtool.config.checkpoint import Config, config_of, divided
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
