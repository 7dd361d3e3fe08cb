"""The segmentation protocols on masks small enough to count by hand, beside a naive implementation of each."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor

from avtool.metrics.segmentation import (
    ClassScores,
    FrameScores,
    avs_published,
    avs_semantic,
    avs_tpavi,
    class_scores,
    frame_scores,
)


def predictions(count: int = 12, *, seed: int = 0, side: int = 16) -> tuple[Tensor, Tensor]:
    """Masks that half know where a small object is; every fourth frame holds none."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.zeros(count, side, side, dtype=torch.bool)
    for frame in range(count):
        if frame % 4:
            row, column = torch.randint(0, side - 5, (2,), generator=generator).tolist()
            truth[frame, row : row + 5, column : column + 4] = True
    noise = torch.rand(truth.shape, generator=generator)
    return (0.35 * truth + 0.65 * noise).clamp(0, 1), truth


def concatenated(parts: Iterable[tuple[Tensor, ...]], kind: type) -> tuple[Tensor, ...]:
    return kind(*(torch.cat(part) for part in zip(*parts, strict=True)))


def naive_f(level: np.ndarray, inside: np.ndarray, threshold: float) -> float:
    predicted = level >= threshold
    hit = (predicted & inside).sum()
    if not hit:
        return 0.0
    precision, recall = hit / predicted.sum(), hit / inside.sum()
    return 1.3 * precision * recall / (0.3 * precision + recall)


def naive(probabilities: Tensor, truth: Tensor) -> dict[str, list]:
    rows: dict[str, list] = {"foreground": [], "background": [], "curve": []}
    for p, g in zip(probabilities.double().numpy(), truth.numpy(), strict=True):
        a = p > 0.5
        rows["foreground"].append((a & g).sum() / max((a | g).sum(), 1))
        rows["background"].append((~a & ~g).sum() / (~a | ~g).sum())
        rows["curve"].append([naive_f(p, g, t) for t in np.linspace(0, 1 - 1e-10, 255)])
    return rows


def test_every_part_is_what_a_loop_over_frames_and_thresholds_gets() -> None:
    probabilities, truth = predictions()
    probabilities = probabilities.double()
    scores, expected = frame_scores(probabilities, truth), naive(probabilities, truth)
    assert scores.foreground.numpy() == pytest.approx(expected["foreground"])
    assert scores.background.numpy() == pytest.approx(expected["background"])
    assert np.allclose(scores.f_curve.numpy(), expected["curve"])
    kept = ~scores.empty.numpy()
    curve = np.array(expected["curve"])[kept]
    iou = np.where(kept, expected["foreground"], expected["background"])
    both = (np.array(expected["foreground"]) + expected["background"])[kept] / 2
    assert avs_tpavi(scores) == pytest.approx((iou.mean(), curve.mean(axis=0).max(), 12, 3))
    assert avs_published(scores) == pytest.approx((both.mean(), curve.max(axis=1).mean(), 9, 3))


def test_a_mask_counted_by_hand() -> None:
    truth = torch.tensor([[[1, 1, 0, 0]]])
    scores = frame_scores(torch.tensor([[[0.9, 0.2, 0.6, 0.1]]]), truth)
    assert scores.foreground.item() == pytest.approx(1 / 3)  # one of the three that either marks
    assert scores.background.item() == pytest.approx(1 / 3)
    best = 1.3 * 1 * 0.5 / (0.3 * 1 + 0.5)  # the first pixel alone: P 1, R 1/2
    everything = 1.3 * 0.5 * 1 / (0.3 * 0.5 + 1)
    assert scores.f_curve[0, 0].item() == pytest.approx(everything)
    assert scores.f_curve.max().item() == pytest.approx(best)


def test_a_perfect_and_an_opposite_mask() -> None:
    truth = torch.zeros(1, 4, 4)
    truth[:, :2] = 1
    perfect, opposite = frame_scores(truth, truth), frame_scores(1 - truth, truth)
    for protocol in (avs_tpavi, avs_published):
        assert protocol(perfect) == (1, 1, 1, 0)
        assert protocol(opposite).miou == 0
        assert protocol(opposite).f == pytest.approx(1.3 * 0.5 / (0.15 + 1))  # everything, at threshold 0


def test_an_empty_truth_asks_for_an_empty_mask() -> None:
    truth = torch.zeros(2, 4, 4)
    masks = torch.zeros(2, 4, 4)
    masks[1, 0] = 1
    scores = frame_scores(masks, truth)
    assert scores.empty.all()
    result = avs_tpavi(scores)
    assert result.miou == pytest.approx((1 + 12 / 16) / 2) and result[2:] == (2, 2)
    assert math.isnan(result.f)  # no frame to find anything in
    left = avs_published(scores)
    assert math.isnan(left.miou) and math.isnan(left.f) and left[2:] == (0, 2)


def test_an_object_that_fills_the_frame_leaves_no_background_to_miss() -> None:
    full = torch.ones(1, 3, 3)
    scores = frame_scores(full, full)
    assert scores.background.item() == 1 and avs_published(scores).miou == 1


def test_a_half_is_not_yet_an_object_but_reaches_its_threshold() -> None:
    scores = frame_scores(torch.full((1, 1, 1), 0.5), torch.ones(1, 1, 1))
    assert scores.foreground.item() == 0
    assert scores.f_curve[0].tolist() == [1.0] * 128 + [0.0] * 127  # thresholds up to 127 / 254


def test_batches_of_any_size_give_the_same_to_the_bit() -> None:
    probabilities, truth = predictions(13)
    whole = frame_scores(probabilities, truth)
    for size in (1, 2, 5):
        pieces = zip(probabilities.split(size), truth.split(size), strict=True)
        parts = concatenated((frame_scores(p, g) for p, g in pieces), FrameScores)
        assert avs_tpavi(parts) == avs_tpavi(whole) and avs_published(parts) == avs_published(whole)


def test_f_over_the_set_is_not_the_mean_of_its_batches() -> None:
    """What the literature's own code reports depends on the batch size; here each frame peaks elsewhere."""
    truth = torch.tensor([[[1, 0]], [[1, 0]]])
    scores = frame_scores(torch.tensor([[[0.9, 0.6]], [[0.4, 0.1]]]), truth)
    assert avs_tpavi(scores).f < 1
    assert [avs_tpavi(FrameScores(*(part[i : i + 1] for part in scores))).f for i in (0, 1)] == [1, 1]
    assert avs_published(scores).f == 1


def test_the_published_metric_is_far_above_the_literatures_on_the_same_predictions() -> None:
    """The background of a small object is nearly always right: its IoU lifts the mean; and each frame gets its own best
    threshold.
    """
    probabilities, truth = predictions(40, side=32)
    scores = frame_scores(probabilities, truth)
    with_object = FrameScores(*(part[~scores.empty] for part in scores))
    literature, published = avs_tpavi(with_object), avs_published(with_object)
    assert (scores.background > scores.foreground)[~scores.empty].all()
    assert published.miou == pytest.approx((literature.miou + with_object.background.mean().item()) / 2)
    assert published.miou > literature.miou + 0.1
    assert published.f > literature.f


def test_masks_that_cannot_be_scored_are_refused() -> None:
    with pytest.raises(ValueError, match="not probabilities"):
        frame_scores(torch.full((1, 2, 2), 1.1), torch.ones(1, 2, 2))
    with pytest.raises(ValueError, match="not probabilities"):
        frame_scores(torch.full((1, 2, 2), torch.nan), torch.ones(1, 2, 2))
    with pytest.raises(ValueError, match=r"not \(B, H, W\) both"):
        frame_scores(torch.ones(1, 2, 2), torch.ones(1, 2, 3))


# Classes ----------------------------------------------------------------------------------------------


def test_class_scores_counted_by_hand() -> None:
    truth = torch.tensor([[[0, 0, 1, 1]], [[0, 0, 0, 0]]])
    predicted = torch.tensor([[[0, 1, 1, 1]], [[0, 0, 0, 2]]])
    scores = class_scores(predicted, truth, classes=4)
    expected = [[1 / 2, 2 / 3, np.nan, np.nan], [3 / 4, np.nan, 0, np.nan]]
    assert scores.iou.numpy() == pytest.approx(np.array(expected), nan_ok=True)
    f_first = 1.3 * 1 * 0.5 / (0.3 * 1 + 0.5)
    assert scores.f[0, 0].item() == pytest.approx(f_first)
    result = avs_semantic(scores)
    assert result.miou == pytest.approx(((1 / 2 + 3 / 4) / 2 + 2 / 3 + 0) / 3)
    assert result[2:] == (3, 1)


def test_a_class_counts_the_frames_in_which_it_is_and_not_its_pixels() -> None:
    """One small miss weighs as much as a large hit."""
    truth = torch.zeros(2, 10, 10, dtype=torch.long)
    truth[0, :, :] = 1
    truth[1, 0, 0] = 1
    predicted = truth.clone()
    predicted[1, 0, 0] = 0
    assert class_scores(predicted, truth, classes=2).iou.nanmean(dim=0)[1].item() == 0.5


def test_semantic_scores_are_those_of_a_loop_in_any_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 9, (11, 6, 6), generator=generator) // 2 * 2  # odd classes are in no truth
    wrong = torch.rand(truth.shape, generator=generator) < 0.3
    predicted = torch.where(wrong, torch.randint(0, 6, truth.shape, generator=generator), truth)
    sums, counts = np.zeros(71), np.zeros(71)
    for p, g in zip(predicted.numpy(), truth.numpy(), strict=True):
        for c in range(71):
            if union := ((p == c) | (g == c)).sum():
                sums[c] += ((p == c) & (g == c)).sum() / union
                counts[c] += 1
    there = counts > 0
    whole = avs_semantic(class_scores(predicted, truth))
    assert whole.miou == pytest.approx((sums[there] / counts[there]).mean())
    assert whole[2:] == (there.sum(), (~there).sum())
    parts = concatenated(
        (class_scores(p[None], g[None]) for p, g in zip(predicted, truth, strict=True)), ClassScores
    )
    assert avs_semantic(parts) == whole


def test_class_maps_that_cannot_be_scored_are_refused() -> None:
    good = torch.zeros(1, 2, 2, dtype=torch.long)
    for bad in (good - 1, good + 71):
        with pytest.raises(ValueError, match="ids outside 0 to 70"):
            class_scores(bad, good)
        with pytest.raises(ValueError, match="ids outside 0 to 70"):
            class_scores(good, bad)
    with pytest.raises(ValueError, match=r"not \(B, H, W\) both"):
        class_scores(good, good[0])
