"""Sound separation: a U-Net over the audio tokens of five depths, told by the picture whose sound to keep."""

from collections.abc import Sequence
from itertools import pairwise

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

LEVELS = 5


class SeparationDecoder(nn.Module):
    """Mask logits from audio maps of five depths and a visual condition (DeepAVFusion, arXiv 2312.01017, section 4).

    Level 0 is the coarsest: it has the tokens' grid and reads the shallowest block. Each next level is twice as large
    and half as wide and reads a deeper block. ``image_norm``, ``audio_norms`` and ``conditions`` are numbered by level,
    ``laterals`` and ``ups`` by the level that they lead to, less 1.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        widths = [dim // 2**level for level in range(LEVELS)]
        if not widths[-1]:
            raise ValueError(
                f"the separation decoder halves its width 4 times and so needs 16 or more, not {dim}"
            )
        self.image_norm = nn.LayerNorm(dim)
        self.audio_norms = nn.ModuleList(nn.LayerNorm(dim) for _ in widths)
        self.conditions = nn.ModuleList(nn.Linear(dim, width) for width in widths)
        self.top = DoubleConv(2 * dim, dim)
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
        maps = [token_map(norm(tokens), grid) for norm, tokens in zip(self.audio_norms, audio, strict=True)]
        x = self.top(maps[0], everywhere=self.conditions[0](seen))
        for lateral, up, condition, source in zip(
            self.laterals, self.ups, self.conditions[1:], maps[1:], strict=True
        ):
            x = up(x, lateral(source), everywhere=condition(seen))
        return self.predict(x)


class SeparationModel(nn.Module):
    """The encoder, which hears the mixture and sees one source's picture, and the decoder of that source's mask.

    ValueError for patches other than 16x16 and for widths below 16.
    """

    def __init__(self, encoder: AudioVisualEncoder) -> None:
        super().__init__()
        check_patch_size(encoder, "separation")
        self.encoder = encoder
        self.separation_decoder = SeparationDecoder(encoder.dim)

    def reset_head(self) -> None:
        """Starting weights of everything but the encoder."""
        reset_leaves(self.separation_decoder)

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        """``image`` (B, 3, H, W) of the source, ``audio`` (B, 1, mel, frames) of the mixture, log10 mel power
        -> logits (B, 1, mel, frames) of the mask on the mixture's mel power."""
        encoder = self.encoder
        depths = block_outputs(encoder, image, audio, depth_ids(encoder.depth, LEVELS))
        grid = grid_of(audio.shape[2], audio.shape[3], encoder.patch_size)
        return self.separation_decoder(depths[-1].image, [tokens.audio for tokens in depths], grid)
