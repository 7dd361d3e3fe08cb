"""All losses: pure functions of tensors, with named parts."""

import torch
import torch.nn.functional as F
from torch import Tensor


def normalize_patches(patches: Tensor) -> Tensor:
    """Each patch (..., P) to mean 0 and variance 1: (t - mean) / sqrt(var + 1e-6), var unbiased (MAE, section 4)."""
    count = patches.shape[-1]
    biased = (count - 1) / count  # of the variance that layer_norm divides by
    return F.layer_norm(patches, (count,), patches.new_full((count,), biased**0.5), eps=1e-6 * biased)


def reconstruction_loss(prediction: Tensor, target: Tensor, *, normalize: bool = True) -> Tensor:
    """Mean squared error over removed patches, a scalar in float32.

    ``prediction`` and ``target`` (B, R, P) hold the removed patches alone, in the same order; ``normalize`` compares
    with normalised patches, for which predicting each patch's mean has a loss of (P - 1) / P, about 1.
    Source: MAE (arXiv 2111.06377), section 3; DeepAVFusion, section 3.3.
    """
    target = target.float()
    if normalize:
        target = normalize_patches(target)
    return F.mse_loss(prediction.float(), target)


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


def smoothed(targets: Tensor, smoothing: float) -> Tensor:
    """Targets (B, C) that sum to 1, of which a share ``smoothing`` is spread evenly over the classes (arXiv
    1512.00567, section 7)."""
    return targets * (1 - smoothing) + smoothing / targets.shape[1]


def inverse_frequency(counts: Tensor) -> Tensor:
    """Weights (C,) proportional to 1 / ``counts`` (C,), with mean 1 over the samples counted; 0 for classes without."""
    counts = counts.float()
    present = counts > 0
    return torch.where(
        present, counts.sum() / (present.sum() * counts.clamp(min=1)), torch.zeros_like(counts)
    )


def single_label_loss(logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy of ``logits`` (B, C) with ``targets`` (B, C) that sum to 1 each, a scalar in float32; classes
    count by ``weight`` (C,), 1 if None, and the mean is over samples."""
    log_shares = F.log_softmax(logits.float(), dim=1)
    weighted = targets if weight is None else targets * weight
    return -(weighted * log_shares).sum(dim=1).mean()


def multi_label_loss(logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy over samples and classes of ``logits`` (B, C) with ``targets`` (B, C) in [0, 1], a
    scalar in float32; classes count by ``weight`` (C,), 1 if None."""
    return F.binary_cross_entropy_with_logits(logits.float(), targets, weight=weight)


def pool_cells(cells: Tensor, *, pooling: str, temperature: float) -> Tensor:
    """The score (...,) of maps ``cells`` (..., N): their ``max``, or ``logsumexp``, temperature * log mean exp(cells /
    temperature), which lies between the mean and the maximum and gives every cell a gradient. ValueError for another
    ``pooling``. Source: multiple-instance learning, the smooth maximum of Keeler et al. 1990 in logarithmic form."""
    if pooling == "max":
        return cells.amax(dim=-1)
    if pooling == "logsumexp":
        count = torch.tensor(float(cells.shape[-1]), device=cells.device)
        return temperature * ((cells / temperature).logsumexp(dim=-1) - count.log())
    raise ValueError(f"unknown pooling {pooling!r}: max or logsumexp")


def contrastive_loss(
    scores: Tensor,
    others: Tensor | None = None,
    *,
    first: int = 0,
    temperature: float,
    belongs: Tensor | None = None,
) -> dict[str, Tensor]:
    """InfoNCE over ``scores`` (n, B): n frames with each of the B sounds of their batch. Their own sounds are number
    ``first`` and those after it, and ``others`` (n, B) are the scores of these with each of the B frames; None: n is
    B, and it is ``scores`` transposed.

    ``loss`` is the mean of ``image`` (which sound belongs to this frame) and ``audio`` (which frame to this sound),
    means over the n themselves: their mean over all parts of a batch is that of the batch. Of those that ``belongs``,
    bool (n,), says not to belong together (None: all do) the frame and the sound are only the others' negatives, and
    their own terms are 0.
    Source: arXiv 1807.03748; both directions as in CLIP (arXiv 2103.00020), parts of a batch as in open_clip.
    """
    logits = scores.float() / temperature
    others = logits.t() if others is None else others.float() / temperature
    pairs = torch.arange(first, first + len(logits), device=logits.device)
    image, audio = _cross_entropy(logits, pairs, belongs), _cross_entropy(others, pairs, belongs)
    return {"loss": (image + audio) / 2, "image": image, "audio": audio}


def candidates_loss(scores: Tensor, *, temperature: float, belongs: Tensor | None = None) -> Tensor:
    """Cross-entropy of ``scores`` (B, K) of a frame with K sounds, of which the first is its own: a scalar, float32.
    Where ``belongs``, bool (B,), says that it is not (None: always is), the term is 0."""
    own = scores.new_zeros(len(scores), dtype=torch.int64)
    return _cross_entropy(scores.float() / temperature, own, belongs)


def _cross_entropy(logits: Tensor, targets: Tensor, counted: Tensor | None) -> Tensor:
    """The mean over all samples, of which those not ``counted`` bool (B,) have 0 (None: all are)."""
    if counted is None:
        return F.cross_entropy(logits, targets)
    return F.cross_entropy(logits, targets, reduction="none").mul(counted).mean()


def sigmoid_loss(scores: Tensor, belongs: Tensor, *, temperature: float) -> Tensor:
    """Binary cross-entropy of sigmoid(``scores`` / temperature) with ``belongs``, bool, both (B, C): whether a frame
    and a sound are of one clip. A mean over all pairs, in float32.

    A contrast compares scores of one row alone; this one sets 0 as the level that all scores share.
    Source: Zhai et al. (arXiv 2303.15343), equation 1, without its bias.
    """
    return F.binary_cross_entropy_with_logits(scores.float() / temperature, belongs.float())


def segmentation_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean over pixels, a scalar in float32: binary cross-entropy for one class, logits (B, 1, H, W), else
    cross-entropy over classes (B, C, H, W). ``masks`` (B, H, W) hold class numbers, 0 and 1 for one class; 255 is left
    out."""
    known = masks != 255
    if logits.shape[1] == 1:
        of_pixels = F.binary_cross_entropy_with_logits(
            logits[:, 0].float(), (masks > 0).float(), weight=known.float(), reduction="sum"
        )
        return of_pixels / known.sum().clamp(min=1)
    return F.cross_entropy(logits.float(), masks.long(), ignore_index=255)


def overlap_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """1 - sum(p t) / sum(p + t - p t) over a frame's pixels, for each class that its truth t has; the mean over these
    classes and then over frames, of which one without any counts 0: a scalar in float32.

    Where an object is small and its place unsure, cross-entropy alone leaves every pixel below one half for long; this
    rewards an overlap as the metric does. Shapes and 255 as in ``segmentation_loss``. Source: Rahman and Wang 2016,
    "Optimizing intersection-over-union in deep neural networks for image segmentation".
    """
    known = (masks != 255).unsqueeze(1)
    if logits.shape[1] == 1:
        shares, truth = logits.float().sigmoid(), (masks > 0).unsqueeze(1)
    else:
        shares = logits.float().softmax(dim=1)
        truth = masks.unsqueeze(1) == torch.arange(logits.shape[1], device=masks.device)[:, None, None]
    shares, truth = shares * known, (truth & known).float()
    shared, of_truth = (shares * truth).sum(dim=(2, 3)), truth.sum(dim=(2, 3))
    lost = 1 - shared / (shares.sum(dim=(2, 3)) + of_truth - shared).clamp(min=1e-6)
    present = (of_truth > 0).float()
    return ((lost * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)).mean()
