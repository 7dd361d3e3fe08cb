"""The log of a run: rows, what a resume keeps of them, TensorBoard, and the figures of the loop."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from avtool import engine
from avtool.config.recipes import load_recipe
from avtool.engine.loop import Meter
from avtool.loggers import open_loggers
from avtool.tracking import METRICS, MetricsLog, read_metrics
from tests.unit.test_dry_run import SMALL, data  # noqa: F401 - a fixture


def test_a_resume_drops_what_lies_behind_it_and_a_line_that_was_cut_off(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, resume_step=0)
    for step in (1, 2, 3):
        log.write(step=step, loss=1 / step)
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 4, "lo')
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3]
    MetricsLog(tmp_path, resume_step=2).write(step=3, loss=7.0)
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path)] == [(1, 1.0), (2, 0.5), (3, 7.0)]


def test_numbers_that_are_not_finite_are_null_old_ones_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / METRICS).write_text('{"step": 1, "loss": NaN, "lr": 0.5}\n{"step": 2, "loss": -Infinity}\n')
    assert read_metrics(tmp_path) == [{"step": 1, "loss": None, "lr": 0.5}, {"step": 2, "loss": None}]
    log = MetricsLog(tmp_path, resume_step=2)
    log.write(step=3, loss=math.nan, held_out="test")
    log.write(step=4, loss=math.inf, lr=-math.inf)
    lines = (tmp_path / METRICS).read_text().splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert rows == read_metrics(tmp_path)
    assert [row["loss"] for row in rows] == [None] * 4
    assert capsys.readouterr().err.splitlines() == [
        "no finite value for loss at step 3: null in metrics.jsonl",
        "no finite value for lr at step 4: null in metrics.jsonl",
    ]


def test_a_row_that_does_not_fit_leaves_no_part_of_itself(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    log = MetricsLog(tmp_path, resume_step=0)
    log.write(step=1)
    before = (tmp_path / METRICS).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):  # ten bytes of it were written
            log.write(step=2, text="x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / METRICS).read_bytes() == before
    log.write(step=2)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


@pytest.mark.parametrize("line", ["[1]", "7", '{"loss": 1}', '{"step": "x"}', "\ufffd"])
def test_rows_end_where_the_file_is_damaged(line: str, tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n', encoding="utf-8")
    assert read_metrics(tmp_path) == [{"step": 1}]


class _Writer:
    """Stands in for TensorBoard's."""

    made: ClassVar[list[tuple[str, int]]] = []
    scalars: ClassVar[list[tuple[str, float, int]]] = []

    def __init__(self, folder: str, purge_step: int) -> None:
        self.made.append((folder, purge_step))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def flush(self) -> None:
        pass


def test_numbers_go_to_tensorboard_by_step_and_a_resume_purges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake: Any = ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = _Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    log = MetricsLog(
        tmp_path, resume_step=4, loggers=open_loggers(["tensorboard"], tmp_path, step=4, settings={})
    )
    log.write(step=5, loss=0.25)
    log.write(step=5, held_out="test", held_out_loss=0.5)
    assert _Writer.made == [(str(tmp_path / "tensorboard"), 5)]
    assert _Writer.scalars == [("train/loss", 0.25, 5), ("validation/loss", 0.5, 5)]


def test_tensorboard_reads_what_is_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for resume_step, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        loggers = open_loggers(["tensorboard"], tmp_path, step=resume_step, settings={})
        log = MetricsLog(tmp_path, resume_step=resume_step, loggers=loggers)
        for step in steps:
            log.write(step=step, loss=10.0 * step + resume_step)
        log.close(failed=False)
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [(event.step, event.value) for event in read.Scalars("train/loss")] == [
        (1, 10),
        (2, 20),
        (3, 32),
        (4, 42),
    ]


def test_a_resumed_run_has_the_rows_of_an_undisturbed_one(data: Path, tmp_path: Path) -> None:  # noqa: F811
    settings = (*SMALL, "data.fold=[1,4]", "train.eval_every=2", "train.log_every=3", "train.save_every=3")
    recipe = load_recipe("tiny-classify", [*settings, "init.model=none", "data.validation=0.25"])
    options: dict[str, Any] = {"data": data, "device": "cpu", "allow_random": True}
    whole = engine.train(recipe, out=tmp_path / "whole", **options)
    parts = engine.train(recipe, out=tmp_path / "parts", stop_after=3, **options)
    log = MetricsLog(parts, resume_step=3)
    log.write(step=4, loss=9.0, lost=True)  # by a process that was killed before its next checkpoint
    engine.train(recipe, out=parts, resume=True, **options)
    rows, again = read_metrics(whole), read_metrics(parts)
    assert not any("lost" in row for row in again)
    for kind in ("loss", "held_out_loss"):
        steps = [row["step"] for row in again if kind in row]
        assert steps == sorted(set(steps))
        values = {row["step"]: row[kind] for row in again if kind in row}
        assert {row["step"]: row[kind] for row in rows if kind in row}.items() <= values.items()
    assert [row["step"] for row in rows if "held_out" in row] == [0, 2, 4, 6]
    for row in again:
        assert row["samples"] == 8 * row["step"] and row["epoch"] >= 0
    seconds = [row["seconds"] for row in again]
    assert seconds == sorted(seconds) and seconds[0] == 0


def test_time_is_work_waiting_or_overhead() -> None:
    meter = Meter(clips_per_step=8)
    with meter.timing("waiting"):
        time.sleep(0.05)
    with meter.timing("working"):
        time.sleep(0.1)
    time.sleep(0.05)
    with meter.timing("paused"):
        time.sleep(0.2)
    meter.steps = 1
    values = meter.read()
    assert values["elapsed"] == pytest.approx(0.2, abs=0.1)
    assert values["waiting"] == pytest.approx(0.25, abs=0.12)
    assert values["overhead"] == pytest.approx(0.25, abs=0.12)
    time.sleep(0.02)
    assert meter.read()["overhead"] > 0.9


def test_rows_say_where_time_went(data: Path, tmp_path: Path) -> None:  # noqa: F811
    out = engine.train(load_recipe("tiny", SMALL), data=data, out=tmp_path / "run", device="cpu")
    rows = [json.loads(line) for line in (out / METRICS).read_text().splitlines()]
    for row in rows:
        assert 0 <= row["overhead"] < 0.5 and 0 <= row["waiting"] <= 1
        assert {"step", "epoch", "seconds", "samples", "loss", "lr"} <= set(row)
