"""The masked autoencoder that pretrains the encoder: random masks, two decoders, predictions of removed patches."""

import math
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avtool.model.encoder import AudioVisualEncoder, Tokens, encoder_of
from avtool.model.transformer import Block, init_like_mae, patchify, recomputed, sincos_positions


def _mixed(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64, with the wrap-around of 64-bit arithmetic."""

    def shifted(x: Tensor, bits: int) -> Tensor:
        return (x >> bits) & ((1 << (64 - bits)) - 1)

    x = (x ^ shifted(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ shifted(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ shifted(x, 31)


def sample_noise(index: Tensor, *, seed: int, epoch: int | Tensor, count: int) -> Tensor:
    """Uniform noise (B, count) in [0, 1) for the samples ``index`` (B,) of a data set, on their device; ``epoch``
    is one number or (B,). Masks and dropped paths are made of it.

    A function of (seed, epoch, index) alone: the same on any device, for any batch and any number of processes.
    """
    step = -0x61C8864680B583EB  # 2**64 divided by the golden ratio
    key = _mixed(_mixed(index + (seed + 1) * 1_000_003) + (epoch + 1) * 998_244_353)
    counter = torch.arange(1, count + 1, device=index.device) * step
    bits = _mixed(key.unsqueeze(1) + counter) >> 40 & 0xFFFFFF
    return bits.float() / (1 << 24)


def patch_noise(model: nn.Module, index: Tensor, *, seed: int, epoch: int | Tensor) -> tuple[Tensor, Tensor]:
    """``sample_noise`` for every image patch and every audio patch of ``model``'s encoder: (B, Ni), (B, Na)."""
    encoder = encoder_of(model)
    sizes = [math.prod(grid) for grid in (encoder.image_grid, encoder.audio_grid)]
    image, audio = sample_noise(index, seed=seed, epoch=epoch, count=sum(sizes)).split(sizes, dim=1)
    return image, audio


class Mask(NamedTuple):
    """Which patches of each sample stay. keep (B, K) and removed (B, N - K) are patch ids in order of their noise."""

    keep: Tensor
    removed: Tensor

    def dense(self) -> Tensor:
        """(B, N) float: 1 where the patch was removed, 0 where it stays."""
        batch, count = self.keep.shape[0], self.keep.shape[1] + self.removed.shape[1]
        zeros = torch.zeros(batch, count, device=self.keep.device)
        return zeros.scatter(1, self.removed, 1.0)


def mask_from_noise(noise: Tensor, ratio: float) -> Mask:
    """Keep the int(N * (1 - ratio)) patches with the smallest ``noise`` (B, N). Source: MAE, section 3."""
    kept = int(noise.shape[1] * (1 - ratio))
    order = noise.argsort(dim=1, stable=True)
    return Mask(order[:, :kept], order[:, kept:])


class Reconstruction(NamedTuple):
    """Predicted patches (B, R, p * p * C), the patches that they stand for in the same order, and the mask."""

    prediction: Tensor
    target: Tensor
    mask: Mask


class Decoder(nn.Module):
    """Rebuilds one modality's patches from its visible tokens and the fusion tokens."""

    def __init__(
        self,
        *,
        encoder_dim: int,
        grid: tuple[int, int],
        patch_values: int,
        dim: int,
        depth: int,
        heads: int,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.activation_checkpointing = activation_checkpointing
        self.embed = nn.Linear(encoder_dim, dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, grid[0] * grid[1], dim))
        self.blocks = nn.ModuleList(Block(dim, heads=heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.pred = nn.Linear(dim, patch_values)

    def reset_parameters(self) -> None:
        """Random starting weights; the positions begin as sine-cosine and are trained."""
        self.apply(init_like_mae)
        nn.init.normal_(self.mask_token, std=0.02)
        with torch.no_grad():
            self.pos_embed.copy_(sincos_positions(self.pos_embed.shape[-1], self.grid))

    def forward(self, visible: Tensor, fusion: Tensor, mask: Mask) -> Tensor:
        """Predicted patches (B, R, p * p * C): the removed ones, in the order of ``mask.removed``.

        ``visible`` (B, K, D) in the order of ``mask.keep``, ``fusion`` (B, T, D). The last block is asked only for the
        rows that are returned.
        """
        positions = self.pos_embed[0]
        visible = self.embed(visible) + F.embedding(mask.keep, positions)
        removed = self.mask_token + F.embedding(mask.removed, positions)
        x = torch.cat([self.embed(fusion), visible, removed.to(visible.dtype)], dim=1)
        for block in self.blocks[:-1]:
            x = self._run(block, x)
        unasked = fusion.shape[1] + visible.shape[1]
        return self.pred(self.norm(self._run(self.blocks[-1], x[:, unasked:], x[:, :unasked])))

    def _run(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        return recomputed(block, *inputs) if self.activation_checkpointing else block(*inputs)


class MaskedAutoencoder(nn.Module):
    """The encoder and a decoder for each modality (DeepAVFusion, section 3.3). Losses are in ``avtool.losses``."""

    def __init__(
        self,
        *,
        encoder: AudioVisualEncoder,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        mask_ratio_image: float = 0.75,
        mask_ratio_audio: float = 0.8,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.mask_ratio_image, self.mask_ratio_audio = mask_ratio_image, mask_ratio_audio
        area = encoder.patch_size**2
        decoder = partial(
            Decoder,
            encoder_dim=encoder.dim,
            dim=decoder_dim,
            depth=decoder_depth,
            heads=decoder_heads,
            activation_checkpointing=encoder.activation_checkpointing,
        )
        self.image_decoder = decoder(grid=encoder.image_grid, patch_values=3 * area)
        self.audio_decoder = decoder(grid=encoder.audio_grid, patch_values=area)

    def reset_parameters(self) -> None:
        """Random starting weights, drawn from torch's global generator."""
        for part in (self.encoder, self.image_decoder, self.audio_decoder):
            part.reset_parameters()

    def masks(self, image_noise: Tensor, audio_noise: Tensor) -> tuple[Mask, Mask]:
        """The masks that noise (B, Ni) and (B, Na) give at this model's ratios."""
        return (
            mask_from_noise(image_noise, self.mask_ratio_image),
            mask_from_noise(audio_noise, self.mask_ratio_audio),
        )

    def encode_visible(self, image: Tensor, audio: Tensor, image_mask: Mask, audio_mask: Mask) -> Tokens:
        """The visible tokens and the fusion tokens."""
        return self.encoder(image, audio, image_keep=image_mask.keep, audio_keep=audio_mask.keep)

    def forward(
        self, image: Tensor, audio: Tensor, *, image_noise: Tensor, audio_noise: Tensor
    ) -> tuple[Reconstruction, Reconstruction]:
        """Image and audio reconstructions of the removed patches.

        ``image`` (B, 3, H, W), ``audio`` (B, 1, mel, frames); noise (B, N), uniform: where it is smallest the patch
        stays.
        """
        image_mask, audio_mask = self.masks(image_noise, audio_noise)
        tokens = self.encode_visible(image, audio, image_mask, audio_mask)

        def rebuilt(decoder: Decoder, x: Tensor, visible: Tensor, mask: Mask) -> Reconstruction:
            removed = patchify(x, self.encoder.patch_size, mask.removed)
            return Reconstruction(decoder(visible, tokens.fusion, mask), removed, mask)

        return (
            rebuilt(self.image_decoder, image, tokens.image, image_mask),
            rebuilt(self.audio_decoder, audio, tokens.audio, audio_mask),
        )
