"""Bootstrap intervals: by theory, by a loop, by recording, paired, and of numbers that are no means."""

from __future__ import annotations

import math

import numpy as np
import pytest

from avtool.metrics.bootstrap import Interval, bootstrap_difference, bootstrap_mean, bootstrap_statistic
from avtool.metrics.classification import average_precision, macro


def test_a_share_has_the_interval_of_a_share() -> None:
    values = np.repeat([1.0, 0.0], [140, 260])
    interval = bootstrap_mean(values)
    error = 1.96 * math.sqrt(0.35 * 0.65 / 400)
    assert interval.value == 0.35 and interval[3:] == (400, 400)
    assert (interval.low, interval.high) == (
        pytest.approx(0.35 - error, abs=4e-3),
        pytest.approx(0.35 + error, abs=4e-3),
    )


def test_it_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    intervals = [bootstrap_mean(generator.standard_normal(60), draws=400, seed=s) for s in range(600)]
    assert 0.91 < np.mean([i.low <= 0 <= i.high for i in intervals]) < 0.97


def test_a_narrower_level_is_narrower() -> None:
    values = np.random.default_rng(0).random(50)
    wide, narrow = bootstrap_mean(values), bootstrap_mean(values, level=0.5)
    assert wide.low < narrow.low < values.mean() < narrow.high < wide.high


def test_the_seed_says_which_draws() -> None:
    values = np.random.default_rng(0).random(50)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(50)
    whole = bootstrap_mean(values, draws=500)
    monkeypatch.setattr("avtool.metrics.bootstrap.NUMBERS_AT_ONCE", 333)
    assert bootstrap_mean(values, draws=500) == whole


def test_recordings_are_drawn_and_not_their_copies() -> None:
    """Ten clips that repeat ten times say no more than ten clips."""
    once = np.random.default_rng(0).random(10)
    values, recording = np.tile(once, 10), np.tile([f"r{i}" for i in range(10)], 10)
    alone, copied = bootstrap_mean(once), bootstrap_mean(values, groups=recording)
    assert copied[:3] == pytest.approx(alone[:3]) and copied[3:] == (100, 10)
    pretended = bootstrap_mean(values)
    assert pretended.high - pretended.low < 0.5 * (copied.high - copied.low)


def test_unequal_recordings_weigh_by_their_samples() -> None:
    values, recording = np.array([1.0, 1.0, 1.0, 0.0]), np.array([0, 0, 0, 1])
    interval = bootstrap_mean(values, groups=recording)
    assert interval.value == 0.75
    assert (interval.low, interval.high) == (0, 1)  # a draw takes one recording twice half of the time


def test_pairs_stay_together() -> None:
    """Two models that fail on the same samples differ surely, however much the samples vary."""
    generator = np.random.default_rng(0)
    hard = generator.standard_normal(100)
    better = hard + 0.1 + 0.05 * generator.standard_normal(100)
    paired = bootstrap_difference(better, hard)
    assert paired.value == pytest.approx((better - hard).mean())
    assert 0.08 < paired.low < paired.high < 0.12
    one, other = bootstrap_mean(better), bootstrap_mean(hard)
    assert one.low < other.high  # told apart only in pairs
    assert bootstrap_difference(hard, hard)[:3] == (0, 0, 0)
    with pytest.raises(ValueError, match="same samples"):
        bootstrap_difference(hard, hard[1:])


def test_what_has_no_value_is_left_out_with_its_group() -> None:
    values, recording = np.array([1.0, np.nan, 3.0, np.nan]), np.array(["a", "a", "b", "c"])
    interval = bootstrap_mean(values, groups=recording)
    assert interval.value == 2 and interval[3:] == (2, 2)
    assert bootstrap_difference(values, np.array([np.nan, 1.0, 1.0, 1.0])).samples == 1


def test_where_there_is_nothing_to_draw_from_there_are_no_bounds() -> None:
    for values, groups, known in (
        (np.array([0.5]), None, 0.5),
        (np.array([0.2, 0.4]), np.array([7, 7]), 0.3),
        (np.array([]), None, math.nan),
        (np.array([np.nan]), None, math.nan),
    ):
        interval = bootstrap_mean(values, groups=groups)
        assert interval.value == pytest.approx(known, nan_ok=True)
        assert math.isnan(interval.low) and math.isnan(interval.high)
    alone = bootstrap_statistic(lambda chosen: float(len(chosen)), 1)
    assert alone.value == 1 and math.isnan(alone.low)


def test_infinite_values_and_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="infinite"):
        bootstrap_mean(np.array([1.0, np.inf]))
    with pytest.raises(ValueError, match="not one for each of 2"):
        bootstrap_mean(np.array([1.0, 2.0]), groups=np.array([1]))


def test_a_statistic_of_the_set_is_drawn_like_a_mean() -> None:
    values, recording = np.random.default_rng(0).random(40), np.arange(40) // 4
    mean = bootstrap_mean(values, groups=recording, draws=300, seed=5)
    same = bootstrap_statistic(
        lambda chosen: float(values[chosen].mean()), 40, groups=recording, draws=300, seed=5
    )
    assert isinstance(same, Interval) and same == pytest.approx(mean)


def test_average_precision_gets_an_interval_although_a_draw_may_lose_a_class() -> None:
    generator = np.random.default_rng(0)
    targets = generator.random((60, 3)) < 0.4
    targets[:, 2] = np.arange(60) == 0  # a single positive: absent from a third of the draws
    scores = targets + generator.standard_normal((60, 3))
    interval = bootstrap_statistic(
        lambda chosen: macro(average_precision(scores[chosen], targets[chosen])).mean, 60, draws=200
    )
    assert interval.low < interval.value < interval.high <= 1
    lost = bootstrap_statistic(
        lambda chosen: float(average_precision(scores[chosen], targets[chosen])[2]), 60, draws=200
    )
    assert not math.isnan(lost.low)
