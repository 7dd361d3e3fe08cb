"""What the encoders and decoders are made of: patches, positions and pre-norm transformer blocks."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from avtool.model.attention import attend, merge_heads, split_heads

VIT_EPS = 1e-6
"""LayerNorm epsilon inside the two image and audio encoders; everything else uses torch's 1e-5."""


def grid_of(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches; ValueError where the patch does not divide the input."""
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"an input of {height}x{width} is not divided by patches of {patch_size}x{patch_size}"
        )
    return height // patch_size, width // patch_size


def patchify(x: Tensor, patch_size: int, ids: Tensor | None = None) -> Tensor:
    """(B, C, H, W) -> (B, N, p * p * C): patches in row-major order; inside a patch row, column, then channel. Of
    ``ids`` (B, K) alone: (B, K, p * p * C)."""
    batch, channels = x.shape[:2]
    rows, columns = grid_of(x.shape[2], x.shape[3], patch_size)
    x = x.reshape(batch, channels, rows, patch_size, columns, patch_size)
    patches = x.permute(0, 2, 4, 3, 5, 1)
    if ids is None:
        return patches.reshape(batch, rows * columns, -1)
    clip = torch.arange(batch, device=ids.device).unsqueeze(1)
    return patches[clip, ids // columns, ids % columns].flatten(2)


def unpatchify(patches: Tensor, patch_size: int, grid: tuple[int, int]) -> Tensor:
    """The inverse of ``patchify``: (B, N, p * p * C) -> (B, C, H, W)."""
    rows, columns = grid
    x = patches.reshape(patches.shape[0], rows, columns, patch_size, patch_size, -1)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(patches.shape[0], -1, rows * patch_size, columns * patch_size)


def sincos_positions(width: int, grid: tuple[int, int]) -> Tensor:
    """Fixed 2-D sine-cosine table (N, D) of a grid of rows x columns, as in MAE (arXiv 2111.06377).

    The first D/2 channels encode the column, the last D/2 the row; each half is [sin | cos] of the integer coordinate
    times 10000 ** (-i / (D/4)). ValueError where 4 does not divide D.
    """
    if width % 4:
        raise ValueError(f"sine-cosine positions need a width that 4 divides, not {width}")
    rows, columns = grid
    # Built on the CPU in float64 whatever the default device is, so that a table never depends on the machine.
    with torch.device("cpu"):
        frequency = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
        row, column = torch.meshgrid(
            torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64), indexing="ij"
        )
        halves = [coordinate.reshape(-1, 1) * frequency for coordinate in (column, row)]
        return torch.cat([part for half in halves for part in (half.sin(), half.cos())], dim=1).float()


class PatchEmbed(nn.Module):
    """Linear embedding of patches, stored as the convolution ``proj`` that timm's ViTs have."""

    def __init__(self, *, patch_size: int, channels: int, dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, patches: Tensor) -> Tensor:
        """(B, T, p * p * C) patches in ``patchify``'s order -> (B, T, D). Any subset of an image's patches will do."""
        return F.linear(patches, self.proj.weight.permute(0, 2, 3, 1).flatten(1), self.proj.bias)


class SelfAttention(nn.Module):
    """Multi-head attention with timm's parameter names, whose keys and values may include tokens that ask nothing."""

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, T, D) queries, which read themselves and ``context`` (B, Tc, D) -> (B, T, D)."""
        if context is None:
            query, key, value = self.qkv(x).chunk(3, dim=-1)
        else:
            dim = x.shape[-1]
            query_weight, key_value_weight = self.qkv.weight.split([dim, 2 * dim])
            query_bias, key_value_bias = self.qkv.bias.split([dim, 2 * dim])
            query = F.linear(x, query_weight, query_bias)
            everything = torch.cat([context, x], dim=1)
            key, value = F.linear(everything, key_value_weight, key_value_bias).chunk(2, dim=-1)
        query, key, value = (split_heads(part, self.heads) for part in (query, key, value))
        return self.proj(merge_heads(attend(query, key, value, scale=self.scale)))


class Mlp(nn.Module):
    """Two linear maps with an exact GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.fc2(F.gelu(self.fc1(x)))


BranchNoise = Sequence[Tensor | None]
"""What decides which samples keep a block's two residual branches, each (B,) or None: see ``DropPath``."""


class DropPath(nn.Module):
    """In training, zero a residual branch for a share ``rate`` of the samples and scale it up for the others.

    ValueError for a rate outside 0 <= rate < 1. Source: stochastic depth (arXiv 1603.09382).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"a drop path rate of {rate:g} does not lie within 0 <= rate < 1")
        self.rate = rate

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """(B, ...) -> (B, ...), each sample's either zero, where its ``noise`` (B,), uniform in [0, 1) (None: torch's
        own), is below the rate, or divided by 1 - rate."""
        if not self.training or self.rate == 0:
            return x
        noise = torch.rand(x.shape[0], device=x.device) if noise is None else noise
        keep = (noise >= self.rate).to(x.dtype) / (1 - self.rate)
        return x * keep.view(-1, *(1,) * (x.ndim - 1))


class Block(nn.Module):
    """Pre-norm transformer block, parameters as in timm's ViT."""

    def __init__(
        self, dim: int, *, heads: int, mlp_ratio: float = 4.0, drop_path: float = 0.0, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = SelfAttention(dim, heads=heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, context: Tensor | None = None, noise: BranchNoise = (None, None)) -> Tensor:
        """(B, T, D) -> (B, T, D). Equals the first T rows of the whole block applied to [x ; context], for the rows of
        ``context`` are needed as keys and values only: they get no query, no projection and no MLP. ``noise`` is that
        of ``DropPath`` for the two branches."""
        normed = None if context is None else self.norm1(context)
        x = x + self.drop_path(self.attn(self.norm1(x), normed), noise[0])
        return x + self.drop_path(self.mlp(self.norm2(x)), noise[1])


def recomputed(function: Callable[..., Any], *inputs: Any) -> Any:
    """``function(*inputs)``, whose inside is computed again for the backward pass instead of kept in memory."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False)


def init_like_mae(module: nn.Module) -> None:
    """Starting values of MAE: Xavier-uniform linear maps (patch embeddings as flat ones), zero biases, unit norms."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, PatchEmbed):
        nn.init.xavier_uniform_(module.proj.weight.view(module.proj.weight.shape[0], -1))
        assert module.proj.bias is not None
        nn.init.zeros_(module.proj.bias)
    elif isinstance(module, nn.LayerNorm):
        module.reset_parameters()
