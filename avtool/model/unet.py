"""What the separation and segmentation decoders share: token maps of several depths and the parts of a U-Net."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avtool.model.encoder import AudioVisualEncoder, Tokens

PATCH_SIZE = 16
"""Both decoders enlarge a map of tokens by this factor, so it has to be the encoder's patch size."""


def check_patch_size(encoder: AudioVisualEncoder, task: str) -> None:
    """ValueError where the decoder's output would not have the size of the encoder's input."""
    if encoder.patch_size != PATCH_SIZE:
        raise ValueError(
            f"the {task} decoder enlarges maps of tokens {PATCH_SIZE} times and so needs patches of "
            f"{PATCH_SIZE}x{PATCH_SIZE}, not {encoder.patch_size}x{encoder.patch_size}"
        )


def depth_ids(depth: int, count: int) -> list[int]:
    """``count`` blocks spread over 0 .. depth - 1, truncated to integers, shallowest first (5 of 12: 0, 2, 5, 8, 11).
    Shallow encoders have some more than once."""
    return [level * (depth - 1) // (count - 1) for level in range(count)]


def block_outputs(encoder: AudioVisualEncoder, image: Tensor, audio: Tensor, ids: list[int]) -> list[Tokens]:
    """The tokens that blocks ``ids`` put out, without the encoder's final norms."""
    layers = list(encoder.layers(image, audio))
    return [layers[block + 1] for block in ids]


def token_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, N, D) in row-major order of ``grid`` -> (B, D, rows, columns)."""
    return tokens.transpose(1, 2).unflatten(2, grid)


def spread(vector: Tensor, over: Tensor) -> Tensor:
    """(B, C), the same everywhere on the map ``over`` (B, any, rows, columns) -> (B, C, rows, columns)."""
    return vector[:, :, None, None].expand(-1, -1, *over.shape[2:])


def reset_leaves(module: nn.Module) -> None:
    """Torch's own starting weights for every layer inside ``module``, from its global generator."""
    for part in module.modules():
        if not list(part.children()) and hasattr(part, "reset_parameters"):
            part.reset_parameters()


class DoubleConv(nn.Module):
    """3x3 convolution, BatchNorm and ReLU, twice (U-Net, arXiv 1505.04597)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, *maps: Tensor) -> Tensor:
        """Maps (B, C_i, rows, columns), joined to ``inputs`` channels -> (B, outputs, rows, columns)."""
        x = maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class Enlarge(nn.Module):
    """A transposed convolution that enlarges a map ``factor`` times, then a double convolution of it beside others."""

    def __init__(self, inputs: int, enlarged: int, outputs: int, *, factor: int, beside: int = 0) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, enlarged, kernel_size=factor, stride=factor)
        self.conv = DoubleConv(enlarged + beside, outputs)

    def forward(self, x: Tensor, *beside: Tensor) -> Tensor:
        """(B, inputs, rows, columns), maps of the enlarged size with ``beside`` channels in all
        -> (B, outputs, factor * rows, factor * columns)."""
        return self.conv(self.up(x), *beside)
