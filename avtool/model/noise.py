"""What is drawn at random for a sample: a function of (seed, epoch, index) alone, on any device."""

import torch
from torch import Tensor


def _mixed(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64, with the wrap-around of 64-bit arithmetic."""

    def shifted(x: Tensor, bits: int) -> Tensor:
        return (x >> bits) & ((1 << (64 - bits)) - 1)

    x = (x ^ shifted(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ shifted(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ shifted(x, 31)


def sample_noise(index: Tensor, *, seed: int, epoch: int | Tensor, count: int) -> Tensor:
    """Uniform noise (B, count) in [0, 1) for the samples ``index`` (B,) of a data set, on their device; ``epoch``
    is one number or (B,).

    A function of (seed, epoch, index) alone: the same on any device, for any batch and any number of processes.
    """
    step = -0x61C8864680B583EB  # 2**64 divided by the golden ratio
    key = _mixed(_mixed(index + (seed + 1) * 1_000_003) + (epoch + 1) * 998_244_353)
    counter = torch.arange(1, count + 1, device=index.device) * step
    bits = _mixed(key.unsqueeze(1) + counter) >> 40 & 0xFFFFFF
    return bits.float() / (1 << 24)
