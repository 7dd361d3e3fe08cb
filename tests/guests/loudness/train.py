"""The task: its model, its loss and its validation."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from avtool.distributed import World
from avtool.features import inputs_of, to_float_waveform
from avtool.model.encoder import AudioVisualEncoder
from avtool.model.heads import pool
from avtool.tasks.training import ALONE, Batches, Training


class LoudnessModel(nn.Module):
    """An encoder and one number on its pooled fusion tokens."""

    def __init__(self, encoder: AudioVisualEncoder, *, scale: float = 10.0) -> None:
        super().__init__()
        self.encoder, self.scale = encoder, scale
        self.head = nn.Linear(encoder.dim, 1)

    def reset_head(self) -> None:
        self.head.reset_parameters()

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        """(B, 3, H, W), (B, 1, mel, frames) -> decibels (B,)."""
        return self.scale * self.head(pool(self.encoder(image, audio)).fusion).squeeze(1)


def decibels(waveform: Tensor) -> Tensor:
    """Loudness (B,) of waveforms (B, N) int16."""
    return 10 * to_float_waveform(waveform).square().mean(dim=1).clamp(min=1e-8).log10()


class LoudnessTraining(Training):
    monitor: ClassVar[str] = "score"

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        found = self.model(*inputs_of(self.log_mel, batch))
        return {"loss": (found - decibels(batch["waveform"])).abs().mean() / self.model.scale}

    def measure(self, held_out: Batches, reference: Batches, world: World = ALONE) -> dict[str, float]:
        sums = {"error": 0.0, "clips": 0.0}
        for batch in held_out():
            size = len(batch["index"])
            sums["error"] += size * self.forward(batch)["loss"].item() * self.model.scale
            sums["clips"] += size
        sums = world.all_reduce_sum(sums)
        error = sums["error"] / sums["clips"]
        return {"score": -error, "loss": error, "clips": sums["clips"]}

    def summarize(self, values: dict[str, float]) -> str:
        return f"off by {values['loss']:.1f} dB"
