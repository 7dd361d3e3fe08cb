"""``avtool demo`` as a user types it, with few clips and steps: twice in a row, and then a clip of one's own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import cv2
import pytest

from tests.clips import clip
from tests.processes import run


class Home:
    """A folder to type commands in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AVTOOL_")}
        self.environment = {**kept, "OMP_NUM_THREADS": "1", "AVTOOL_CACHE": str(folder / "cache")}

    def __call__(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = run(["-m", "avtool", *arguments], cwd=self.folder, env=self.environment)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def facts(self) -> dict:
        return json.loads((self.folder / "avtool-demo" / "demo.json").read_text())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Where one demo was made."""
    home = Home(tmp_path_factory.mktemp("home"))
    clip(home.folder / "clip.mp4", size=(90, 120), seed=7)
    home.first = home("demo", "--small")
    return home


def test_it_makes_all_it_names_and_says_what_to_type_next(home: Home) -> None:
    said = home.first.stdout
    assert "pointing on held-out clips: synth, split test, n = 2" in said
    for words in (
        "another class's sound",
        "a centred disc",
        "a point at random",
        "these numbers mean nothing",
    ):
        assert words in " ".join(said.split())
    assert said.splitlines()[-1] == "next:       avtool localize clip.mp4 --out heatmap.png"
    facts = home.facts()
    assert facts["finished"] and facts["pointing"]["clips"] == 2
    assert all((home.folder / "avtool-demo" / name).exists() for name in facts["made"])


def test_its_model_is_found_and_said(home: Home) -> None:
    said = home("localize", "clip.mp4", "--out", "heatmap.png").stderr
    checksum = json.loads((home.folder / "avtool-demo" / "data" / "dataset.json").read_text())["checksum"]
    model = "avtool-demo/localizer/checkpoints/step-00000002"
    assert f"model {model} (from the demo in ./avtool-demo)\n" in said
    assert "avtool finetune localize on synth, step 2 of 2; trained on 8 clips of avtool-demo/data" in said
    assert checksum[:12] in said
    assert cv2.imread(str(home.folder / "heatmap.png")).shape[1] >= 120
    refused = home("classify", "clip.mp4", code=2).stderr
    assert "(from the demo in ./avtool-demo)" in refused and "or another --model" in refused


def test_again_it_replaces_its_own_with_force_alone(home: Home) -> None:
    demo = home.folder / "avtool-demo"
    before = home.facts()
    refused = home("demo", "--small", code=2).stderr
    assert (
        "avtool-demo holds what a demo made: data, pretrained, clip.mp4, other.mp4, before.png, localizer, heatmap.png"
        in refused
    )
    assert "--force" in refused and "another --out" in refused
    assert home.facts() == before
    (demo / "notes.txt").write_text("mine")
    old = (demo / "heatmap.png").stat().st_mtime_ns
    home("demo", "--small", "--force", "--seed", "1")
    assert (demo / "notes.txt").read_text() == "mine"
    assert (demo / "heatmap.png").stat().st_mtime_ns > old
    assert home.facts()["seed"] == 1 and home.facts()["finished"]
