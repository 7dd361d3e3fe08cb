"""Separation: protocol ``bss-eval`` on the waveforms' own device.

Letters: B mixtures, S sources of each, N samples, K rival estimates of the same sources, L taps, F frequencies.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from avtool.errors import NotFinite

LENGTH = 512
"""Taps of the distortion that is forgiven: a source may arrive filtered by as many."""
FRAME = 4096
"""Samples of the transforms in which signals are filtered and correlated: short ones stay in the cache."""
NUMBERS_AT_ONCE = 2**24
"""Samples of estimates that go together where memory is the bound."""
SILENCE = 1e-5
"""Energy (sum of squares of samples in -1 to 1) below which a waveform counts as silent."""
ENOUGH = 1e-18
"""Of a right-hand side's energy, the squared distance to the solution at which the search for it ends."""
STEPS = 100


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
    to average. ValueError for shapes that do not go together, NotFinite.

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
        raise NotFinite("a waveform holds values that are not finite")
    sources = references.double()
    rivals = estimates.to(sources).reshape(len(sources), -1, *sources.shape[1:])  # (B, K, S, N)
    heard = ~silent(sources).any(dim=1)
    left_out = silent(rivals) | ~heard[:, None, None]
    scores = rivals.new_full((3, *left_out.shape), torch.nan)
    # one mixture at a time where a cache is to be kept, else as many as memory holds
    at_once = 1 if rivals.device.type == "cpu" else max(1, NUMBERS_AT_ONCE // rivals[0].numel())
    for some in heard.nonzero().flatten().split(at_once):
        if len(some):  # an empty tensor is split into one part, an empty one
            scores[:, some] = torch.stack(_ratios(sources[some], rivals[some]))
    parts = (*scores.masked_fill(left_out, torch.nan), left_out)
    return BssEval(*(part.reshape(estimates.shape[:-1]) for part in parts))


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
    where the longest filter has rung out."""
    hop = FRAME - LENGTH + 1
    frames = -(-(waveforms.shape[-1] + LENGTH - 1) // hop)
    padded = F.pad(waveforms, (LENGTH - 1, frames * hop - waveforms.shape[-1]))
    return padded.unfold(-1, FRAME, hop)


def _correlations(spectra: Tensor, frames: Tensor) -> Tensor:
    """sum over t of s(t - a) e(t) for 0 <= a < L: of references, as the spectra (B, S, frames, F) of their frames, and
    other signals' frames (B, E, frames, FRAME), (B, S, E, L)."""
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
    (B, K, S, R, L), from ``lags`` (B, S, S, L), correlations ``right`` (B, K, S, R, L) and ``energy`` (B, K, S)."""
    blocks = invert_own(lags)
    of_own = right.diagonal(dim1=2, dim2=3).mT  # (B, K, S, L)
    own = solve_own(blocks, of_own)
    start = torch.diag_embed(own.mT, dim1=2, dim2=3)  # (B, K, S, R, L)
    sides = right.flatten(1, 2)
    everyone, found = solve_all(lags, blocks, sides, start.flatten(1, 2), energy.flatten(1))
    for item in (~found).nonzero().flatten().tolist():  # signals too short or too much alike
        everyone[item] = solve_densely(lags[item], sides[item])
        for source in range(len(lags[item])):
            one = slice(source, source + 1)
            own[item, :, one] = solve_densely(lags[item, one, one], of_own[item, :, one])
    return own, everyone.view_as(right)


def _energy(frames: Tensor) -> Tensor:
    return torch.linalg.vector_norm(frames, dim=(-2, -1)).square()


def _decibel(numerator: Tensor, denominator: Tensor) -> Tensor:
    return 10 * (numerator / denominator).log10()


# Least squares onto the delays of several signals: normal equations whose matrix is made of Toeplitz blocks.
#
# E right-hand sides, L even. ``lags`` (B, S, S, L) are the correlations lags[i, j, a] = sum over t of
# s_i(t - a) s_j(t), which say all of the Gram matrix G (S L by S L) of the delays: G[(i, a), (j, b)] =
# lags[i, j, a - b], or lags[j, i, b - a] where b > a. Everything is float64.


class Blocks(NamedTuple):
    """The inverse of each signal's own Toeplitz block, as Cholesky factors of its even and odd half."""

    factors: Tensor
    """(B, S, 2, L / 2, L / 2)"""
    fit: Tensor
    """(B,) bool: there is one for all signals of the problem"""


def invert_own(lags: Tensor) -> Blocks:
    """The diagonal blocks of G, inverted.

    A symmetric Toeplitz matrix commutes with reversal, so that vectors which reversal leaves as they are, and those
    whose sign it turns, are two systems of half the size: a quarter of the work.
    """
    first = lags.diagonal(dim1=1, dim2=2).mT  # (B, S, L)
    half = first.shape[-1] // 2
    both_ways = torch.cat([first[..., 1:half].flip(-1), first[..., :half]], dim=-1)
    block = both_ways.unfold(-1, half, 1).flip(-2)  # row a, column b: lag |a - b|
    mirrored = first.flip(-1).unfold(-1, half, 1)[..., :half, :]  # lag L - 1 - a - b
    halves = torch.stack([block + mirrored, block - mirrored], dim=2)
    factors, failed = torch.linalg.cholesky_ex(halves)
    return Blocks(factors, (failed == 0).flatten(1).all(dim=1))


def solve_own(blocks: Blocks, right: Tensor) -> Tensor:
    """Each signal's own block alone, solved for ``right`` (B, E, S, L): (B, E, S, L)."""
    upper, lower = right.chunk(2, dim=-1)
    lower = lower.flip(-1)
    parts = torch.stack([upper + lower, upper - lower], dim=-2).movedim(1, -1) / 2  # (B, S, 2, L / 2, E)
    forward = torch.linalg.solve_triangular(blocks.factors, parts, upper=False)
    solved = torch.linalg.solve_triangular(blocks.factors.mT, forward, upper=True)
    even, odd = solved.movedim(-1, 1).unbind(-2)
    return torch.cat([even + odd, (even - odd).flip(-1)], dim=-1)


def solve_all(
    lags: Tensor, blocks: Blocks, right: Tensor, start: Tensor, energy: Tensor
) -> tuple[Tensor, Tensor]:
    """G^-1 ``right`` (B, E, S, L) from ``start`` of the same shape, and which problems are solved, bool (B,).

    Conjugate gradients, preconditioned by the signals' own blocks: the more alike the signals, the more steps, about
    ten for two of different origin. What shrinks is the distance between projections, so that weak directions, badly
    known whatever the method, cost nothing.
    It ends at ``ENOUGH`` of ``energy`` (B, E). Source: Golub and Van Loan, Matrix Computations, section 11.5.
    """
    negative = lags.transpose(1, 2)[..., 1:].flip(-1)
    # the blocks of G as the spectra (B, S, S, L + 1) of the circulant matrices around them
    gains = torch.fft.rfft(torch.cat([lags, torch.zeros_like(lags[..., :1]), negative], dim=-1))
    solution = start
    rest = right - _product(gains, start)
    near = solve_own(blocks, rest)
    direction, left = near, _dot(rest, near)
    for _ in range(STEPS):
        active = (left > ENOUGH * energy) & blocks.fit[:, None]
        if not active.any():
            break
        ahead = _product(gains, direction)
        step = torch.where(active, left / _dot(direction, ahead), 0.0)[..., None, None]
        solution, rest = solution + step * direction, rest - step * ahead
        near = solve_own(blocks, rest)
        before, left = left, _dot(rest, near)
        direction = near + torch.where(active, left / before, 0.0)[..., None, None] * direction
    return solution, (left <= ENOUGH * energy).all(dim=1) & blocks.fit


def solve_densely(lags: Tensor, right: Tensor) -> Tensor:
    """G^-1 ``right`` of a single problem, lags (S, S, L) and right (E, S, L): by LU or, where G is singular, the
    solution of least norm."""
    count, length = lags.shape[1:]
    both = torch.cat([lags.transpose(0, 1)[..., 1:].flip(-1), lags], dim=-1)  # lag 1 - L .. L - 1
    place = torch.arange(length, device=lags.device)
    gram = both[..., place[:, None] - place + length - 1].transpose(1, 2).reshape(count * length, -1)
    wanted = right.flatten(1).mT
    solution, singular = torch.linalg.solve_ex(gram, wanted)
    if singular or not solution.isfinite().all():
        solution = torch.linalg.pinv(gram, hermitian=True) @ wanted
    return solution.mT.reshape(right.shape)


def _product(gains: Tensor, vectors: Tensor) -> Tensor:
    """G, by its ``gains``, times ``vectors`` (B, E, S, L)."""
    length = vectors.shape[-1]
    spectra = torch.fft.rfft(vectors, 2 * length)
    return torch.fft.irfft((gains[:, None] * spectra[:, :, None]).sum(dim=3), 2 * length)[..., :length]


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum(dim=(-2, -1))
