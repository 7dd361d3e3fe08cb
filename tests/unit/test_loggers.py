"""Where numbers go beside metrics.jsonl: what a logger is told, when it begins and ends, real ones offline."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, ClassVar

import pytest

from avtool import engine, libraries
from avtool.config.recipes import load_recipe
from avtool.errors import TrainingError, UsageError
from avtool.loggers import LOGGED_AS, LOGGERS, logged_as
from avtool.tracking import MetricsLog
from tests.processes import run
from tests.unit.test_dry_run import SMALL, data  # noqa: F401 - a fixture


@pytest.mark.parametrize("spec", [None, ModuleSpec("wandb", None)], ids=["missing", "folder"])
@pytest.mark.parametrize(
    ("setting", "said", "extra"),
    [
        (
            "train.tensorboard=true",
            "train.tensorboard=true needs tensorboard, which is not installed",
            "tensorboard",
        ),
        ("train.logger=wandb", "train.logger=wandb needs wandb, which is not installed", "wandb"),
        ("train.logger=trackio", "train.logger=trackio needs trackio, which is not installed", "trackio"),
    ],
)
def test_a_missing_package_is_named_before_anything_is_written(
    setting: str,
    said: str,
    extra: str,
    spec: ModuleSpec | None,
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(libraries, "find_spec", lambda name: spec)
    with pytest.raises(UsageError, match=said) as caught:
        engine.train(load_recipe("tiny", [*SMALL, setting]), data=data, out=tmp_path / "run", device="cpu")
    assert f"pip install 'avtool[{extra}]'" in caught.value.hint
    assert not (tmp_path / "run").exists()


class Told:
    """Stands in for a logger."""

    told: ClassVar[list[Any]] = []
    begins: ClassVar[Exception | None] = None
    ends: ClassVar[Exception | None] = None

    def __init__(self, run: Path, *, step: int, settings: Mapping[str, Any]) -> None:
        if self.begins:
            raise self.begins
        self.told.append(("begun", step, settings["optim"]["name"], logged_as(run)))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.told.append((step, dict(values)))

    def close(self, *, failed: bool) -> None:
        self.told.append("failed" if failed else "done")
        if self.ends:
            raise self.ends


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> type[Told]:
    kind = type("Told", (Told,), {"told": []})
    monkeypatch.setitem(LOGGERS, "wandb", (kind, "train.logger=null", "log in"))
    monkeypatch.setattr(libraries, "find_spec", lambda name: ModuleSpec(name, None, origin="somewhere"))
    return kind


RECIPE = ("train.logger=wandb", "train.log_every=2", "train.save_every=2", "data.split=all")


def test_a_run_begins_logs_and_ends_and_a_resumed_one_is_the_same(
    told: type[Told],
    data: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    recipe, out = load_recipe("tiny", [*SMALL, *RECIPE]), tmp_path / "run"
    engine.train(recipe, data=data, out=out, device="cpu", stop_after=2)
    engine.train(recipe, data=data, out=out, device="cpu", resume=True)
    engine.train(recipe, data=data, out=out, device="cpu", resume=True)  # is finished: nothing is begun
    known = (out / LOGGED_AS).read_text().strip()
    assert told.told[0] == ("begun", 0, "adamw", known)
    assert ("begun", 2, "adamw", known) in told.told
    assert [what for what in told.told if isinstance(what, str)] == ["done", "done"]
    rows = [what for what in told.told if isinstance(what[0], int)]
    assert [step for step, _ in rows] == [2, 4, 6]
    assert {"train/loss", "train/lr", "train/samples_per_second"} <= set(rows[0][1])
    engine.train(recipe, data=data, out=out, device="cpu", force=True, stop_after=1)
    assert (out / LOGGED_AS).read_text().strip() != known


def test_a_logger_that_does_not_begin_leaves_no_run(
    told: type[Told],
    data: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    told.begins = RuntimeError("no key\nis set")
    recipe, out = load_recipe("tiny", [*SMALL, *RECIPE]), tmp_path / "run"
    with pytest.raises(TrainingError, match="wandb does not begin to log: no key is set") as caught:
        engine.train(recipe, data=data, out=out, device="cpu")
    assert caught.value.hint == "log in; or leave train.logger=null"
    assert caught.value.__cause__ is told.begins and not out.exists()


def test_what_ended_a_run_is_told_whatever_its_logger_says(
    told: type[Told],
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told.ends = RuntimeError("lost the network")
    recipe = load_recipe("tiny", [*SMALL, *RECIPE])
    with pytest.raises(RuntimeError, match="lost the network"):
        engine.train(recipe, data=data, out=tmp_path / "whole", device="cpu", stop_after=2)
    monkeypatch.setattr(engine.Run, "save", lambda run: pytest.fail("the disk is full"))
    with pytest.raises(pytest.fail.Exception, match="the disk is full"):
        engine.train(recipe, data=data, out=tmp_path / "failed", device="cpu")
    assert "warning: wandb: lost the network" in capsys.readouterr().err
    assert told.told[-1] == "failed"


def test_measures_of_held_out_clips_are_named_as_in_tensorboard(told: type[Told], tmp_path: Path) -> None:
    logger = told(tmp_path, step=0, settings={"optim": {"name": "adamw"}})
    log = MetricsLog(tmp_path, resume_step=0, loggers={"wandb": logger})
    log.write(step=3, loss=0.5, held_out="test", held_out_loss=0.25)
    assert told.told[-1] == (3, {"train/loss": 0.5, "validation/loss": 0.25})


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_real_logger_offline(name: str, data: Path, tmp_path: Path) -> None:  # noqa: F811
    pytest.importorskip(name)
    out = tmp_path / "run"
    command = ["-m", "avtool", "pretrain", "--recipe", "tiny", "--data", data, "--out", out, *SMALL, *RECIPE]
    command = [
        part.replace("logger=wandb", f"logger={name}") if isinstance(part, str) else part for part in command
    ]
    offline = {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "HF_HUB_OFFLINE": "1"}
    offline |= {"HOME": str(tmp_path), "TRACKIO_DIR": str(tmp_path / "trackio")}
    for more in (["--stop-after", "2"], ["--resume"]):
        done = run([*command, *more], env={**os.environ, **offline}, cwd=tmp_path, timeout=600)
        assert (done.returncode, done.stdout) == (0, f"{out}\n"), done.stderr
    known = (out / LOGGED_AS).read_text().strip()
    if name == "wandb":
        logs = sorted((out / "wandb").glob(f"offline-run-*-{known}/run-{known}.wandb"))
        assert len(logs) == 2
        assert [b"train/loss" in log.read_bytes() for log in logs] == [True, True]
        return
    with sqlite3.connect(tmp_path / "trackio" / "avtool.db") as database:
        rows = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
    assert [(of, step) for of, step, _ in rows] == [(f"run-{known}", step) for step in (2, 4, 6)]
    assert all("train/loss" in json.loads(values) for *_, values in rows)
