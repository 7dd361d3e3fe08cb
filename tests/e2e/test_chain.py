"""The commands one after the other as a user types them: raw clips in, a heat map out."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from avtool.places import checkpoints_of
from tests.clips import clip
from tests.processes import run

SMALL = (
    "max_steps=2",
    "train.batch_size=2",
    "init.image=none",
    "init.audio=none",
    "model.image_size=[64,64]",
    "model.dim=48",
    "model.depth=2",
    "model.decoder={dim: 16, depth: 1, heads: 2}",
    "data.workers=1",
)
CLASSES = ("dog barking", "donkey, ass braying")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty folder to work in, with VGGSound as it is published under ./data: four clips, one row without."""
    source = tmp_path / "data" / "vggsound"
    rows = []
    for number in range(4):
        label = CLASSES[number % 2]
        folder = label.replace(" ", "_").replace(",", "_")
        clip(source / "clips" / folder / f"-clip{number:06d}_000030_000040.mp4", seed=number)
        rows.append((f"-clip{number:06d}", 30, label, "train"))
    rows.append(("missing_one", 0, CLASSES[0], "train"))
    (source / "annotations").mkdir()
    with (source / "annotations" / "vggsound.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    clip(tmp_path / "clip.mp4", size=(90, 120), seed=7)
    return tmp_path


def avtool(home: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AVTOOL_")}
    environment = {**kept, "OMP_NUM_THREADS": "1", "AVTOOL_CACHE": str(home / "cache")}
    done = run(["-m", "avtool", *arguments], cwd=home, env=environment)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_the_three_commands_chain_without_a_flag(home: Path) -> None:
    # Each error on the way is the command to type next.
    assert "avtool pretrain" in avtool(home, "localize", "clip.mp4", "--out", "heatmap.png", code=2).stderr
    assert "avtool prepare vggsound" in avtool(home, "pretrain", "--recipe", "dense", *SMALL, code=1).stderr

    report = json.loads(avtool(home, "prepare", "vggsound", "--json").stdout)
    assert {key: report[key] for key in ("prepared", "missing", "refused")} == {
        "prepared": 4,
        "missing": 1,
        "refused": 0,
    }
    assert (home / "data" / "prepared" / "vggsound" / "dataset.json").is_file()

    refused = avtool(home, "pretrain", "--recipe", "dense", "train.batch_size=2", "max_steps=2", code=1)
    assert "init.image=mae-vitb" in refused.stderr
    assert "(1)" in refused.stderr and "(2)" in refused.stderr
    assert not (home / "runs").exists()

    run = Path(avtool(home, "pretrain", "--recipe", "dense", *SMALL).stdout.strip())
    assert run.parent == Path("runs") and run.name.startswith("dense-")
    assert checkpoints_of(home / run)[-1].name == "step-00000002"

    said = avtool(home, "localize", "clip.mp4", "--out", "heatmap.png", "--raw", "map.npy")
    assert run.name in said.stderr
    picture = cv2.imread(str(home / "heatmap.png"))
    assert picture.shape[0] > 90 and picture.shape[1] >= 120  # the frame at its own size, and a margin
    raw = np.load(home / "map.npy")
    assert raw.shape == (90, 120) and raw.dtype == np.float32

    # --model takes a run, a checkpoint folder, and names of clips may begin with a dash.
    dashed = next((home / "data" / "vggsound" / "clips").rglob("-clip000000*.mp4"))
    (home / "-x.mp4").write_bytes(dashed.read_bytes())
    for model in (run, run / "checkpoints" / "step-00000002"):
        avtool(home, "localize", "--model", str(model), "--out", "h.png", "--force", "--", "-x.mp4")
    avtool(home, "localize", "./-x.mp4", "--out", "heatmap.png", code=2)  # it is there


def test_broken_checkpoints_are_named(home: Path) -> None:
    avtool(home, "prepare", "vggsound")
    run = home / avtool(home, "pretrain", "--recipe", "dense", *SMALL).stdout.strip()
    weights = checkpoints_of(run)[-1] / "model.safetensors"
    whole = weights.read_bytes()
    for content, words in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "Git LFS pointer"),
        (whole[: len(whole) // 2], "truncated"),
    ):
        weights.write_bytes(content)
        said = avtool(
            home, "localize", "clip.mp4", "--model", str(run), "--out", "heatmap.png", code=1
        ).stderr
        assert words in said and str(weights) in said
        assert not (home / "heatmap.png").exists()
