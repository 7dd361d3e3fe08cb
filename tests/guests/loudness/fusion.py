"""A kind of fusion: every fusion token gets the mean image and audio token."""

from __future__ import annotations

from torch import Tensor, nn


class MeanFusion(nn.Module):
    def __init__(self, dim: int, *, heads: int, attn_ratio: float, tokens: tuple[int, int, int]) -> None:
        super().__init__()
        self.image, self.audio = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, image: Tensor, audio: Tensor) -> Tensor:
        """(B, T, D), (B, Ni, D), (B, Na, D) -> (B, T, D)."""
        mean = self.image(image.mean(dim=1)) + self.audio(audio.mean(dim=1))
        return mean[:, None].expand_as(x)
