"""Least squares onto the delays of several signals: normal equations whose matrix is made of Toeplitz blocks.

Letters: B problems, S signals, E right-hand sides, L delays (even). ``lags`` (B, S, S, L) are the correlations
lags[i, j, a] = sum over t of s_i(t - a) s_j(t), which say all of the Gram matrix G (S L by S L) of the delays:
G[(i, a), (j, b)] = lags[i, j, a - b], or lags[j, i, b - a] where b > a. Everything is float64.
"""

from typing import NamedTuple

import torch
from torch import Tensor

ENOUGH = 1e-18
"""Of a right-hand side's energy, the squared distance to the solution at which the search for it ends."""
STEPS = 100


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
    gains = _gains(lags)
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
    solution of least norm.
    """
    count, length = lags.shape[1:]
    both = torch.cat([lags.transpose(0, 1)[..., 1:].flip(-1), lags], dim=-1)  # lag 1 - L .. L - 1
    place = torch.arange(length, device=lags.device)
    gram = both[..., place[:, None] - place + length - 1].transpose(1, 2).reshape(count * length, -1)
    wanted = right.flatten(1).mT
    solution, singular = torch.linalg.solve_ex(gram, wanted)
    if singular or not solution.isfinite().all():
        solution = torch.linalg.pinv(gram, hermitian=True) @ wanted
    return solution.mT.reshape(right.shape)


def _gains(lags: Tensor) -> Tensor:
    """The blocks of G as the spectra (B, S, S, L + 1) of the circulant matrices around them."""
    negative = lags.transpose(1, 2)[..., 1:].flip(-1)
    return torch.fft.rfft(torch.cat([lags, torch.zeros_like(lags[..., :1]), negative], dim=-1))


def _product(gains: Tensor, vectors: Tensor) -> Tensor:
    """G times ``vectors`` (B, E, S, L)."""
    length = vectors.shape[-1]
    spectra = torch.fft.rfft(vectors, 2 * length)
    return torch.fft.irfft((gains[:, None] * spectra[:, :, None]).sum(dim=3), 2 * length)[..., :length]


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum(dim=(-2, -1))
