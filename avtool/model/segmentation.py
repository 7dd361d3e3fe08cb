"""Segmentation of what sounds: a U-Net over the image tokens of four depths, told what is heard."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from avtool.model.encoder import AudioVisualEncoder
from avtool.model.transformer import grid_of
from avtool.model.unet import (
    DoubleConv,
    Enlarge,
    block_outputs,
    check_patch_size,
    depth_ids,
    reset_leaves,
    token_map,
)

LEVELS = 4
NARROWEST = 128
"""Width below which no level goes, and of the last hidden map."""


class SegmentationDecoder(nn.Module):
    """Class logits a pixel from image maps of four depths and the sound (DeepAVFusion, arXiv 2312.01017, section 4).

    Level 0 is the coarsest: it has the tokens' grid and reads the shallowest block. Each next level is twice as large
    and reads a deeper block. Norms and projections are numbered by level, ``laterals`` and ``ups`` by the level that
    they lead to, less 1. ValueError for a width below 128.
    """

    def __init__(self, dim: int, *, classes: int) -> None:
        super().__init__()
        if dim < NARROWEST:
            raise ValueError(f"the segmentation decoder needs an encoder of width 128 or more, not {dim}")
        widths = [max(NARROWEST, dim // 2**level) for level in range(LEVELS)]
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
        self.hidden = nn.Conv2d(widths[-1], NARROWEST, 3, padding=1)
        self.predict = nn.Conv2d(NARROWEST, classes, 3, padding=1)

    def forward(self, image: Sequence[Tensor], audio: Tensor, grid: tuple[int, int]) -> Tensor:
        """``image`` four times (B, Ni, D), shallowest first, on a ``grid`` of rows x columns, ``audio`` (B, Na, D) of
        the last block -> logits (B, classes, 16 * rows, 16 * columns)."""
        maps = [token_map(norm(tokens), grid) for norm, tokens in zip(self.image_norms, image, strict=True)]
        heard = [
            norm(project(audio)).mean(dim=1)
            for norm, project in zip(self.audio_norms, self.audio_projections, strict=True)
        ]
        x = self.top(maps[0], everywhere=heard[0])
        for lateral, up, sound, source in zip(self.laterals, self.ups, heard[1:], maps[1:], strict=True):
            x = up(x, lateral(source), everywhere=sound)
        return convolved_double(self.hidden(x), self.predict)


def convolved_double(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """The 3x3 convolution ``conv``, padding 1, of ``x`` (B, C, H, W) enlarged twofold, bilinearly
    -> (B, outputs, 2 H, 2 W).

    Enlarging treats all channels alike, so where the nine taps of all outputs are fewer than the channels, each is
    taken from the small map and enlarged then: the same sums, of 9 maps instead of 128 for one class.
    """
    taps = 9 * conv.out_channels
    if taps >= conv.in_channels:
        return conv(_enlarged(x))
    x = _enlarged(F.conv2d(x, conv.weight.permute(0, 2, 3, 1).reshape(taps, -1, 1, 1)))
    height, width = x.shape[2:]
    x = F.pad(x, (1, 1, 1, 1)).unflatten(1, (-1, 3, 3))
    taken = sum(x[:, :, i, j, i : i + height, j : j + width] for i in range(3) for j in range(3))
    assert conv.bias is not None
    return taken + conv.bias[:, None, None]


def _enlarged(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class SegmentationModel(nn.Module):
    """The encoder and the decoder of a mask: ``classes`` 1 for what sounds, 71 for what it is as well (AVSS).

    ValueError for patches other than 16x16 and for widths below 128.
    """

    def __init__(self, encoder: AudioVisualEncoder, *, classes: int) -> None:
        super().__init__()
        check_patch_size(encoder, "segmentation")
        self.encoder = encoder
        self.segmentation_decoder = SegmentationDecoder(encoder.dim, classes=classes)

    def reset_head(self) -> None:
        """Starting weights of everything but the encoder."""
        reset_leaves(self.segmentation_decoder)

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        """(B, 3, H, W), (B, 1, mel, frames) as the encoder takes them -> logits (B, classes, H, W)."""
        encoder = self.encoder
        depths = block_outputs(encoder, image, audio, depth_ids(encoder.depth, LEVELS))
        grid = grid_of(image.shape[2], image.shape[3], encoder.patch_size)
        return self.segmentation_decoder([tokens.image for tokens in depths], depths[-1].audio, grid)
