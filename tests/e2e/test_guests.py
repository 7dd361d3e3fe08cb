"""A task, a kind of fusion and a data set from a package of somebody else's (tests/guests), by a line each."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
import torch

from avtool.places import checkpoints_of
from avtool.weight_files import read_safetensors
from tests.clips import clip
from tests.processes import run

GUESTS = Path(__file__).parents[1] / "guests"
PRETRAIN = """\
extends: tiny
data: {name: tones}
model:
  image_size: [32, 32]
  audio_size: [32, 64]
  dim: 24
  depth: 2
  decoder: {dim: 16, depth: 1, heads: 2}
  fusion: {kind: mean, tokens: [4, 0, 0]}
train: {batch_size: 4, accumulate: 1, log_every: 1, precision: float32}
"""
FINETUNE = PRETRAIN + "task: loudness\nloudness: {scale: 5}\nmax_steps: 6\noptim: {clip_grad: 1.0}\n"


class Home:
    """A folder in which avtool and the guests are installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AVTOOL_")}
        self.environment = {**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}

    def __call__(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = run(
            ["-m", "avtool", *arguments], cwd=self.folder, env=self.environment, installed=(str(GUESTS),)
        )
        assert done.returncode == code, done.stderr
        return done


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("home")
    (folder / "sources").mkdir()
    generator = np.random.default_rng(0)
    for number in range(16):
        name = folder / "sources" / f"{number:02d}"
        cv2.imwrite(f"{name}.png", generator.integers(0, 255, (40, 48, 3), np.uint8))
        soundfile.write(f"{name}.wav", generator.normal(0, 0.01 * 1.2**number, 24000), 16000)
    (folder / "pretrain.yaml").write_text(PRETRAIN)
    (folder / "loudness.yaml").write_text(FINETUNE)
    clip(folder / "clip.mp4", size=(40, 48))
    return Home(folder)


@pytest.fixture(scope="module")
def pretrained(home: Home) -> Path:
    """A run with the guests' fusion on the guests' data."""
    prepared = home("prepare", "tones", "sources", "--out", "tones")
    assert "16" in prepared.stdout
    home("pretrain", "--recipe", "pretrain.yaml", "--data", "tones", "--out", "pretrained", "max_steps=2")
    config = json.loads((checkpoints_of(home.folder / "pretrained")[-1] / "config.json").read_text())
    assert config["model"]["fusion"]["kind"] == "mean"
    return home.folder / "pretrained"


def finetune(home: Home, out: str, *options: str) -> dict[str, torch.Tensor]:
    home(
        "finetune", "loudness", "--recipe", "loudness.yaml", "--from", "pretrained", "--data", "tones", "--out", out,
        *options,
    )  # fmt: skip
    return read_safetensors(checkpoints_of(home.folder / out)[-1] / "model.safetensors")


def test_a_guests_task_trains_resumes_is_evaluated_and_predicts(home: Home, pretrained: Path) -> None:
    whole = finetune(home, "whole")
    finetune(home, "parts", "--stop-after", "3")
    parts = finetune(home, "parts", "--resume")
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    table = json.loads(home("evaluate", "whole", "--data", "tones", "--json").stdout)["tables"][0]
    assert table["protocol"] == "decibels" and table["samples"] == 4
    assert [row["role"] for row in table["rows"]] == ["model", "control", "floor"]
    said = home("loudness", "clip.mp4", "--model", "whole").stdout
    assert said.startswith("clip.mp4  ") and said.endswith(" dB\n")
    folder = checkpoints_of(home.folder / "whole")[-1]
    config = json.loads((folder / "config.json").read_text())
    assert config["kind"] == "loudness" and config["head"] == {"scale": 5.0}
    fusion = {f"fusion_{key}": value for key, value in config["model"].pop("fusion").items()}
    model = {**config["model"], "fusion": fusion.pop("fusion_kind"), **fusion, **config.pop("head")}
    spectrogram = {**config["spectrogram"], "mels": 32}
    earlier = {**config, "format": 1, "model": model, "spectrogram": spectrogram}
    (folder / "config.json").write_text(json.dumps(earlier))
    assert home("loudness", "clip.mp4", "--model", str(folder)).stdout.endswith(" dB\n")


def test_guests_are_named_where_all_are(home: Home) -> None:
    assert "loudness" in home("--help").stdout
    assert "tones" in home("prepare", "--help").stdout
    assert "loudness" in home("finetune", "--help").stdout
    assert "mean" in home("recipes", "validate", "tiny", "model.fusion.kind=men", code=2).stderr
    assert "loudness.scale" in home("recipes", "validate", "loudness.yaml", "loudness.sale=2", code=2).stderr
