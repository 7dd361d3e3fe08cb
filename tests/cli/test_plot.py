"""``avtool plot`` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2

from tests.cli.conftest import Avtool


def run_folder(folder: Path, *, steps: int = 5) -> Path:
    folder.mkdir(parents=True)
    rows = [{"step": step, "loss": 1 / step, "seconds": step, "lr": 1e-3} for step in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_runs_become_a_picture_and_a_second_one_needs_force(avtool: Avtool, tmp_path: Path) -> None:
    for name in ("a/run", "b/run"):
        run_folder(tmp_path / name)
    done = avtool("plot", "a/run", "b/run")
    assert (done.returncode, done.stdout) == (0, "curves.png\n"), done.stderr
    assert cv2.imread(str(tmp_path / "curves.png")).shape[1] == 1600
    again = avtool("plot", "a/run")
    assert again.returncode == 2 and "curves.png exists" in again.stderr
    assert avtool("plot", "a/run", "--force").returncode == 0


def test_what_is_no_run_is_named_in_one_line(avtool: Avtool, tmp_path: Path) -> None:
    run_folder(tmp_path / "run")
    run_folder(tmp_path / "new", steps=0)
    (tmp_path / "empty").mkdir()
    for args, code, said in (
        (["nowhere"], 1, "no run at nowhere"),
        (["run", "empty"], 1, "there is no metrics.jsonl in it"),
        (["new"], 1, "holds no step of training yet"),
        (["run", "./run"], 2, "given twice"),
        (["run", "--out", "x.jpg"], 2, "is not named .png"),
    ):
        done = avtool("plot", *args)
        assert done.returncode == code, (args, done.stderr)
        assert said in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "curves.png").exists()


def test_help_fits_80_columns_and_ends_in_examples(avtool: Avtool) -> None:
    done = avtool("plot", "--help")
    assert done.returncode == 0 and max(map(len, done.stdout.splitlines())) <= 80
    assert "Examples:" in done.stdout and "Next:" in done.stdout
