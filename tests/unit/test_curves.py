"""Curves: what is drawn of which rows, and where."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from avtool.report import curves
from avtool.report.curves import COLOURS, WIDTH, draw_curves, panels_of, points_of, thinned, ticks


def rows(steps: int = 50, *, shift: float = 0.0) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [
        {"step": step, "loss": 2 / step + shift, "lr": 1e-3, "samples_per_second": 100.0, "waiting": 0.01}
        for step in range(1, steps + 1)
    ]
    for step in (0, steps):
        knn = {
            f"held_out_knn_{name}": 0.3 + step / 200 for name in ("all", "fusion", "audio", "image", "floor")
        }
        made.append(
            {"step": step, "held_out": "test", "held_out_loss": 1.5, "held_out_floor": 2.0,
             "held_out_share_of_floor": 0.75, "held_out_effective_rank_fusion": 20.0 + step, **knn}
        )  # fmt: skip
    return made


def drawn(page: np.ndarray, colour: tuple[int, ...]) -> np.ndarray:
    """Where ``page`` has nearly this colour, bool (height, width): thin lines are blended with the paper."""
    return np.abs(page.astype(int) - colour).max(axis=2) < 60


def test_pretraining_has_losses_neighbours_by_stream_rate_and_speed() -> None:
    losses, neighbours, loop = panels_of({"a": rows()})
    assert (losses[0].line, losses[0].dots, losses[0].floor) == ("loss", "held_out_loss", "held_out_floor")
    assert [panel.dots.rsplit("_", 1)[1] for panel in neighbours] == ["image", "audio", "fusion", "all"]
    assert {panel.floor for panel in neighbours} == {"held_out_knn_floor"}
    assert {panel.scale for panel in neighbours} == {"knn"}
    assert [panel.line for panel in loop] == ["lr", "samples_per_second", "waiting"]


def test_fine_tuning_has_scores_whose_floor_is_no_loss() -> None:
    made = [
        {"step": 1, "loss": 1.0},
        {"step": 1, "held_out_score": 0.5, "held_out_floor": 0.1, "held_out_loss": 1.1},
    ]
    losses, scores = panels_of({"a": made})
    assert losses[0].floor == "" and scores[0].floor == "held_out_floor"


def test_every_run_is_drawn_in_its_colour() -> None:
    page = draw_curves({"a": rows(), "b": rows(shift=0.5), "c": rows(shift=0.9)})
    assert page.shape[1] == WIDTH == 1600 and page.dtype == np.uint8
    for colour in COLOURS[:3]:
        assert drawn(page, colour).sum() > 600
    assert not drawn(page, COLOURS[3]).any()


def test_lines_go_where_the_values_are() -> None:
    falling = [{"step": step, "loss": 2.0 - step / 100} for step in range(101)]
    page = draw_curves({"a": falling})
    found = np.argwhere(drawn(page[60:], COLOURS[0]))
    left, right = (
        found[found[:, 1] == edge][:, 0].mean() for edge in (found[:, 1].min() + 2, found[:, 1].max() - 2)
    )
    assert right - left > 150  # down, over most of the panel


@pytest.mark.parametrize("count", [1, 4, 11])
def test_nothing_comes_near_the_edge(count: int) -> None:
    runs = {f"a-rather-long-name-of-a-run-{number}-" + "x" * 90: rows() for number in range(count)}
    page = draw_curves(runs)
    for edge in (page[:4], page[-4:], page[:, :4], page[:, -4:]):
        assert (edge == 255).all()


def test_what_is_not_finite_or_no_number_is_left_out() -> None:
    made = [{"step": 1, "loss": math.nan}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": "x"}, {"step": 4}]
    made.append({"step": 5, "loss": None, "held_out_loss": None, "held_out_score": None})
    assert points_of(made, "loss").tolist() == [[2, 1]]
    assert [[panel.title for panel in row] for row in panels_of({"a": made})] == [
        ["loss (thin: training, dots: held out, dashed: floor)"]
    ]
    draw_curves({"a": made, "empty": []})
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_curves({"a": [{"step": 1, "loss": math.inf}]})


def test_long_runs_are_thinned_to_means() -> None:
    points = np.stack([np.arange(100_000.0), np.ones(100_000)], axis=1)
    few = thinned(points, 500)
    assert few.shape == (500, 2) and (few[:, 1] == 1).all()
    assert few[0, 0] < 200 and few[-1, 0] > 99_800
    assert thinned(points[:500], 500) is not points and len(thinned(points[:500], 500)) == 500


@pytest.mark.parametrize("ends", [(0, 1), (0.22, 0.76), (0, 1e-3), (1.4, 2.8), (0, 123_456), (-3, -1)])
def test_ticks_are_round_and_a_handful(ends: tuple[float, float]) -> None:
    found = ticks(*ends)
    assert 3 <= len(found) <= 8
    assert all(ends[0] - 1e-9 <= value <= ends[1] + 1e-9 for value in found)
    step = found[1] - found[0]
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1, 2, 5, 10)


def test_a_constant_can_be_drawn() -> None:
    draw_curves({"a": [{"step": 1, "loss": 0.0}, {"step": 2, "loss": 0.0}]})
    low, high = curves._widened(np.array([3.0, 3.0]))
    assert low < 3 < high
