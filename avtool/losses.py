"""All losses: pure functions of tensors, with named parts."""

from __future__ import annotations

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
