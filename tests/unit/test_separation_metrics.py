"""Protocol ``bss-eval`` beside mir_eval, on what it must agree on and on what neither can say; and the ideal masks."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from avtool.errors import NotFinite
from avtool.losses import binary_masks, ratio_masks
from avtool.metrics import separation
from avtool.metrics.separation import bss_eval, silent

TOLERANCE = 1e-3  # dB


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def second_implementation(references: Tensor, estimates: Tensor) -> Tensor:
    """SDR, SIR and SAR (3, B, S) by mir_eval."""
    separation = pytest.importorskip("mir_eval.separation")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that its module goes
        scores = [
            separation.bss_eval_sources(r, e, compute_permutation=False)[:3]
            for r, e in zip(references.numpy(), estimates.numpy(), strict=True)
        ]
    return torch.tensor(np.stack(scores)).transpose(0, 1)


def check(references: Tensor, estimates: Tensor) -> Tensor:
    """Compare; what either calls 90 dB and more is rounding to both."""
    scores = bss_eval(references, estimates)
    ours, theirs = torch.stack(scores[:3]).clamp(max=90), second_implementation(references, estimates)
    assert (ours - theirs.clamp(max=90)).abs().max() < TOLERANCE
    assert not scores.silent.any()
    return theirs


def test_two_noises_leak_into_each_other() -> None:
    references = noise(3, 2, 8000)
    check(references, references + 0.3 * references.flip(1) + 0.1 * noise(3, 2, 8000, seed=1))


def test_three_sources_and_an_odd_length() -> None:
    references = noise(1, 3, 5001)
    check(references, references + 0.4 * references.roll(1, dims=1) + 0.02 * noise(1, 3, 5001, seed=1))


@pytest.mark.parametrize("delay", [0, 1, 511, 512])
def test_a_delay_is_forgiven_up_to_the_filters_length(delay: int) -> None:
    references = torch.nn.functional.pad(noise(1, 2, 5400), (0, 600))
    estimates = references.roll(delay, dims=-1)
    sdr = check(references, estimates + 0.01 * noise(1, 2, 6000, seed=1))[0]
    assert (sdr > 30).all() if delay < 512 else (sdr < 0).all()


def test_a_filter_is_forgiven_and_a_distortion_is_not() -> None:
    references = noise(1, 2, 6000)
    echo = torch.tensor([1.0, 0.0, -0.6, 0.3], dtype=torch.float64)
    filtered = torch.nn.functional.conv1d(references.transpose(0, 1), echo.flip(0)[None, None], padding=3)
    filtered = filtered.transpose(0, 1)[..., :6000]
    assert check(references, filtered + 1e-3 * noise(1, 2, 6000, seed=1)).min() > 40
    assert check(references, filtered.clamp(-1, 1)).min() < 20


def test_a_known_leak_has_its_ratio() -> None:
    """Long white noises are nearly orthogonal: half of the other source is 6.02 dB, whatever else."""
    references = noise(1, 2, 60000)
    scores = bss_eval(references, references + 0.5 * references.flip(1))
    assert scores.sdr.numpy() == pytest.approx(20 * math.log10(2), abs=0.2)
    assert torch.allclose(scores.sdr, scores.sir)
    assert (scores.sar > 150).all()


def test_the_mixture_is_the_floor() -> None:
    references = noise(2, 2, 8000) * torch.tensor([[1.0], [0.1]], dtype=torch.float64)
    theirs = check(references, references.sum(dim=1, keepdim=True).expand_as(references))
    assert (theirs[0, :, 0] > 10).all() and (theirs[0, :, 1] < -10).all()


def test_tones_chirps_and_soft_leaks() -> None:
    t = torch.arange(16000, dtype=torch.float64) / 16000
    tones = torch.sin(2 * math.pi * 440 * t) + 0.5 * torch.sin(2 * math.pi * 880 * t)
    chirp = torch.sin(2 * math.pi * (200 * t + 1500 * t**2)) + 1e-3 * noise(16000)
    references = torch.stack([tones + 1e-3 * noise(16000, seed=5), chirp])[None]
    for leak in (0.3, 1e-2, 1e-3):
        check(references, references + leak * references.flip(1) + leak * noise(1, 2, 16000, seed=1))


@pytest.mark.parametrize("samples", [20, 100, 600, 1200])
def test_short_ones(samples: int) -> None:
    """Shorter than the filters: what a filter cannot reach is little, and the Gram matrix is singular."""
    references = noise(2, 2, samples)
    check(references, references + 0.3 * references.flip(1) + 0.1 * noise(2, 2, samples, seed=1))


def test_sources_that_are_nearly_and_quite_the_same() -> None:
    one = noise(1, 1, 6000)
    nearly = torch.cat([one, one + 0.01 * noise(1, 1, 6000, seed=1)], dim=1)
    check(nearly, nearly + 0.1 * noise(1, 2, 6000, seed=2))
    same = torch.cat([one, one], dim=1)
    estimates = same + 0.1 * noise(1, 2, 6000, seed=2)
    scores = bss_eval(same, estimates)
    assert (scores.sdr - second_implementation(same, estimates)[0]).abs().max() < TOLERANCE
    assert (scores.sir > 100).all()  # nothing of the other that is not one's own


def test_a_batch_rivals_and_one_at_a_time_are_the_same_to_the_bit() -> None:
    references = noise(3, 2, 4000)
    rivals = references[:, None] + torch.tensor([0.1, 1.0]).view(1, 2, 1, 1) * noise(3, 2, 2, 4000, seed=1)
    together = bss_eval(references, rivals)
    assert together.sdr.shape == together.silent.shape == (3, 2, 2) and together.sdr.dtype == torch.float64
    for b in range(3):
        alone = bss_eval(references[b : b + 1], rivals[b : b + 1])
        assert all(torch.equal(part[b], one[0]) for part, one in zip(together, alone, strict=True))
        first = bss_eval(references[b : b + 1], rivals[b : b + 1, 0])
        assert (together.sir[b, 0] - first.sir[0]).abs().max() < 1e-9


def test_loudness_and_single_precision_change_nothing() -> None:
    references = noise(1, 2, 4000).float()
    estimates = references + 0.2 * noise(1, 2, 4000, seed=1).float()
    sdr = bss_eval(references, estimates).sdr
    assert (sdr - bss_eval(references * 8, estimates * 0.5).sdr).abs().max() < 1e-9
    assert (sdr - bss_eval(references.double(), estimates.double()).sdr).abs().max() == 0


def test_the_silent_are_named_and_the_others_measured() -> None:
    references, estimates = noise(3, 2, 3000), noise(3, 2, 3000, seed=1)
    expected = bss_eval(references, estimates)
    references[0, 1] = 1e-6  # energy 3e-9
    estimates[1, 0] = 0
    scores = bss_eval(references, estimates)
    assert scores.silent.tolist() == [[True, True], [True, False], [False, False]]
    for ours, whole in zip(scores[:3], expected[:3], strict=True):
        assert torch.equal(ours.isnan(), scores.silent)
        assert torch.equal(ours[~scores.silent], whole[~scores.silent])


def test_a_batch_in_which_every_mixture_has_a_silent_source_has_no_score() -> None:
    references, estimates = noise(2, 2, 3000), noise(2, 3, 2, 3000, seed=1)
    references[:, 1] = 0
    scores = bss_eval(references, estimates)
    assert scores.silent.shape == (2, 3, 2) and scores.silent.all()
    assert all(part.isnan().all() for part in scores[:3])


def test_silence_is_an_energy_below_a_hundred_thousandth() -> None:
    quiet = torch.full((2, 10), 1e-3)  # energy 1e-5, up to rounding
    assert silent(quiet * torch.tensor([[0.99], [1.01]])).tolist() == [True, False]


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="are not"):
        bss_eval(noise(1, 2, 100), noise(1, 2, 99))
    with pytest.raises(ValueError, match="are not"):
        bss_eval(noise(2, 100), noise(2, 100))
    with pytest.raises(NotFinite, match="not finite"):
        bss_eval(noise(1, 2, 100), torch.full((1, 2, 100), torch.nan))


def test_both_ways_to_the_filters_lead_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    references = noise(2, 2, 4000)
    estimates = references + 0.3 * references.flip(1) + 0.1 * noise(2, 2, 4000, seed=1)
    quick = bss_eval(references, estimates)
    monkeypatch.setattr(separation, "STEPS", 0)  # conjugate gradients give up
    dense = bss_eval(references, estimates)
    for one, other in zip(quick[:3], dense[:3], strict=True):
        assert 0 < (one - other).abs().max() < 1e-6


def test_a_toeplitz_block_is_inverted() -> None:
    correlations = torch.fft.irfft(torch.fft.rfft(noise(8), 32).abs().square())[:8]
    lags = correlations.view(1, 1, 1, 8)
    place = torch.arange(8)
    matrix = correlations[(place[:, None] - place).abs()]
    right = noise(1, 3, 1, 8, seed=1)
    solution = separation.solve_own(separation.invert_own(lags), right)
    assert torch.allclose(solution @ matrix, right)
    assert torch.allclose(separation.solve_densely(lags[0], right[0]), solution[0])


@pytest.mark.proof
def test_it_is_ten_times_as_fast_on_a_machine_that_does_nothing_else() -> None:
    """Two sources of 3 s at 16 kHz, and four rivals: a model, the mixture and both ideal masks. Measured as processor
    time, by hand: other work on the machine costs the cache.
    """
    references = noise(1, 2, 48000)
    rivals = references[:, None] + 0.3 * noise(1, 4, 2, 48000, seed=1)

    def best(run: Callable[[], object], runs: int) -> float:
        taken = []
        for _ in range(runs):
            start = time.process_time()
            run()
            taken.append(time.process_time() - start)
        return min(taken)

    theirs = best(lambda: [second_implementation(references, rivals[:, k]) for k in range(4)], 2)
    ours = best(lambda: bss_eval(references, rivals), 5)
    print(f"{theirs:.3f} s, {ours:.3f} s: {theirs / ours:.1f} times")
    assert theirs > 10 * ours


def test_ideal_masks() -> None:
    sources = torch.tensor([[[3.0, 0.0, 2.0], [1.0, 0.0, 2.0]]]).log10()
    sources[:, :, 1] = -7  # as silent as a spectrogram gets, both
    assert torch.allclose(ratio_masks(sources), torch.tensor([[[0.75, 0.5, 0.5], [0.25, 0.5, 0.5]]]))
    assert binary_masks(sources).tolist() == [[[1, 0, 0], [0, 0, 0]]]
    many = noise(2, 3, 4, 5).float()
    powers = 10**many
    assert torch.allclose(ratio_masks(many), powers / powers.sum(dim=1, keepdim=True))
    assert torch.allclose(ratio_masks(many).sum(dim=1), torch.ones(2, 4, 5))
    assert torch.equal(binary_masks(many), (many == many.amax(dim=1, keepdim=True)).float())
