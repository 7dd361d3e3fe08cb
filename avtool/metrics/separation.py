"""Separation: protocol ``bss-eval`` on the waveforms' own device, and the ideal masks that bound it.

Letters: B mixtures, S sources of each, N samples, K rival estimates of the same sources, L taps, F frequencies.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from avtool.metrics import toeplitz

LENGTH = 512
"""Taps of the distortion that is forgiven: a source may arrive filtered by as many."""
FRAME = 4096
"""Samples of the transforms in which signals are filtered and correlated: short ones stay in the cache."""
NUMBERS_AT_ONCE = 2**24
"""Samples of estimates that go together where memory is the bound."""
SILENCE = 1e-5
"""Energy (sum of squares of samples in -1 to 1) below which a waveform counts as silent."""


class BssEval(NamedTuple):
    """Source to distortion, interference and artifacts ratios in dB, and where there is none; all of one shape."""

    sdr: Tensor
    sir: Tensor
    sar: Tensor
    silent: Tensor
    """bool: no score, NaN in the others; leave these out and count them"""


def silent(waveforms: Tensor) -> Tensor:
    """Whether waveforms (..., N) have an energy, the sum of squares, below ``SILENCE``: bool (...)."""
    return waveforms.double().square().sum(dim=-1) < SILENCE


@torch.no_grad()
def bss_eval(references: Tensor, estimates: Tensor) -> BssEval:
    """Protocol ``bss-eval``: how well ``estimates`` give back ``references`` (B, S, N), without permutation.

    With P_j e the least-squares projection of estimate e_j on the delays 0 to L - 1 = 511 of its own reference, P e on
    those of all references of the mixture, in dB (10 log10):

        sdr = |P_j e|^2 / |e - P_j e|^2    sir = |P_j e|^2 / |P e - P_j e|^2    sar = |P e|^2 / |e - P e|^2

    ``estimates`` is (B, S, N), or (B, K, S, N) for K rivals (a model, the mixture, ideal masks), which share part of
    the work; scores are float64 (B, S) or (B, K, S), on the device of the references. A source without energy, or
    whose estimate has none, is ``silent``, as is every source of a mixture that holds a silent reference. A ratio whose
    denominator is rounding is huge (a mixture has no artifacts: its SAR is 150 dB or more, or infinite) and no number
    to average. ValueError for shapes that do not go together and values that are not finite.

    Equal to mir_eval 0.8's ``bss_eval_sources`` to 1e-3 dB and better up to 90 dB, on recordings. Where references have
    whole octaves without anything (below 1e-15 of their power) the normal equations are singular to rounding: SDR
    remains, but SIR and SAR are then known to 0.01 to 1 dB only, by either (mir_eval's change with the loudness).

    Source: Vincent, Gribonval and Fevotte, IEEE TASLP 14(4), 2006; the 512 delays are those of BSS Eval 3.
    """
    shape = estimates.shape[:-3] + estimates.shape[-2:] if estimates.ndim == 4 else estimates.shape
    if references.ndim != 3 or shape != references.shape or not references.numel():
        raise ValueError(
            f"references {tuple(references.shape)} and estimates {tuple(estimates.shape)} are not (B, S, N) and"
            " (B, S, N) or (B, K, S, N)"
        )
    if not (references.isfinite().all() and estimates.isfinite().all()):
        raise ValueError("a waveform holds values that are not finite")
    sources = references.double()
    rivals = estimates.to(sources).reshape(len(sources), -1, *sources.shape[1:])  # (B, K, S, N)
    heard = ~silent(sources).any(dim=1)
    left_out = silent(rivals) | ~heard[:, None, None]
    scores = rivals.new_full((3, *left_out.shape), torch.nan)
    for some in heard.nonzero().flatten().split(_at_once(rivals)):
        scores[:, some] = torch.stack(_ratios(sources[some], rivals[some]))
    parts = (*scores.masked_fill(left_out, torch.nan), left_out)
    return BssEval(*(part.reshape(estimates.shape[:-1]) for part in parts))


def _at_once(rivals: Tensor) -> int:
    """How many mixtures go together: one where a cache is to be kept, else what memory holds."""
    return 1 if rivals.device.type == "cpu" else max(1, NUMBERS_AT_ONCE // rivals[0].numel())


def _ratios(sources: Tensor, rivals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """SDR, SIR and SAR (B, K, S) in dB of sources (B, S, N) and rivals (B, K, S, N), both float64."""
    heard, wanted = _frames(sources), _frames(rivals)  # (B, S, frames, FRAME), (B, K, S, frames, FRAME)
    spectra = torch.fft.rfft(heard)
    lags = _correlations(spectra, heard)  # (B, S, S, L)
    right = _correlations(spectra, wanted.flatten(1, 2))
    right = right.unflatten(2, wanted.shape[1:3]).movedim(1, 3)  # (B, K, S, S, L)
    wanted = wanted[..., LENGTH - 1 :]
    own, everyone = _filters(lags, right, _energy(wanted))
    target = _filtered(spectra[:, None] * torch.fft.rfft(own, FRAME).unsqueeze(-2))
    taps = torch.fft.rfft(everyone, FRAME).unsqueeze(-2)  # (B, K, S, S, 1, F)
    projection = _filtered(sum(spectra[:, None, None, r] * taps[:, :, :, r] for r in range(taps.shape[3])))
    of_target = _energy(target)
    return (
        _decibel(of_target, _energy(wanted - target)),
        _decibel(of_target, _energy(projection - target)),
        _decibel(_energy(projection), _energy(wanted - projection)),
    )


def _frames(waveforms: Tensor) -> Tensor:
    """Waveforms (..., N) cut for overlap-save: (..., frames, FRAME), each frame with the L - 1 samples before it, up to
    where the longest filter has rung out.
    """
    hop = FRAME - LENGTH + 1
    frames = -(-(waveforms.shape[-1] + LENGTH - 1) // hop)
    padded = F.pad(waveforms, (LENGTH - 1, frames * hop - waveforms.shape[-1]))
    return padded.unfold(-1, FRAME, hop)


def _correlations(spectra: Tensor, frames: Tensor) -> Tensor:
    """sum over t of s(t - a) e(t) for 0 <= a < L: of references, as the spectra (B, S, frames, F) of their frames, and
    other signals' frames (B, E, frames, FRAME), (B, S, E, L).
    """
    new = frames.clone()
    new[..., : LENGTH - 1] = 0
    others = torch.fft.rfft(new)
    conjugate = spectra.conj_physical()
    pairs = [(conjugate * others[:, None, e]).sum(dim=2) for e in range(others.shape[1])]
    return torch.fft.irfft(torch.stack(pairs, dim=2), FRAME)[..., :LENGTH]


def _filtered(product: Tensor) -> Tensor:
    return torch.fft.irfft(product, FRAME)[..., LENGTH - 1 :]


def _filters(lags: Tensor, right: Tensor, energy: Tensor) -> tuple[Tensor, Tensor]:
    """The least-squares filters of each estimate onto its own reference (B, K, S, L) and onto all of them, R = S,
    (B, K, S, R, L), from ``lags`` (B, S, S, L), correlations ``right`` (B, K, S, R, L) and ``energy`` (B, K, S).
    """
    blocks = toeplitz.invert_own(lags)
    of_own = right.diagonal(dim1=2, dim2=3).mT  # (B, K, S, L)
    own = toeplitz.solve_own(blocks, of_own)
    start = torch.diag_embed(own.mT, dim1=2, dim2=3)  # (B, K, S, R, L)
    sides = right.flatten(1, 2)
    everyone, found = toeplitz.solve_all(lags, blocks, sides, start.flatten(1, 2), energy.flatten(1))
    for item in (~found).nonzero().flatten().tolist():  # signals too short or too much alike
        everyone[item] = toeplitz.solve_densely(lags[item], sides[item])
        for source in range(len(lags[item])):
            one = slice(source, source + 1)
            own[item, :, one] = toeplitz.solve_densely(lags[item, one, one], of_own[item, :, one])
    return own, everyone.view_as(right)


def _energy(frames: Tensor) -> Tensor:
    return torch.linalg.vector_norm(frames, dim=(-2, -1)).square()


def _decibel(numerator: Tensor, denominator: Tensor) -> Tensor:
    return 10 * (numerator / denominator).log10()


def ideal_ratio_mask(sources: Tensor) -> Tensor:
    """S / sum of S: what a ratio mask can at best be.

    ``sources`` (B, S, ...), magnitudes or powers, none below 0 -> masks (B, S, ...) that sum to 1 over the sources;
    where all are 0, each gets 1 / S. Source: Wang, Narayanan and Wang 2014 (theirs has a free exponent).
    """
    total = sources.sum(dim=1, keepdim=True)
    return torch.where(total > 0, sources / total, 1 / sources.shape[1])


def ideal_binary_mask(sources: Tensor) -> Tensor:
    """1 where S > each of the others, else 0; where the loudest two are equal, no source has it.

    ``sources`` (B, S, ...), magnitudes or powers, S at least 2 -> masks (B, S, ...) of its dtype. Source: Wang 2005.
    """
    first, second = sources.topk(2, dim=1).values.split(1, dim=1)
    return ((sources == first) & (first > second)).to(sources.dtype)
