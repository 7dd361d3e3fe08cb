"""Prepared data know which versions made them: others do not join them unasked, and the sums do not depend on them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from avtool import media
from avtool.data import prepare as module
from avtool.data import ray_engine, staging
from avtool.data.convert import Settings
from avtool.data.dataset import PreparedDataset
from avtool.data.prepare import prepare
from avtool.errors import DataError, UsageError
from avtool.inspect import inspect
from tests import clips

NEW = {"av": "18.1.0", "ffmpeg": "8.0", "opencv": "5.0.0", "numpy": "2.4.6"}
OLD = NEW | {"av": "17.0.0", "ffmpeg": "7.1"}
ROWS = 8
Run = Callable[..., module.Report]


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    clips.clip(folder / "0.mp4", 1.0, seed=0)
    lines = ["id,split,label,video", *(f"clip {k},train,c,0.mp4" for k in range(ROWS))]
    (folder / "mine.csv").write_text("\n".join(lines) + "\n")
    return folder / "mine.csv"


@pytest.fixture
def run(table, tmp_path, monkeypatch) -> Run:
    """Prepare into OUT, in this process, with pretended versions; it breaks off after so many rows."""

    def run_all(stop, work, tasks):
        for done, task in enumerate(tasks):
            if done == stop:
                raise KeyboardInterrupt
            yield task, work(task)

    def prepared(tools: dict[str, str], *, stop: int | None = None, **options) -> module.Report:
        monkeypatch.setattr(media, "tool_versions", lambda: dict(tools))
        monkeypatch.setattr(module, "_engine", lambda *given: partial(run_all, stop))
        return prepare("manifest", table, out=tmp_path / "out", **options)

    monkeypatch.setattr(module, "Settings", partial(Settings, rows_per_shard=2))
    return prepared


def facts(out: Path) -> dict:
    return json.loads((out / "dataset.json").read_text())


def test_the_versions_are_those_of_this_process():
    import av
    import cv2
    import numpy as np

    found = media.tool_versions()
    assert found.keys() == NEW.keys() and found["av"] == av.__version__
    assert (found["opencv"], found["numpy"]) == (cv2.__version__, np.__version__)
    assert found["ffmpeg"][0].isdigit()


def test_versions_stand_in_the_data_set_outside_its_sum(run, tmp_path):
    first = facts(run(NEW).out)
    second = facts(run(OLD, force=True).out)
    assert (first.pop("made_with"), second.pop("made_with")) == ([NEW], [OLD])
    assert first == second
    assert inspect(tmp_path / "out", verify=True)["made_with"] == [OLD]


def test_parts_of_other_versions_are_refused_by_name_unless_forced(run, tmp_path, capsys):
    out, unfinished = tmp_path / "out", tmp_path / "out.unfinished"
    run(NEW, part="1/3")
    plan = (unfinished / "plan.json").read_bytes()
    with pytest.raises(UsageError) as caught:
        run(OLD, part="2/3")
    assert caught.value.message == (
        f"{unfinished} was begun with PyAV 18.1.0, FFmpeg 8.0; this process has PyAV 17.0.0, FFmpeg 7.1"
    )
    assert f"remove {unfinished}" in caught.value.hint and caught.value.hint.endswith("add --force")
    assert (unfinished / "plan.json").read_bytes() == plan
    shards = list((unfinished / "whole" / "shards").iterdir())
    run(OLD, part="2/3", force=True)
    assert f"warning: {unfinished} was begun with PyAV 18.1.0" in capsys.readouterr().err
    assert all(shard.exists() for shard in shards)  # nothing was dropped
    for tool, shown in (("numpy", "numpy 1.26"), ("opencv", "OpenCV 1.26")):
        with pytest.raises(UsageError, match=f"; this process has {shown}"):
            run(NEW | {tool: "1.26"}, part="3/3")
    assert run(NEW, part="3/3").sealed
    assert facts(out)["made_with"] == [OLD, NEW] and not unfinished.exists()
    assert PreparedDataset(out).checksum == facts(out)["checksum"]
    assert inspect(out, verify=True)["verified"]["files"] > 0


def test_a_preparation_is_not_resumed_with_other_versions_unless_forced(run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(NEW, stop=3)
    with pytest.raises(UsageError, match=r"was begun with PyAV 18\.1\.0.* PyAV 17\.0\.0"):
        run(OLD)
    with pytest.raises(KeyboardInterrupt):
        run(OLD, stop=2, force=True)
    assert run(NEW).prepared == ROWS
    assert facts(tmp_path / "out")["made_with"] == [OLD, NEW]


def test_other_rows_or_settings_are_dropped_with_their_versions(run, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        run(NEW, stop=3)
    monkeypatch.setattr(module, "Settings", partial(Settings, rows_per_shard=2, short_side=32))
    with pytest.raises(UsageError, match="with another short_side: 256, now 32"):
        run(OLD)
    assert run(OLD, force=True).prepared == ROWS
    assert facts(tmp_path / "out")["made_with"] == [OLD]


PLANS = ["", "[1]", '"x"', '{"made_with": []}', '{"made_with": "PyAV 3"}', '{"made_with": ["18.1"]}']
PLANS += ['{"made_with": {"av": "17"}}', '{"made_with": [{"av": 18}]}', '{"command": 3}']


@pytest.mark.parametrize("text", PLANS)
def test_a_broken_plan_is_named_and_dropped_by_force(run, tmp_path, text):
    with pytest.raises(KeyboardInterrupt):
        run(NEW, stop=3)
    (tmp_path / "out.unfinished" / "plan.json").write_text(text)
    with pytest.raises(UsageError, match=r"unfinished preparation whose plan\.json is broken") as caught:
        run(NEW)
    assert caught.value.hint == "drop it: add --force"
    assert run(NEW, force=True).prepared == ROWS


@pytest.mark.parametrize(
    ("change", "way"),
    [
        ({"rows": "0"}, "make them as they were, and give the same command; or drop it: add --force"),
        ({"format": 99}, "go on with the version of avtool that began it; or drop it: add --force"),
        ({"name": "other"}, "go on with it: avtool prepare manifest "),
    ],
)
def test_the_way_to_go_on_is_not_what_was_just_refused(run, tmp_path, change, way):
    with pytest.raises(KeyboardInterrupt):
        run(NEW, stop=3)
    path = tmp_path / "out.unfinished" / "plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UsageError, match="is an unfinished preparation") as caught:
        run(NEW)
    assert caught.value.hint.startswith(way)


def test_what_was_begun_before_versions_were_noted_is_not_mixed_unasked(run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(NEW, stop=3)
    path = tmp_path / "out.unfinished" / "plan.json"
    plan = json.loads(path.read_text())
    del plan["made_with"]
    path.write_text(json.dumps(plan))
    with pytest.raises(UsageError, match=r"begun with unknown versions; this process has PyAV 18\.1\.0"):
        run(NEW)
    run(NEW, force=True)
    assert facts(tmp_path / "out")["made_with"] == [NEW, {}]


def test_a_late_part_of_other_versions_has_nothing_to_do_and_says_so(run, tmp_path, capsys):
    out = run(NEW).out
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert b"made_with" not in before[out / "made_from.json"]
    run(NEW, part="1/2")
    assert capsys.readouterr().err.endswith(f"{out} is finished already\n")
    assert run(OLD, part="1/2").sealed
    assert f"{out} is finished already, made with PyAV 18.1.0, FFmpeg 8.0, Op" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "out.unfinished").exists()


def test_data_of_before_versions_were_noted_are_read(run, tmp_path, capsys):
    out = run(NEW).out
    path = out / "dataset.json"
    old = facts(out)
    del old["made_with"]
    path.write_text(json.dumps(old))
    assert len(PreparedDataset(out)) == ROWS
    assert inspect(out, verify=True)["made_with"] == []
    capsys.readouterr()
    assert run(NEW, part="1/2").sealed
    assert "finished already, made with unknown versions" in capsys.readouterr().err
    path.write_text(json.dumps(old | {"classes": ["d"]}))
    with pytest.raises(DataError, match="changed since"):
        inspect(out, verify=True)


# Ray ---------------------------------------------------------------------------------------------------


def test_a_ray_worker_says_who_it_is_and_what_it_has(monkeypatch):
    monkeypatch.setattr("avtool.data.workers._Expendable.here", False)
    assert ray_engine.work_on(abs, -2) == (socket.gethostname(), media.tool_versions(), 2)
    host, tools, error = ray_engine.work_on(int, "two")
    assert (host, tools) == (socket.gethostname(), media.tool_versions()) and isinstance(error, ValueError)


def test_a_machine_is_admitted_once_and_before_its_result_is_used():
    asked, admitted = [], {}

    def admit(tools, who):
        asked.append((tools, who))
        if tools == OLD:
            raise UsageError("refused")

    for answer in (("one", NEW, 1), ("one", NEW, 2), ("two", NEW, 3)):
        assert ray_engine._checked(answer, admitted, admit) == answer[2]
    assert asked == [(NEW, "Ray's worker on one"), (NEW, "Ray's worker on two")]
    for result in (4, TypeError("no such argument")):  # what other versions raise is no news beside them
        with pytest.raises(UsageError, match="refused"):
            ray_engine._checked(("three", OLD, result), admitted, admit)
    with pytest.raises(OSError, match="full"):
        ray_engine._checked(("one", NEW, OSError("full")), admitted, admit)


@pytest.mark.proof
def test_ray_workers_of_other_versions_are_refused_by_host_unless_forced(table, tmp_path, monkeypatch):
    """The worker has the versions that are installed, the driver pretends others."""
    there = media.tool_versions()
    here = there | {"av": "0.1"}
    monkeypatch.setattr(module, "Settings", partial(Settings, rows_per_shard=2))
    monkeypatch.setattr(media, "tool_versions", lambda: dict(here))
    ray = {"out": tmp_path / "out", "engine": "ray", "jobs": 1}
    with pytest.raises(UsageError) as caught:
        prepare("manifest", table, **ray)
    said = f"begun with PyAV 0.1; Ray's worker on {socket.gethostname()} has PyAV {there['av']}"
    assert caught.value.message.endswith(said)
    assert prepare("manifest", table, **ray, force=True).prepared == ROWS
    assert facts(tmp_path / "out")["made_with"] == [here, there]


# Locks -------------------------------------------------------------------------------------------------


def test_a_disk_without_locks_is_warned_about(run, monkeypatch, capsys):
    def refuse(path: Path) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), str(path))

    monkeypatch.setattr(staging, "take_lock", refuse)
    assert run(NEW).prepared == ROWS
    assert "cannot be locked (No locks available): let no two processes" in capsys.readouterr().err

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(staging, "take_lock", full)
    with pytest.raises(OSError, match="No space left"):
        run(NEW, force=True)


def test_a_folder_that_another_removes_while_one_waits_does_not_come_back(tmp_path, monkeypatch):
    unfinished = staging.Staging(tmp_path / "out")
    (unfinished.folder / "locks").mkdir(parents=True)

    def removed(path: Path) -> None:
        shutil.rmtree(unfinished.folder)

    with monkeypatch.context() as patch:
        patch.setattr(staging, "take_lock", removed)
        with unfinished.sealing() as unsealed:
            assert not unsealed
    assert list(tmp_path.iterdir()) == []
    (unfinished.folder / "locks").mkdir(parents=True)  # made again by one who came to lock just then
    with unfinished.sealing() as unsealed:
        assert not unsealed
    assert list(tmp_path.iterdir()) == []
