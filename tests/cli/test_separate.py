"""What ``avtool separate`` hands to the function behind it, and what it prints."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from avtool.cli import app


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple, dict[str, Any]]]:
    seen: list[tuple[tuple, dict[str, Any]]] = []

    def separate(*args: Any, **kwargs: Any) -> SimpleNamespace:
        seen.append((args, kwargs))
        sdr = {"guided": (3.0, 1.0), "other": (math.nan, math.nan)} if kwargs["other"] else {}
        return SimpleNamespace(files=[Path("o/guided.wav"), Path("o/rest.wav")], rate=16000, sdr=sdr)

    fake = ModuleType("avtool.tasks.separate.predict")
    fake.separate = separate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "avtool.tasks.separate.predict", fake)
    return seen


def test_options_are_handed_on_and_files_named(calls: list) -> None:
    done = CliRunner().invoke(
        app, ["separate", "./-x.mp4", "--box", "0.1,0.2,0.5,1", "--at", "2", "--out", "o"]
    )
    assert done.exit_code == 0, done.output
    assert done.stdout == "o/guided.wav\no/rest.wav\n"
    ((args, kwargs),) = calls
    assert args == (Path("./-x.mp4"),)
    assert kwargs == {
        "out": Path("o"), "box": (0.1, 0.2, 0.5, 1.0), "other": None, "audio": None, "at": 2.0, "model": None,
        "device": "auto", "force": False,
    }  # fmt: skip


def test_how_well_mixed_clips_were_found_is_told(calls: list) -> None:
    command = ["separate", "a.mp4", "--with", "b.mp4", "--out", "o"]
    done = CliRunner().invoke(app, command)
    assert "guided: SDR 3.00 dB, the mixture itself 1.00 dB" in done.stderr and "SDR" not in done.stdout
    assert "other: no SDR, for a source is silent" in done.stderr
    assert calls[0][1]["other"] == Path("b.mp4")
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert found["sdr"]["guided"] == {"found": 3.0, "mixture": 1.0} and found["rate"] == 16000
    assert found["sdr"]["other"] == {"found": None, "mixture": None}


@pytest.mark.parametrize("box", ["1,2,3", "a,b,c,d", "0.1 0.2 0.3 0.4"])
def test_what_is_no_box_is_wrong_usage(calls: list, box: str) -> None:
    done = CliRunner().invoke(app, ["separate", "a.mp4", "--box", box, "--out", "o"])
    assert done.exit_code == 2 and "x1,y1,x2,y2" in done.output and calls == []


def test_an_output_is_needed(calls: list) -> None:
    assert CliRunner().invoke(app, ["separate", "a.mp4"]).exit_code == 2
