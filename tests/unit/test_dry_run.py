"""What is said of a run before it starts: its memory beside what a real step takes, its length, the bytes it reads."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
import torch

from avtool import engine
from avtool.bench.measure import peak_bytes
from avtool.config.recipes import load_recipe
from avtool.config.schema import Recipe
from avtool.data.loader import collate
from avtool.data.prepare import prepare
from avtool.devices import keep_freed_memory
from avtool.engine.dry import CountingDataset, Memory, memory_of_step
from avtool.engine.loop import FiniteCheck, Meter, train_step
from avtool.errors import in_bytes
from avtool.replicas import Batch, in_parallel

CPU = torch.device("cpu")
SMALL = (
    "max_steps=6",
    "train.batch_size=8",
    "train.accumulate=1",
    "train.precision=float32",
    "model.image_size=[32,32]",
    "model.audio_size=[32,64]",
    "model.dim=48",
    "model.depth=3",
    "model.decoder={dim: 32, depth: 1, heads: 2}",
    "data.workers=0",
)
CLASSIFY = ("init.model=none", "data.validation=0", "classify.mixup=0.8")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen pictures of noise with three seconds of sound each, of two classes."""
    folder = tmp_path_factory.mktemp("source")
    generator = np.random.default_rng(0)
    rows = []
    for number in range(16):
        cv2.imwrite(str(folder / f"{number}.png"), generator.integers(0, 255, (40, 48, 3), np.uint8))
        soundfile.write(folder / f"{number}.wav", generator.normal(0, 0.1, 48000), 16000)
        rows.append((f"clip{number}", "train", "ab"[number % 2], f"{number}.png", f"{number}.wav"))
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "split", "label", "image", "audio"), *rows])
    return prepare("manifest", folder / "table.csv", out=folder / "prepared").out


def new_run(recipe: Recipe, data: Path) -> engine.Run:
    dataset = engine.PreparedDataset(data, "train")
    return engine.Run(recipe, dataset, folder=data / "none", device=CPU)


def predicted(recipe: Recipe, data: Path) -> Memory:
    run = new_run(recipe, data)
    views = run.task.training_views(recipe, run.dataset, run.clips.training)
    return memory_of_step(
        run.task,
        collate([views.sample(0, 0)]),
        clips=recipe.train.batch_size * run.schedule.merged,
        replicas=run.replicas,
        micro_steps=run.schedule.micro_steps,
        device=CPU,
        precision=run.precision,
    )


def measured(recipe: Recipe, data: Path) -> int:
    """The peak of the second step, which begins with all moments there, above what is there before it."""
    keep_freed_memory(CPU)
    run = new_run(recipe, data)
    batches: Iterator[Batch] = run.batches()
    ready = [next(batches) for _ in range(2 * run.schedule.micro_steps)]
    meter = Meter(clips_per_step=recipe.train.batch_size)
    batches, check = iter(ready), FiniteCheck(run)
    model = in_parallel(run.task, run.world, CPU, replicas=run.replicas)
    train_step(run, model, batches, check=check, meter=meter)
    peak = peak_bytes(lambda: train_step(run, model, batches, check=check, meter=meter), CPU)
    assert peak is not None
    return peak + sum(value.nbytes for value in ready[0].values())  # the batch was there before


@pytest.mark.parametrize("again", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tiny", ["model.fusion.kind=token"]),
        ("tiny", ["model.fusion.kind=dense"]),
        ("tiny", ["model.fusion.kind=factorized"]),
        ("tiny", ["train.precision=bf16"]),
        ("tiny", ["train.accumulate=4", "train.batch_size=2"]),
        ("tiny-classify", CLASSIFY),
    ],
    ids=["token", "dense", "factorized", "bf16", "accumulated", "classify"],
)
def test_memory_from_shapes_is_what_a_step_takes(
    name: str, settings: list[str], again: bool, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avtool.engine.run.MERGED_WORK", 0)  # accumulated batches are not merged
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    recipe = load_recipe(name, [*SMALL, *settings, f"train.activation_checkpointing={again}".lower()])
    memory = predicted(recipe, data)
    assert memory.peak == pytest.approx(measured(recipe, data), rel=0.15)
    assert memory.peak > memory.gradients > 0 and memory.kept > 0


def test_recomputing_keeps_less(data: Path) -> None:
    plain, again = (
        predicted(load_recipe("tiny", [*SMALL, f"train.activation_checkpointing={switch}"]), data)
        for switch in ("false", "true")
    )
    assert again.kept < 0.6 * plain.kept
    assert (again.weights, again.gradients) == (plain.weights, plain.gradients)


def test_replicas_have_gradients_of_their_own(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("tiny", [*SMALL, "train.batch_size=16"])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    alone = predicted(recipe, data)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    beside = predicted(recipe, data)
    assert beside.kept == pytest.approx(alone.kept, rel=0.01)
    assert beside.peak > alone.peak


def test_what_a_run_costs_is_said(data: Path) -> None:
    text = engine.dry_run(load_recipe("tiny", [*SMALL, "train.accumulate=2"]), data=data, device="cpu")
    assert "6 steps, 96 samples, 6.0 epochs" in text
    assert "8 x 3 x 32 x 32" in text
    assert "memory of a step (cpu, float32, one process)" in text
    assert "at most, all in all" in text


def test_starting_weights_that_are_not_there_are_said(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load_recipe("tiny", [*SMALL, "init.image=nofile.pth"])
    engine.dry_run(recipe, data=data, device="cpu")
    assert "warning: init.image=nofile.pth is neither a file" in capsys.readouterr().err


def test_bytes_read_are_those_of_a_frame_and_a_window(data: Path) -> None:
    dataset = CountingDataset(data, "train")
    frame = dataset._span("frames", dataset._clip(3)["frames"])[0]["size"]
    dataset.frame(3, 0)
    dataset.waveform(3, 0, 16000)
    assert dataset.bytes_read == frame + 2 * 16000
    text = engine.dry_run(load_recipe("tiny", SMALL), data=data, device="cpu")
    assert " kB read for a sample, " in text


def test_sizes_in_words() -> None:
    assert [in_bytes(size) for size in (12, 1234, 5.6e7, 2e9, 3e12)] == [
        "12 bytes", "1.23 kB", "56 MB", "2 GB", "3 TB",
    ]  # fmt: skip
