"""Golden cases: outputs recorded from the published model for weights that are drawn from their names.

A case is NAME.json (sizes, and the shape of every published key) beside NAME.npz (expected arrays). Weights and inputs
are not stored: a tensor is drawn from ``numpy.random.default_rng(crc32(name))``, so any machine can make them again.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).parent


def folder() -> Path:
    return Path(os.environ.get("AVTOOL_GOLDEN_DIR") or HERE)


def case_names() -> list[str]:
    return sorted(path.stem for path in folder().glob("*.json"))


def normal(name: str, shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    return torch.from_numpy(np.asarray(draw * scale).astype(np.float32))


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """The value of one published key."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.long)
    if name.endswith("running_var"):
        return 1 + 0.1 * normal(name, shape).abs()
    if len(shape) == 1 and name.endswith("weight"):  # gains of norms
        return 1 + normal(name, shape, 0.1)
    if len(shape) <= 1:  # biases, running means
        return normal(name, shape, 0.1)
    if "token" in name:
        return normal(name, shape, 0.5)
    return normal(name, shape, float(np.prod(shape[1:])) ** -0.5)


@dataclass(frozen=True)
class Case:
    name: str
    config: dict
    meta: dict
    expected: dict[str, np.ndarray]

    def shapes(self, model: str) -> dict[str, tuple[int, ...]]:
        return {key: tuple(shape) for key, shape in self.meta[f"{model}_state_dict"].items()}

    def weights(self, model: str) -> dict[str, Tensor]:
        """Published keys and values, without positions: those stay as they are built."""
        return {
            key: weight(key, shape)
            for key, shape in self.shapes(model).items()
            if not key.endswith("pos_embed")
        }

    @property
    def image(self) -> Tensor:
        return normal("input.image", (self.config["batch"], 3, *self.config["image_size"]))

    def audio(self, name: str = "input.audio") -> Tensor:
        return normal(name, (self.config["batch"], 1, *self.config["audio_size"])) - 2

    def array(self, name: str) -> Tensor:
        return torch.from_numpy(np.asarray(self.expected[name]))

    def thin(self, tokens: Tensor) -> Tensor:
        """As large cases store tokens and predictions."""
        if self.config.get("subsample") and tokens.shape[1] > 40:
            return tokens[..., ::7, ::16]
        return tokens


def load(name: str) -> Case:
    meta = json.loads((folder() / f"{name}.json").read_text())
    with np.load(folder() / f"{name}.npz") as arrays:
        return Case(name, meta["config"], meta, dict(arrays))
