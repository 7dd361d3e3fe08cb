"""All losses: pure functions of tensors, with named parts."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def normalize_patches(patches: Tensor) -> Tensor:
    """Each patch (..., P) to mean 0 and variance 1: (t - mean) / sqrt(var + 1e-6), var unbiased (MAE, section 4)."""
    mean = patches.mean(dim=-1, keepdim=True)
    variance = patches.var(dim=-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


def reconstruction_loss(prediction: Tensor, target: Tensor, *, normalize: bool = True) -> Tensor:
    """Mean squared error over removed patches, a scalar in float32.

    ``prediction`` and ``target`` (B, R, P) hold the removed patches alone, in the same order; ``normalize`` compares
    with normalised patches, in which units the best constant a patch (its own mean) gets (P - 1) / P, nearly 1.
    Source: MAE (arXiv 2111.06377), section 3; DeepAVFusion, section 3.3.
    """
    target = target.float()
    if normalize:
        target = normalize_patches(target)
    return (prediction.float() - target).square().mean()


def masked_autoencoding_loss(image: Tensor, audio: Tensor) -> dict[str, Tensor]:
    """The pretraining loss and its parts: ``loss`` = ``image`` + ``audio`` (DeepAVFusion, section 3.3)."""
    return {"loss": image + audio, "image": image, "audio": audio}


def mel_power(log_mel: Tensor) -> Tensor:
    """S = 10 ** log-mel, in float32: log10 mel powers back to mel powers."""
    return 10 ** log_mel.float()


def published_ratio_mask(source: Tensor, mixture: Tensor) -> Tensor:
    """S / (S + Mix + 1e-5), in (0, 1), at most about a half where the source is in the mixture.

    Log10 mel powers of one shape, source and mixture -> mask of that shape. Source: DeepAVFusion's release; it is there
    for parity, ``ratio_masks`` are the ideal ones.
    """
    power = mel_power(source)
    return power / (power + mel_power(mixture) + 1e-5)


def published_binary_mask(source: Tensor, mixture: Tensor) -> Tensor:
    """1 where S > Mix, else 0. Shapes and source: see ``published_ratio_mask``; ``binary_masks`` are the ideal ones."""
    return (mel_power(source) > mel_power(mixture)).float()


def ratio_masks(sources: Tensor) -> Tensor:
    """S / sum of S over the sources: the ideal ratio masks, which sum to 1.

    ``sources`` (B, N, mel, frames), log10 mel powers of all N sources of a mixture -> (B, N, mel, frames).
    Source: Wang, Narayanan and Wang 2014 (theirs has a free exponent, here 1 on powers).
    """
    power = mel_power(sources)
    return power / power.sum(dim=1, keepdim=True)


def binary_masks(sources: Tensor) -> Tensor:
    """1 where a source is louder than each of the others, else 0: the ideal binary masks; where the loudest two are
    equal, no source has it.

    ``sources`` (B, N, mel, frames), log10 mel powers, N at least 2 -> (B, N, mel, frames).
    """
    first, second = sources.topk(2, dim=1).values.split(1, dim=1)
    return ((sources == first) & (first > second)).float()


def magnitude_weights(mixture: Tensor) -> Tensor:
    """clamp(log1p(Mix), 1e-3, 10): loud places of the mixture count more in ``separation_loss``.

    Log10 mel powers -> weights of the same shape. Source: DeepAVFusion's release.
    """
    return mel_power(mixture).log1p().clamp(1e-3, 10)


def separation_loss(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """mean(w * BCE(sigmoid(logits), target)), a scalar in float32, not divided by the sum of w; w = 1 if None.

    ``logits``, ``target`` and ``weight`` have one shape, as (B, 1, mel, frames). Source: DeepAVFusion's release.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), target, weight=weight)
