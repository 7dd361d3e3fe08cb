"""Accuracy, average precision and ROC area: by hand, where scores tie, and beside scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from avtool.errors import NotFinite
from avtool.metrics.classification import average_precision, macro, roc_auc, top_k_correct


def test_the_true_class_is_among_the_k_highest_or_not() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.4, 0.1, 0.5]])
    labels = np.array([1, 2, 0])
    assert top_k_correct(scores, labels, 1).tolist() == [1, 0, 0]
    assert top_k_correct(scores, labels, 2).tolist() == [1, 0, 1]
    assert top_k_correct(scores, labels, 3).tolist() == [1, 1, 1]
    assert top_k_correct(scores, labels, 5).tolist() == [1, 1, 1]  # fewer classes than that


def test_scores_that_say_nothing_get_their_chance_and_no_luck() -> None:
    flat = np.zeros((4, 10))
    for k in (1, 5):
        assert top_k_correct(flat, np.array([0, 3, 5, 9]), k) == pytest.approx([k / 10] * 4)
    two = np.array([[1.0, 1.0, 0.0]])
    assert top_k_correct(two, np.array([1]), 1)[0] == 0.5
    assert top_k_correct(two, np.array([2]), 1)[0] == 0


def test_average_precision_by_hand() -> None:
    scores = np.array([[0.9], [0.8], [0.7], [0.6]])
    targets = np.array([[1], [0], [1], [0]], bool)
    assert average_precision(scores, targets)[0] == pytest.approx((1 + 2 / 3) / 2)
    assert roc_auc(scores, targets)[0] == 3 / 4
    assert average_precision(scores, ~targets)[0] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert roc_auc(scores, ~targets)[0] == 1 / 4


def test_constant_scores_get_the_floors() -> None:
    targets = np.array([[1, 0], [0, 0], [0, 1], [0, 1]], bool)
    flat = np.full((4, 2), 3.0)
    assert average_precision(flat, targets).tolist() == [1 / 4, 2 / 4]
    assert roc_auc(flat, targets).tolist() == [0.5, 0.5]


def test_a_class_without_positives_is_left_out_and_counted() -> None:
    scores = np.random.default_rng(0).random((5, 3))
    targets = np.zeros((5, 3), bool)
    targets[:2, 0] = True
    targets[:, 2] = True  # no negatives: a precision, but no curve
    precision, area = average_precision(scores, targets), roc_auc(scores, targets)
    assert [math.isnan(value) for value in precision] == [False, True, False] and precision[2] == 1
    assert [math.isnan(value) for value in area] == [False, True, True]
    assert macro(precision) == (pytest.approx((precision[0] + 1) / 2), 2, 1)
    assert macro(area) == (area[0], 1, 2)
    nothing = macro(np.array([np.nan, np.nan]))
    assert math.isnan(nothing.mean) and nothing[1:] == (0, 2)


@pytest.mark.parametrize("levels", [3, 1000])
def test_both_are_scikit_learns(levels: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(levels)
    scores = generator.integers(0, levels, (200, 7)) / levels  # few levels: many ties
    targets = generator.random((200, 7)) < np.linspace(0.02, 0.6, 7)
    targets[0], targets[1] = True, False
    theirs = [metrics.average_precision_score(targets[:, c], scores[:, c]) for c in range(7)]
    assert average_precision(scores, targets) == pytest.approx(theirs)
    theirs = [metrics.roc_auc_score(targets[:, c], scores[:, c]) for c in range(7)]
    assert roc_auc(scores, targets) == pytest.approx(theirs)


@pytest.mark.parametrize("metric", [average_precision, roc_auc])
def test_the_order_of_clips_and_the_scale_of_scores_change_nothing(
    metric: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> None:
    generator = np.random.default_rng(0)
    scores, targets = generator.standard_normal((50, 4)), generator.random((50, 4)) < 0.3
    order = generator.permutation(50)
    expected = metric(scores, targets)
    assert np.array_equal(expected, metric(np.exp(scores), targets))
    assert metric(scores[order], targets[order]) == pytest.approx(expected)


def test_what_cannot_be_scored_is_refused() -> None:
    broken = np.array([[0.0, np.nan]])
    with pytest.raises(NotFinite, match="NaN"):
        top_k_correct(broken, np.array([0]), 1)
    for metric in (average_precision, roc_auc):
        with pytest.raises(NotFinite, match="NaN"):
            metric(broken, np.array([[True, False]]))
        with pytest.raises(ValueError, match=r"not \(N, C\) both"):
            metric(np.zeros((3, 2)), np.zeros((3, 3), bool))
    with pytest.raises(ValueError, match=r"not \(N, C\) and \(N,\)"):
        top_k_correct(np.zeros((3, 2)), np.zeros((3, 2), int), 1)
