"""``avtool segment``: what it hands on and what it prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from avtool.cli import app
from tests import clips
from tests.cli.conftest import Avtool


class _Found:
    def __init__(self, **shares: float) -> None:
        self.shares, self.frames, self.time = shares, 1, 1.5


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple, dict[str, Any]]]:
    """Arguments of every call of a stand-in that finds a bell, or under a silent name nothing."""
    seen: list[tuple[tuple, dict[str, Any]]] = []

    def segment(*args: Any, **kwargs: Any) -> _Found:
        seen.append((args, kwargs))
        return _Found() if args[0].name == "nothing.mp4" else _Found(bell=0.125, bird=0.0312)

    fake = ModuleType("avtool.tasks.segment.predict")
    fake.segment = segment  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "avtool.tasks.segment.predict", fake)
    return seen


def invoke(*args: str) -> Result:
    return CliRunner().invoke(app, ["segment", *args])


@pytest.mark.parametrize("clip", [["--", "-x.mp4"], ["./-x.mp4"], ["x.mp4"]], ids=" ".join)
def test_it_hands_on_its_options_and_prints_what_was_found(clip: list[str], calls) -> None:
    done = invoke("--overlay", "o.png", "--at", "1.5", "--model", "run", *clip)
    assert done.exit_code == 0, done.output
    assert done.stdout == "mask.png\no.png\n    12.5%  bell\n     3.1%  bird\n"
    ((args, kwargs),) = calls
    assert args == (Path(clip[-1]),)
    assert kwargs == {
        "out": Path("mask.png"),
        "overlay": Path("o.png"),
        "audio": None,
        "model": Path("run"),
        "at": 1.5,
        "every": None,
        "device": "auto",
        "force": False,
    }


def test_json_and_nothing_found(calls) -> None:
    done = invoke("--json", "--out", "o.mp4", "x.mp4")
    shares = {"bell": 0.125, "bird": 0.0312}
    assert json.loads(done.stdout) == {"files": ["o.mp4"], "frames": 1, "time": 1.5, "shares": shares}
    done = invoke("nothing.mp4")
    assert done.stdout == "mask.png\n"
    assert "nothing is marked" in done.stderr


def test_without_a_model_or_a_clip_it_says_what_to_do(avtool: Avtool, tmp_path: Path) -> None:
    clips.clip(tmp_path / "x.mp4", 1.0)
    done = avtool("segment", "x.mp4")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no model given" in done.stderr
    done = avtool("segment", "y.mp4")
    assert (done.returncode, done.stdout) == (1, "")
    assert "y.mp4 does not exist" in done.stderr
    done = avtool("segment", "x.mp4", "--out", "x.txt")
    assert (done.returncode, done.stdout) == (2, "")
    assert "hint: --out x.png" in done.stderr
    assert not list(tmp_path.glob("*.png"))
