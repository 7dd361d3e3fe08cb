"""What the separation and segmentation decoders share: token maps of several depths and the parts of a U-Net."""

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


def convolved(vector: Tensor, weight: Tensor, size: tuple[int, int]) -> Tensor:
    """A 3x3 convolution with padding 1 of a map that is ``vector`` (B, C) everywhere, ``weight`` (outputs, C, 3, 3)
    -> (B, outputs, *size).

    Nothing but the padding makes such a result differ from place to place, so a map of 3x3 has all its values: the
    corners, the edges, and one for everywhere else.
    """
    small = [min(3, side) for side in size]
    x = F.conv2d(vector[:, :, None, None].expand(-1, -1, *small), weight, padding=1)
    for dim, side in zip((2, 3), size, strict=True):
        if side > 3:
            first, middle, last = x.split(1, dim=dim)
            times = [-1, -1, -1, -1]
            times[dim] = side - 2
            x = torch.cat([first, middle.expand(times), last], dim=dim)
    return x


def reset_leaves(module: nn.Module) -> None:
    """Torch's own starting weights for every layer inside ``module``, from its global generator."""
    for part in module.modules():
        reset = getattr(part, "reset_parameters", None)
        if not list(part.children()) and reset is not None:
            reset()


class DoubleConv(nn.Module):
    """3x3 convolution, BatchNorm and ReLU, twice (U-Net, arXiv 1505.04597)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, *maps: Tensor, everywhere: Tensor | None = None) -> Tensor:
        """Maps (B, C_i, rows, columns) and what is the same ``everywhere``, (B, C), joined in this order to ``inputs``
        channels -> (B, outputs, rows, columns)."""
        x = maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)
        of_maps, of_vector = self.conv1.weight.tensor_split([x.shape[1]], dim=1)
        joined = F.conv2d(x, of_maps, padding=1)
        if everywhere is not None:
            joined = joined + convolved(everywhere, of_vector, (x.shape[2], x.shape[3]))
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(joined)))))


class Enlarge(nn.Module):
    """A transposed convolution that enlarges a map ``factor`` times, then a double convolution of it beside others."""

    def __init__(self, inputs: int, enlarged: int, outputs: int, *, factor: int, beside: int = 0) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, enlarged, kernel_size=factor, stride=factor)
        self.conv = DoubleConv(enlarged + beside, outputs)

    def forward(self, x: Tensor, *beside: Tensor, everywhere: Tensor | None = None) -> Tensor:
        """(B, inputs, rows, columns), maps of the enlarged size and what is the same ``everywhere``, (B, C), with
        ``beside`` channels in all -> (B, outputs, factor * rows, factor * columns)."""
        return self.conv(self.up(x), *beside, everywhere=everywhere)
