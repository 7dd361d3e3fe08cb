"""The early-fusion encoder: an image ViT, an audio ViT and the fusion tokens between them, from the first layer on."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from avtool.model.fusion import FusionBlock
from avtool.model.transformer import (
    VIT_EPS,
    Block,
    BranchNoise,
    PatchEmbed,
    grid_of,
    init_like_mae,
    patchify,
    recomputed,
    sincos_positions,
)
from avtool.registry import FUSIONS

FusionLayers = Literal["all", "none"] | Sequence[int]


class Tokens(NamedTuple):
    """The three streams. image (B, Ni, D) and audio (B, Na, D) in row-major order of their grids (rows x columns of the
    frame; mel x time of the spectrogram), or only the kept ones; fusion (B, T, D)."""

    image: Tensor
    audio: Tensor
    fusion: Tensor


def fusion_layer_ids(layers: FusionLayers, depth: int) -> list[int]:
    """The layers that have a fusion block; ValueError for one outside 0 .. depth - 1."""
    if layers == "all":
        return list(range(depth))
    if layers == "none":
        return []
    ids = sorted({int(layer) for layer in layers})
    if any(layer < 0 or layer >= depth for layer in ids):
        raise ValueError(f"fusion layers {ids} do not lie within 0 .. {depth - 1}")
    return ids


class VisionTransformer(nn.Module):
    """The parameters of one modality's ViT, under timm's names. There is no class token, and positions are fixed."""

    def __init__(
        self,
        *,
        channels: int,
        patch_size: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        drop_path: Sequence[float],
    ) -> None:
        super().__init__()
        self.dim = dim
        self.patch_embed = PatchEmbed(patch_size=patch_size, channels=channels, dim=dim)
        self.blocks = nn.ModuleList(
            Block(dim, heads=heads, mlp_ratio=mlp_ratio, drop_path=drop_path[layer], eps=VIT_EPS)
            for layer in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=VIT_EPS)
        self._tables: dict[tuple[tuple[int, int], torch.device], Tensor] = {}

    def positions(self, grid: tuple[int, int], device: torch.device) -> Tensor:
        """The fixed (N, D) table for a grid of rows x columns, made once for each size and device."""
        key = (grid, device)
        if key not in self._tables:
            self._tables[key] = sincos_positions(self.dim, grid).to(device)
        return self._tables[key]

    def embed(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """(B, C, H, W), patches to keep (B, K) or None for all -> (B, K or N, D) tokens with their positions."""
        patch_size = self.patch_embed.patch_size
        positions = self.positions(grid_of(x.shape[2], x.shape[3], patch_size), x.device)
        return self.patch_embed(patchify(x, patch_size, keep)) + (
            positions if keep is None else positions[keep]
        )


class AudioVisualEncoder(nn.Module):
    """DeepAVFusion's encoder (arXiv 2312.01017, section 3.1).

    In a layer with a fusion block the image and audio blocks read the fusion tokens beside their own, and the fusion
    block reads the layer's inputs; elsewhere both streams run alone and the fusion tokens pass through.

    ``tokens`` counts (fusion, image-aggregating, audio-aggregating) tokens; only ``factorized`` tells them apart.
    ``drop_path`` is the rate of the last layer, rising linearly from 0. ``image_size`` (rows, columns) and
    ``audio_size`` (mel bands, frames) are what the model was made for: other sizes that the patch divides are encoded
    with positions rebuilt.
    """

    def __init__(
        self,
        *,
        image_size: tuple[int, int] = (224, 224),
        audio_size: tuple[int, int] = (128, 192),
        patch_size: int = 16,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        fusion: str = "factorized",
        fusion_layers: FusionLayers = "all",
        fusion_tokens: tuple[int, int, int] = (16, 8, 8),
        fusion_attn_ratio: float = 0.25,
        fusion_mlp_ratio: float = 1.0,
        fusion_rank: int | None = None,
        drop_path: float = 0.0,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"unknown fusion {fusion!r}; there are {', '.join(FUSIONS)}")
        self.patch_size, self.dim, self.depth = patch_size, dim, depth
        self.image_grid = grid_of(*image_size, patch_size)
        self.audio_grid = grid_of(*audio_size, patch_size)
        self.activation_checkpointing = activation_checkpointing
        rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        shape = {"patch_size": patch_size, "dim": dim, "depth": depth, "heads": heads}
        vit = partial(VisionTransformer, **shape, mlp_ratio=mlp_ratio, drop_path=rates)
        self.image, self.audio = vit(channels=3), vit(channels=1)
        self.fusion_tokens = nn.Parameter(torch.empty(1, sum(fusion_tokens), dim))
        # Keyed by layer number, also where some layers have none.
        self.fusion_blocks = nn.ModuleDict(
            {
                str(layer): FusionBlock(
                    dim,
                    kind=fusion,
                    heads=heads,
                    tokens=(fusion_tokens[0], fusion_tokens[1], fusion_tokens[2]),  # config.json has a list
                    attn_ratio=fusion_attn_ratio,
                    mlp_ratio=fusion_mlp_ratio,
                    rank=fusion_rank,
                    drop_path=rates[layer],
                )
                for layer in fusion_layer_ids(fusion_layers, depth)
            }
        )
        self.fusion_norm = nn.LayerNorm(dim)

    def reset_parameters(self) -> None:
        """Random starting weights, drawn from torch's global generator."""
        self.apply(init_like_mae)
        nn.init.normal_(self.fusion_tokens, std=0.02)

    def forward(
        self,
        image: Tensor,
        audio: Tensor,
        *,
        image_keep: Tensor | None = None,
        audio_keep: Tensor | None = None,
        path_noise: Tensor | None = None,
    ) -> Tokens:
        """Tokens after the final norms.

        ``image`` (B, 3, H, W), ImageNet-normalised; ``audio`` (B, 1, mel, frames), log10 mel power. ``image_keep`` and
        ``audio_keep`` (B, K) list the patches to encode, None for all. ``path_noise`` (B, depth, 6), uniform in [0, 1),
        decides in training which samples keep the two residual branches of a layer's image, audio and fusion block
        (None: torch's own draws). ValueError where the patch does not divide an input.
        """
        kept = {"image_keep": image_keep, "audio_keep": audio_keep}
        for tokens in self.layers(image, audio, **kept, path_noise=path_noise):  # noqa: B007
            pass
        return self.normalize(tokens)

    def normalize(self, tokens: Tokens) -> Tokens:
        """The final norms, one for each stream."""
        return Tokens(
            self.image.norm(tokens.image), self.audio.norm(tokens.audio), self.fusion_norm(tokens.fusion)
        )

    def layers(
        self,
        image: Tensor,
        audio: Tensor,
        *,
        image_keep: Tensor | None = None,
        audio_keep: Tensor | None = None,
        path_noise: Tensor | None = None,
    ) -> Iterator[Tokens]:
        """What each layer reads, from the embedded tokens on, and last what the last layer puts out: depth + 1 items,
        none of them through the final norms. Item k + 1 is the output of block k."""
        tokens = Tokens(
            self.image.embed(image, image_keep),
            self.audio.embed(audio, audio_keep),
            self.fusion_tokens.repeat(image.shape[0], 1, 1),  # laid out as any layer's: one kernel fits all
        )
        yield tokens
        for layer in range(self.depth):
            noise = (None,) * 6 if path_noise is None else path_noise[:, layer].unbind(dim=1)
            if self.activation_checkpointing:
                tokens = Tokens(*recomputed(self._layer, layer, *tokens, noise))
            else:
                tokens = self._layer(layer, *tokens, noise)
            yield tokens

    def _layer(self, layer: int, image: Tensor, audio: Tensor, fusion: Tensor, noise: BranchNoise) -> Tokens:
        image_block, audio_block = self.image.blocks[layer], self.audio.blocks[layer]
        of_image, of_audio, of_fusion = noise[:2], noise[2:4], noise[4:]
        if str(layer) not in self.fusion_blocks:
            return Tokens(image_block(image, noise=of_image), audio_block(audio, noise=of_audio), fusion)
        return Tokens(
            image_block(image, fusion, of_image),
            audio_block(audio, fusion, of_audio),
            self.fusion_blocks[str(layer)](fusion, image, audio, of_fusion),
        )


def encoder_of(model: nn.Module) -> AudioVisualEncoder:
    """The encoder that ``model`` stands on, or ``model`` itself where it is one."""
    encoder = model if isinstance(model, AudioVisualEncoder) else model.encoder
    assert isinstance(encoder, AudioVisualEncoder)
    return encoder
