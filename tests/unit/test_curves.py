"""Curves: what is drawn of which rows, and where."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from avtool.report import curves, page
from avtool.report.curves import COLOURS, WIDTH, draw_curves, panels_of, points_of, thinned


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


def drawn(runs: dict[str, list[dict[str, Any]]]) -> list[list[Axes]]:
    """The axes of each row of panels."""
    return [curves._row(panels, runs).figure.axes for panels in panels_of(runs)]


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
    runs = {"a": rows(), "b": rows(shift=0.5), "c": rows(shift=0.9)}
    page = draw_curves(runs)
    assert page.shape[1] == WIDTH == 1600 and page.dtype == np.uint8
    for hexadecimal, drawn_there in zip(COLOURS, (True, True, True, False), strict=False):
        colour = [int(hexadecimal[k : k + 2], 16) for k in (1, 3, 5)]
        near = np.abs(page.astype(int) - colour).max(axis=2) < 30  # thin lines are blended with the paper
        assert (near.sum() > 300) == near.any() == drawn_there
    for axes in (axes for row in drawn(runs) for axes in row):
        lines = [line for line in axes.lines if len(line.get_xdata()) and line.get_linestyle() == "-"]
        assert [line.get_color() for line in lines if line.get_linewidth() == 2] in ([], [*COLOURS[:3]])
        assert {line.get_color() for line in lines} == {*COLOURS[:3]}
    assert len({line.get_color() for line in drawn(dict.fromkeys("abcdefghi", rows()))[0][1].lines}) == 8


def test_lines_dots_and_floors_go_where_the_values_are() -> None:
    (loss, rank), neighbours, _ = drawn({"a": rows()})
    training, dots, floor = loss.lines
    assert training.get_xydata().tolist() == [[step, 2 / step] for step in range(1, 51)]
    assert dots.get_xydata().tolist() == [[0, 1.5], [50, 1.5]] and dots.get_marker() == "o"
    assert set(floor.get_ydata()) == {2.0} and floor.get_linestyle() == "--"
    assert (loss.get_xlim(), rank.get_xlim()) == ((0, 50), (0, 50))
    assert rank.get_ylim()[0] == 0 and rank.get_ylim()[1] > 70
    assert len({axes.get_ylim() for axes in neighbours}) == 1
    (alone,), *_ = drawn({"a": [{"step": 3, "loss": 2.0}]})
    assert alone.lines[0].get_marker() == "o" and training.get_marker() != "o"


def test_a_run_that_went_on_is_one_line() -> None:
    resumed = [{"step": step, "loss": 1.0, "seconds": seconds} for step, seconds in ((1, 5), (2, 9), (3, 1))]
    assert drawn({"a": resumed})[0][0].lines[0].get_xdata().tolist() == [1, 2, 3]


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


@pytest.mark.parametrize("ends", [(0.05, 1), (0.22, 0.76), (1e-5, 1e-3), (1.4, 2.8), (5, 123_456), (-3, -1)])
def test_ticks_are_a_handful_with_labels_of_their_own(ends: tuple[float, float]) -> None:
    axes = drawn({"a": [{"step": step, "loss": value} for step, value in enumerate(ends)]})[0][0]
    axes.figure.canvas.draw()
    low, high = axes.get_ylim()
    shown = [label.get_text() for label, at in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)
             if low <= at <= high]  # fmt: skip
    assert 3 <= len(shown) == len(set(shown)) <= 10
    assert max(map(len, shown)) <= 7


def test_a_constant_can_be_drawn() -> None:
    draw_curves({"a": [{"step": 1, "loss": 0.0}, {"step": 2, "loss": 0.0}]})
    low, high = curves._widened(np.array([3.0, 3.0]))
    assert low < 3 < high


def test_names_are_drawn_as_they_are_and_a_question_mark_stands_for_what_no_font_has(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page._family_with.cache_clear()
    page._say_once.cache_clear()
    names = ("собака", "כלב", "??????", "???", "$x$", "x", "_x")
    drawn_names = {name: curves._legend([name]).pixels().tobytes() for name in names}
    assert len(set(drawn_names.values())) == len(names)
    assert page.text_width("$x$") > 2 * page.text_width("x")  # no formula
    right_ends = [
        np.nonzero((curves._legend([name]).pixels() < 200).any((0, 2)))[0].max() for name in ("$x$", "x")
    ]
    assert right_ends[0] > right_ends[1] + 10
    assert "drawn as ?" not in capsys.readouterr().err
    assert curves._legend(["\U0010ffff" * 3]).pixels().tobytes() == drawn_names["???"]
    assert capsys.readouterr().err.count("drawn as ?") == 1
