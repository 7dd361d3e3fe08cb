"""Five steps and five more are ten, to the bit: weights, optimizer, losses, of every task."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from avtool import engine
from avtool.checkpoint import load_trainer
from avtool.config.recipes import load_recipe
from avtool.config.schema import PRETRAIN
from avtool.engine import run as engine_run
from avtool.places import BEST, checkpoints_of
from avtool.tasks.classify.train import Classification
from avtool.tracking import read_metrics
from avtool.weight_files import read_safetensors

SMALL = (
    "max_steps=10", "train.log_every=1", "train.save_every=1000", "train.precision=float32", "train.batch_size=4",
    "train.eval_clips=4", "train.eval_every=5", "data.validation=0.3",
    "model.image_size=[64,64]", "model.audio_size=[32,64]", "model.dim=24", "model.depth=2",
    "model.decoder={dim: 16, depth: 1, heads: 2}",
)  # fmt: skip
TASKS = {
    "token": ("tiny", "model.fusion.kind=token"),
    "dense": ("tiny", "model.fusion.kind=dense"),
    "factorized": ("tiny", "model.fusion.kind=factorized"),
    "classify": (
        "tiny-classify", "classify.mixup=0.8", "classify.cutmix=1", "classify.modality_dropout=0.3",
        "train.drop_path=0.3",
    ),
    "probe": ("tiny-probe",),
    "unimodal": ("tiny-localize", "localize.clusters.count=4"),
    "joint": ("tiny-localize", "localize.clusters=null", "localize.encoding=joint"),
    "separate": ("tiny-separate",),
    "segment": ("tiny-segment", "model.dim=128", "model.heads=4", "model.image_size=[32,32]"),
}  # fmt: skip
ACCUMULATED = {"one batch": (1, False), "two merged": (2, False), "two micro-steps": (2, True)}
"""``train.accumulate``, and whether each batch goes through the model by itself."""
WORKERS = (0, 2)
TIMES = ("seconds", "samples_per_second", "waiting", "overhead")
PICKED = [
    (task, list(ACCUMULATED)[number % 3], WORKERS[(number // 3 + number) % 2])
    for number, task in enumerate(TASKS)
]
"""Every task once; every fusion, kind of step and number of workers among them."""


@pytest.fixture(scope="module")
def data(synth: Callable[[int], Path]) -> Path:
    return synth(40)


def run(task: str, data: Path, out: Path, *overrides: str, **options: Any) -> Path:
    name, *settings = TASKS[task]
    recipe = load_recipe(name, [*SMALL, *settings, *overrides])
    if recipe.task != PRETRAIN:
        recipe = recipe.model_copy(update={"init": recipe.init.model_copy(update={"model": "none"})})
    return engine.train(recipe, data=data, out=out, device="cpu", allow_random=True, **options)


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """What a tree of dicts and lists holds, each with its place."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from leaves(inner, f"{name}.{key}")
    else:
        yield name, value


def state(out: Path) -> dict[str, Any]:
    """All that the last checkpoint holds, but for how long it took."""
    folder = checkpoints_of(out)[-1]
    trainer = load_trainer(folder)
    del trainer["seconds"]
    weights = read_safetensors(folder / "model.safetensors")
    best = read_safetensors(out / BEST / "model.safetensors") if (out / BEST).exists() else {}
    return dict(leaves({"name": folder.name, "model": weights, "best model": best, **trainer}))


def rows(out: Path) -> list[dict[str, Any]]:
    """What was logged of training and of held-out clips, but for how long it took."""
    return [{name: value for name, value in row.items() if name not in TIMES} for row in read_metrics(out)]


def stop_and_compare(task: str, data: Path, folder: Path, *overrides: str) -> None:
    whole = run(task, data, folder / "whole", *overrides)
    parts = run(task, data, folder / "parts", *overrides, stop_after=5)
    assert [path.name for path in checkpoints_of(parts)] == ["step-00000005"]
    torch.manual_seed(1)  # as in a new process: nothing is drawn from what was drawn before
    run(task, data, parts, *overrides, resume=True)
    ours, theirs = state(parts), state(whole)
    assert ours.keys() == theirs.keys()
    assert any(name.startswith(".optimizer.state") for name in ours)
    differ = [name for name, value in theirs.items() if not same(value, ours[name])]
    assert not differ
    assert rows(parts) == rows(whole)
    assert [row["step"] for row in rows(whole) if "loss" in row] == list(range(1, 11))


def same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def prepared(accumulated: str, workers: int, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    accumulate, apart = ACCUMULATED[accumulated]
    if apart:
        monkeypatch.setattr(engine_run, "MERGED_WORK", 0)
    return f"train.accumulate={accumulate}", f"data.workers={workers}"


@pytest.mark.parametrize(("task", "accumulated", "workers"), PICKED)
def test_five_steps_and_five_more_are_ten(
    task: str, accumulated: str, workers: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_and_compare(task, data, tmp_path, *prepared(accumulated, workers, monkeypatch))


@pytest.mark.proof
@pytest.mark.parametrize(
    ("task", "accumulated", "workers"),
    [case for case in product(TASKS, ACCUMULATED, WORKERS) if case not in PICKED],
)
def test_five_steps_and_five_more_are_ten_in_every_combination(
    task: str, accumulated: str, workers: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_and_compare(task, data, tmp_path, *prepared(accumulated, workers, monkeypatch))


def test_the_best_of_a_run_that_was_stopped_stays_the_best(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is measured where a run stops comes after the checkpoint."""
    measure = Classification.measure

    def best_at_five(self: Classification, *batches: Any) -> dict[str, float]:
        measured.append(len(measured))
        return {**measure(self, *batches), "score": 0.9 if len(measured) == 2 else 0.1 * len(measured)}

    measured: list[int] = []
    monkeypatch.setattr(Classification, "measure", best_at_five)
    out = run("classify", data, tmp_path / "run", stop_after=5)
    run("classify", data, out, resume=True)
    assert len(measured) == 3
    assert load_trainer(checkpoints_of(out)[-1])["best"] == {"value": 0.9, "step": 5}
    assert json.loads((out / BEST / "config.json").read_text())["origin"].endswith("step 5 of 10")


@pytest.mark.proof
@pytest.mark.parametrize("task", ["dense", "classify", "unimodal", "joint", "separate"])
def test_five_steps_and_five_more_are_ten_on_two_threads(task: str, data: Path, tmp_path: Path) -> None:
    """Where replicas share the batch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        stop_and_compare(task, data, tmp_path, "train.batch_size=16", "data.workers=1", "data.validation=0.1")
    finally:
        torch.set_num_threads(threads)
