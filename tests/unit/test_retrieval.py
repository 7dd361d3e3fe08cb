"""Retrieval between sound and picture, and the effective rank of what they are embedded in."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from avtool.errors import NotFinite
from avtool.metrics.embeddings import ROWS_AT_ONCE, effective_rank, recall


def naive(queries: np.ndarray, gallery: np.ndarray, k: int) -> list[float]:
    found = []
    for n, query in enumerate(queries):
        cosine = [query @ other / math.hypot(*query) / math.hypot(*other) for other in gallery]
        found.append(float(n in np.argsort(cosine)[-k:]))
    return found


def test_each_finds_its_own_in_both_directions() -> None:
    vectors = np.eye(12)
    result = recall(vectors, 3 * vectors)
    for direction in result:
        assert {k: found.mean() for k, found in direction.items()} == {1: 1, 5: 1, 10: 1}


def test_directions_differ() -> None:
    first = np.array([[1.0, 0.0], [0.9, 0.1]])
    second = np.array([[1.0, 0.0], [1.0, -0.1]])
    result = recall(first, second, ranks=[1, 2])
    assert result.first_to_second[1].tolist() == [1, 0]  # both are nearest to the first
    assert result.second_to_first[1].tolist() == [1, 0]
    swapped = recall(second, first, ranks=[1])
    assert np.array_equal(swapped.first_to_second[1], result.second_to_first[1])
    assert result.first_to_second[2].tolist() == [1, 1]
    far = recall(first, np.array([[0.0, 1.0], [1.0, 0.0]]), ranks=[1])
    assert far.first_to_second[1].tolist() == [0, 1]
    assert far.second_to_first[1].tolist() == [0, 0]


def test_embeddings_that_say_nothing_get_the_floor() -> None:
    for flat in (np.ones((40, 3)), np.zeros((40, 3))):
        result = recall(flat, flat)
        for direction in result:
            assert [found.mean() for found in direction.values()] == pytest.approx([1 / 40, 5 / 40, 10 / 40])


def test_it_is_what_a_loop_finds_over_more_rows_than_are_taken_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("avtool.metrics.embeddings.ROWS_AT_ONCE", 7)
    assert ROWS_AT_ONCE > 7
    generator = np.random.default_rng(0)
    first = generator.standard_normal((30, 6))
    second = first + 1.5 * generator.standard_normal((30, 6))
    result = recall(first, second)
    for k in (1, 5, 10):
        assert result.first_to_second[k].tolist() == naive(first, second, k)
        assert result.second_to_first[k].tolist() == naive(second, first, k)
    assert 0 < result.first_to_second[1].mean() < result.first_to_second[10].mean() <= 1


def test_what_is_not_paired_or_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not"):
        recall(np.zeros((3, 2)), np.zeros((4, 2)))
    with pytest.raises(NotFinite, match="not finite"):
        recall(np.zeros((3, 2)), np.full((3, 2), np.nan))


# Effective rank ---------------------------------------------------------------------------------------


def test_vectors_on_a_line_have_rank_one_wherever_it_lies() -> None:
    line = torch.linspace(-1, 2, 50)[:, None] * torch.tensor([[1.0, 2.0, -1.0]])
    assert effective_rank(line) == pytest.approx(1, abs=1e-5)
    assert effective_rank(line + 100) == pytest.approx(1, abs=1e-3)  # centred; float32 leaves its rounding


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_vectors_to_all_sides_have_the_rank_of_their_space(dim: int) -> None:
    axes = torch.cat([torch.eye(dim), -torch.eye(dim)])
    assert effective_rank(axes) == pytest.approx(dim)
    assert effective_rank(5 * axes + 3) == pytest.approx(dim, rel=1e-5)


def test_unequal_directions_count_by_the_entropy_of_their_shares() -> None:
    axes = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(axes) == pytest.approx(math.exp(entropy))


def test_collapsed_vectors_have_no_rank() -> None:
    assert effective_rank(torch.full((10, 4), 0.3)) == 0
    assert effective_rank(torch.zeros(10, 4)) == 0


def test_a_rank_is_at_most_what_the_vectors_allow() -> None:
    few = torch.randn(4, 100, generator=torch.Generator().manual_seed(0))
    assert 2.5 < effective_rank(few) <= 3 + 1e-9
    with pytest.raises(ValueError, match="two or more"):
        effective_rank(few[:1])
    with pytest.raises(ValueError, match="finite"):
        effective_rank(few / 0)
