"""An evaluation by several processes is that of one: the same tables for any number of them, any batch size and any
number of workers, and one message where it fails."""

from __future__ import annotations

import json
import math
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from avtool.checkpoint import save_checkpoint
from avtool.data.dataset import PreparedDataset
from avtool.data.views import class_names
from avtool.evaluate import evaluate
from avtool.model.build import random_model
from tests.e2e.test_processes import avtool
from tests.models import described

SETTINGS = {
    "image_size": [32, 32], "audio_size": [32, 64], "patch_size": 16, "dim": 16, "depth": 2, "heads": 2,
    "fusion": "factorized", "fusion_tokens": [3, 2, 2], "fusion_attn_ratio": 1.0,
}  # fmt: skip
SPECTROGRAM = {"sample_rate": 16000, "n_fft": 800, "hop": 250}
MAPS = "trained,attention,difference,cosine"
FAMILIES = {
    "classify": ("classifier", "--protocol", "top1,top5,mAP,AUC,knn"),
    "windows": ("classifier", "--protocol", "top1,knn", "--windows", "3"),
    "retrieve": ("localization", "--task", "retrieve", "--windows", "2"),
    "localize": ("localization", "--map", MAPS),
    "negatives": ("localization", "--map", "trained,cosine", "--protocol", "slavc-extended"),
    "separate": ("separation",),
    "segment": ("segmentation",),
    "semantic": ("semantic",),
    "decoder": ("segmentation", "--task", "localize"),
}


@pytest.fixture(scope="module")
def data(synth: Callable[[int], Path]) -> Path:
    return synth(25)  # 5 to judge, which two processes share unequally


@pytest.fixture(scope="module")
def models(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of every kind with random weights."""
    dataset, folder = PreparedDataset(data, "test"), tmp_path_factory.mktemp("models")
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "classifier": ("classifier", {"classes": len(dataset.classes)}),
        "localization": ("localization", {"encoding": "unimodal", "width": 16}),
        "separation": ("separation", {}),
        "segmentation": ("segmentation", {"classes": 1, "dim": 128, "heads": 4}),
        "semantic": ("segmentation", {"classes": len(class_names(dataset)), "dim": 128, "heads": 4}),
    }
    for name, (kind, changes) in kinds.items():
        settings = SETTINGS | changes
        save_checkpoint(
            folder / name,
            model=random_model(kind, settings, seed=3),
            config=described(kind, settings, SPECTROGRAM),
        )
    return folder


def tables(processes: int, family: str, *options: str, models: Path, data: Path, out: Path) -> list[dict]:
    """What ``avtool evaluate`` writes, prints, and prints once."""
    model, *arguments = FAMILIES[family]
    command = ("evaluate", str(models / model), *arguments, *options, "--device", "cpu", "--json", "--force")
    done = avtool(processes, *command, data=data, out=out)
    assert done.returncode == 0, done.stderr
    written = json.loads(out.read_text())
    assert json.loads(done.stdout) == written
    return written["tables"]


def by_one(family: str, *, models: Path, data: Path, **options: Any) -> list[dict]:
    """The tables of this process alone."""
    model, *arguments = FAMILIES[family]
    named = dict(zip(arguments[::2], arguments[1::2], strict=True))
    found = evaluate(
        models / model,
        data,
        task=named.get("--task"),
        protocols=named["--protocol"].split(",") if "--protocol" in named else (),
        windows=int(named.get("--windows", 1)),
        maps=named["--map"].split(",") if "--map" in named else (),
        device="cpu",
        **options,
    )
    return json.loads(json.dumps([table.as_dict() for table in found]))


@pytest.mark.parametrize("family", ["windows", "localize"])
def test_two_processes_give_the_tables_of_one(family: str, models: Path, data: Path, tmp_path: Path) -> None:
    one = by_one(family, models=models, data=data)
    two = tables(2, family, "--batch-size", "3", models=models, data=data, out=tmp_path / "m.json")
    assert two == one


@pytest.mark.proof
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_the_same_for_any_processes_batches_and_workers(
    family: str, models: Path, data: Path, tmp_path: Path
) -> None:
    one = by_one(family, models=models, data=data, batch_size=5)
    for batch_size in (3, 32):
        for workers in (0, 2):
            same(one, by_one(family, models=models, data=data, batch_size=batch_size, workers=workers))
    for processes, batch_size, workers in ((2, 3, 2), (2, 32, 0), (3, 3, 0), (3, 32, 2), (8, 3, 0)):
        options = ("--batch-size", str(batch_size), "--workers", str(workers))
        out = tmp_path / f"{processes}-{batch_size}.json"
        same(one, tables(processes, family, *options, models=models, data=data, out=out))


def same(one: Any, other: Any) -> None:
    """Everything is equal, numbers to a thousandth of what is printed last."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = list(one.values()), list(other.values())
    if isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            same(a, b)
    elif isinstance(one, float) and math.isfinite(one):
        assert other == pytest.approx(one, abs=1e-4)
    else:
        assert other == one


@pytest.mark.proof
def test_a_clip_that_cannot_be_read_ends_the_job_with_one_message(
    models: Path, data: Path, tmp_path: Path
) -> None:
    """The clip is among those of the second process."""
    data = shutil.copytree(data, tmp_path / "synth")
    dataset = PreparedDataset(data, "test")
    last = dataset.record(len(dataset) - 1)
    (shard,) = (data / "shards").glob("test-*.tar")
    with tarfile.open(shard) as tar:
        hurt = [one for one in tar if one.name.startswith(f"{last.key:08d}.")]
    with shard.open("r+b") as file:
        for one in hurt:
            file.seek(one.offset_data)
            file.write(bytes(one.size))
    options = ("--task", "retrieve", "--device", "cpu")
    out = tmp_path / "m.json"
    done = avtool(2, "evaluate", str(models / "classifier"), *options, data=data, out=out)
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1 and str(data) in done.stderr
    assert not out.exists()
