"""What an evaluation has to do with: a checkpoint, clips, and how to go through them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from avtool.checkpoint import load_model
from avtool.data.dataset import PreparedDataset
from avtool.data.loader import FixedViews, batches_in_order
from avtool.data.views import EvaluationViews
from avtool.features import LogMel, window_samples
from avtool.model.build import random_model
from avtool.model.config import Config


@dataclass
class Context:
    """An evaluation's surroundings.

    ``chosen`` are the numbers of the clips of ``dataset`` to evaluate on. ``windows`` of a clip are averaged where a
    protocol does so, and ``maps`` (none: the model's own kind) are evaluated. ``predictions`` collects what
    ``--save-predictions`` writes: arrays by name. Results are the same for any ``batch_size`` and ``workers``.
    """

    checkpoint: Path
    config: Config
    dataset: PreparedDataset
    chosen: np.ndarray
    device: torch.device
    batch_size: int = 32
    workers: int = 0
    seed: int = 0
    windows: int = 1
    maps: Sequence[str] = ()
    predictions: dict[str, np.ndarray] = field(default_factory=dict)

    def load(self) -> tuple[nn.Module, LogMel]:
        """The model and its spectrogram, on the device."""
        model, log_mel, _ = load_model(self.checkpoint, device=self.device)
        return model, log_mel

    def untrained(self) -> nn.Module:
        """The same model with random weights, drawn from ``seed``: the control of what training has to do with it."""
        model = random_model(self.config.kind, self.config.model, seed=self.seed)
        return model.to(self.device).eval()

    def view_size(self) -> dict[str, Any]:
        """The frame's size and the length of sound that the model was made for."""
        return {
            "image_size": tuple(self.config.model["image_size"]),
            "window_samples": window_samples(
                self.config.model["audio_size"][1], self.config.spectrogram["hop"]
            ),
        }

    def views(self) -> EvaluationViews:
        """The clips' own evaluation views."""
        return EvaluationViews(self.dataset, **self.view_size())

    def batches(self, views: FixedViews, numbers: np.ndarray) -> Iterator[dict[str, Tensor]]:
        """The samples ``numbers`` of ``views`` in order, on the device."""
        for batch in batches_in_order(
            views, numbers.tolist(), batch_size=self.batch_size, workers=self.workers
        ):
            yield {
                name: value.to(self.device) if isinstance(value, Tensor) else value
                for name, value in batch.items()
            }

    def recordings(self, clips: np.ndarray) -> list[str]:
        """What each of the ``clips`` was recorded in."""
        return [self.dataset.recording(int(i)) for i in clips]
