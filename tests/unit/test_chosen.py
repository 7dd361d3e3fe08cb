"""What commands on clips say of the model that they run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from avtool import predict as chosen
from avtool.places import BEST, checkpoint_folder
from tests.models import described
from tests.unit.test_places import model_at

CONFIG = described(
    "autoencoder",
    {"image_size": [32, 32], "audio_size": [32, 64]},
    origin="avtool finetune localize on synth, step 3 of 9",
)
DATA = {"folder": "data/synth", "name": "synth", "checksum": "0123456789abcdef", "clips": 9, "trained_on": 7}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with a checkpoint and best weights, whose config.json says CONFIG."""
    monkeypatch.setattr(chosen, "read_model_config", lambda checkpoint: CONFIG)
    model_at(checkpoint_folder(tmp_path / "run", 9))
    model_at(tmp_path / "run" / BEST)
    return tmp_path / "run"


def said_of(model: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert chosen.choose_model(model, device=torch.device("cpu")).config == CONFIG
    return capsys.readouterr().err.splitlines()


def test_it_says_which_model_and_what_it_was_trained_on(run: Path, capsys) -> None:
    (run / "run.json").write_text(json.dumps({"data": DATA}))
    words = f"  {CONFIG.origin}; trained on 7 clips of data/synth, checksum 0123456789ab"
    assert said_of(run, capsys) == [f"model {run / BEST} (from --model)", words]
    newest = checkpoint_folder(run, 9)
    assert said_of(newest, capsys) == [f"model {newest} (from --model)", words]


@pytest.mark.parametrize("facts", ["{}", '{"data": {"folder": "data/synth"}}', '{"data": 3}', None])
def test_where_the_run_does_not_say_it_says_what_the_model_says(facts: str | None, run: Path, capsys) -> None:
    if facts is not None:
        (run / "run.json").write_text(facts)
    assert said_of(run, capsys)[1:] == [f"  {CONFIG.origin}"]


def test_a_damaged_history_does_not_stop_a_model(run: Path, capsys) -> None:
    (run / "run.json").write_text("{")
    _, warning, words = said_of(run, capsys)
    assert warning == f"warning: {run / 'run.json'} is damaged: it is no JSON object"
    assert words == f"  {CONFIG.origin}"
