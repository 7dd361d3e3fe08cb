"""Separation and segmentation of what sounds: U-Nets over the tokens of several depths of the encoder.

Level 0 is the coarsest: it has the tokens' grid and reads the shallowest block. Each next level is twice as large and
reads a deeper block. Norms, projections and conditions are numbered by level, ``laterals`` and ``ups`` by the level
that they lead to, less 1.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avtool.model.encoder import AudioVisualEncoder, Tokens
from avtool.model.transformer import grid_of

PATCH_SIZE = 16
"""Both decoders enlarge a map of tokens by this factor, so it has to be the encoder's patch size."""
SEPARATION_LEVELS, SEGMENTATION_LEVELS = 5, 4
SEGMENTATION_WIDTH = 128
"""The published width below which no level of the segmentation decoder goes, and of its last hidden map."""


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


def block_outputs(encoder: AudioVisualEncoder, image: Tensor, audio: Tensor, *, count: int) -> list[Tokens]:
    """The tokens that the blocks ``depth_ids`` put out, without the encoder's final norms."""
    layers = list(encoder.layers(image, audio))
    return [layers[block + 1] for block in depth_ids(encoder.depth, count)]


def token_maps(norms: nn.ModuleList, depths: Sequence[Tensor], grid: tuple[int, int]) -> list[Tensor]:
    """Normalised tokens (B, N, D) of each depth, in row-major order of ``grid`` -> (B, D, rows, columns) each."""
    pairs = zip(norms, depths, strict=True)
    return [norm(tokens).transpose(1, 2).unflatten(2, grid) for norm, tokens in pairs]


def enlarged(decoder: Any, maps: Sequence[Tensor], told: Sequence[Tensor]) -> Tensor:
    """The finest level of a ``decoder``: from the top up, each level reads its one of the ``maps`` and what it is
    ``told``, (B, C)."""
    x = decoder.top(maps[0], everywhere=told[0])
    for lateral, up, everywhere, source in zip(
        decoder.laterals, decoder.ups, told[1:], maps[1:], strict=True
    ):
        x = up(x, lateral(source), everywhere=everywhere)
    return x


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


class SeparationDecoder(nn.Module):
    """Mask logits from audio maps of five depths and a visual condition (DeepAVFusion, arXiv 2312.01017, section 4).

    Each next level is half as wide. The last is ``width`` wide; None: the first is ``dim`` wide, as published, and
    ValueError for less than 16.
    """

    def __init__(self, dim: int, *, width: int | None = None) -> None:
        super().__init__()
        widths = [(16 * width if width else dim) // 2**level for level in range(SEPARATION_LEVELS)]
        if not widths[-1]:
            halved = f"the separation decoder halves its width 4 times and so needs 16 or more, not {dim}"
            raise ValueError(f"{halved}: set separate.decoder_width=1 or more")
        self.image_norm = nn.LayerNorm(dim)
        self.audio_norms = nn.ModuleList(nn.LayerNorm(dim) for _ in widths)
        self.conditions = nn.ModuleList(nn.Linear(dim, width) for width in widths)
        self.top = DoubleConv(dim + widths[0], widths[0])
        self.laterals = nn.ModuleList(
            Enlarge(dim, width, width, factor=2**level) for level, width in enumerate(widths[1:], start=1)
        )
        self.ups = nn.ModuleList(
            Enlarge(below, width, width, factor=2, beside=2 * width) for below, width in pairwise(widths)
        )
        self.predict = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, image: Tensor, audio: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """``image`` (B, Ni, D) of the last block, ``audio`` five times (B, Na, D), shallowest first, on a ``grid`` of
        mel x time -> logits (B, 1, 16 * rows, 16 * columns)."""
        seen = self.image_norm(image).mean(dim=1)
        told = [condition(seen) for condition in self.conditions]
        return self.predict(enlarged(self, token_maps(self.audio_norms, audio, grid), told))


class SeparationModel(nn.Module):
    """The encoder, which hears the mixture and sees one source's picture, and the decoder of that source's mask.

    ``decoder_width`` is that of the decoder's narrowest maps, None: a sixteenth of the encoder's, as published.
    ValueError for patches other than 16x16, and for an encoder less than 16 wide where that is None.
    """

    def __init__(self, encoder: AudioVisualEncoder, *, decoder_width: int | None = None) -> None:
        super().__init__()
        check_patch_size(encoder, "separation")
        self.encoder = encoder
        self.separation_decoder = SeparationDecoder(encoder.dim, width=decoder_width)

    def reset_head(self) -> None:
        """Starting weights of everything but the encoder."""
        reset_leaves(self.separation_decoder)

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        """``image`` (B, 3, H, W) of the source, ``audio`` (B, 1, mel, frames) of the mixture, log10 mel power
        -> logits (B, 1, mel, frames) of the mask on the mixture's mel power."""
        encoder = self.encoder
        depths = block_outputs(encoder, image, audio, count=SEPARATION_LEVELS)
        grid = grid_of(audio.shape[2], audio.shape[3], encoder.patch_size)
        return self.separation_decoder(depths[-1].image, [tokens.audio for tokens in depths], grid)


class SegmentationDecoder(nn.Module):
    """Class logits a pixel from image maps of four depths and the sound (DeepAVFusion, arXiv 2312.01017, section 4).

    Each next level is half as wide, but none below ``width``. ValueError for a ``dim`` below that.
    """

    def __init__(self, dim: int, *, classes: int, width: int = SEGMENTATION_WIDTH) -> None:
        super().__init__()
        if dim < width:
            wider = f"the segmentation decoder's maps are {width} wide, its encoder {dim}"
            raise ValueError(f"{wider}: set segment.decoder_width={dim} or less")
        widths = [max(width, dim // 2**level) for level in range(SEGMENTATION_LEVELS)]
        self.image_norms = nn.ModuleList(nn.LayerNorm(dim) for _ in widths)
        self.audio_projections = nn.ModuleList(nn.Linear(dim, width) for width in widths)
        self.audio_norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.top = DoubleConv(2 * dim, dim)
        self.laterals = nn.ModuleList(
            Enlarge(dim, dim // 2**level, width, factor=2**level)
            for level, width in enumerate(widths[1:], start=1)
        )
        self.ups = nn.ModuleList(
            Enlarge(below, below // 2, width, factor=2, beside=2 * width) for below, width in pairwise(widths)
        )
        self.hidden = nn.Conv2d(widths[-1], width, 3, padding=1)
        self.predict = nn.Conv2d(width, classes, 3, padding=1)

    def forward(self, image: Sequence[Tensor], audio: Tensor, grid: tuple[int, int]) -> Tensor:
        """``image`` four times (B, Ni, D), shallowest first, on a ``grid`` of rows x columns, ``audio`` (B, Na, D) of
        the last block -> logits (B, classes, 16 * rows, 16 * columns)."""
        pairs = zip(self.audio_norms, self.audio_projections, strict=True)
        heard = [norm(project(audio)).mean(dim=1) for norm, project in pairs]
        x = enlarged(self, token_maps(self.image_norms, image, grid), heard)
        return convolved_double(self.hidden(x), self.predict)


def convolved_double(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """The 3x3 convolution ``conv``, padding 1, of ``x`` (B, C, H, W) enlarged twofold, bilinearly
    -> (B, outputs, 2 H, 2 W).

    Enlarging treats all channels alike, so where the nine taps of all outputs are fewer than the channels, each is
    taken from the small map and enlarged then: the same sums, of 9 maps instead of all for one class.
    """
    taps = 9 * conv.out_channels
    if taps >= conv.in_channels:
        return conv(_doubled(x))
    x = _doubled(F.conv2d(x, conv.weight.permute(0, 2, 3, 1).reshape(taps, -1, 1, 1)))
    height, width = x.shape[2:]
    x = F.pad(x, (1, 1, 1, 1)).unflatten(1, (-1, 3, 3))
    taken = sum(x[:, :, i, j, i : i + height, j : j + width] for i in range(3) for j in range(3))
    assert conv.bias is not None
    return taken + conv.bias[:, None, None]


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class SegmentationModel(nn.Module):
    """The encoder and the decoder of a mask: ``classes`` 1 for what sounds, 71 for what it is as well (AVSS).

    ValueError for patches other than 16x16 and for an encoder less wide than the decoder, ``decoder_width``.
    """

    def __init__(
        self, encoder: AudioVisualEncoder, *, classes: int, decoder_width: int = SEGMENTATION_WIDTH
    ) -> None:
        super().__init__()
        check_patch_size(encoder, "segmentation")
        self.encoder = encoder
        self.segmentation_decoder = SegmentationDecoder(encoder.dim, classes=classes, width=decoder_width)

    def reset_head(self) -> None:
        """Starting weights of everything but the encoder."""
        reset_leaves(self.segmentation_decoder)

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        """(B, 3, H, W), (B, 1, mel, frames) as the encoder takes them -> logits (B, classes, H, W)."""
        encoder = self.encoder
        depths = block_outputs(encoder, image, audio, count=SEGMENTATION_LEVELS)
        grid = grid_of(image.shape[2], image.shape[3], encoder.patch_size)
        return self.segmentation_decoder([tokens.image for tokens in depths], depths[-1].audio, grid)
