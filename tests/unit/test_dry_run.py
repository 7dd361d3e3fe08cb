"""What is said of a run before it starts: its memory beside what a real step takes, its length, the bytes it reads."""

from __future__ import annotations

import csv
import re
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
from avtool.distributed import World, share_batch_norm
from avtool.engine import dry
from avtool.engine.cost import MIDDLE
from avtool.engine.dry import CountingDataset, Memory, memory_of_step
from avtool.engine.loop import FiniteCheck, Meter, train_step
from avtool.errors import in_bytes
from avtool.places import checkpoints_of
from avtool.replicas import Batch, batch_norms, in_parallel
from avtool.speed import count_flops, figure, flop_of_sample, in_hours
from avtool.tracking import read_metrics
from avtool.weight_files import read_safetensors

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
LOCALIZE = ("init.model=none", "data.validation=0", "localize.clusters={count: 2, share: 0.2}")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avtool.speed.PRODUCT_SIDE", 64)
    monkeypatch.setattr(dry, "TIMED", 3)


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
        ("tiny", ["model.fusion.kind=bilinear"]),
        ("tiny", ["train.precision=bf16"]),
        ("tiny", ["train.accumulate=4", "train.batch_size=2"]),
        ("tiny-classify", CLASSIFY),
    ],
    ids=["token", "dense", "factorized", "bilinear", "bf16", "accumulated", "classify"],
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


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_real_steps_are_timed_and_leave_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    speeds, timed_steps = [], dry.timed_steps
    monkeypatch.setattr(dry, "timed_steps", lambda run: speeds.append(timed_steps(run)) or speeds[0])
    before = files(data)
    recipe = load_recipe("tiny", [*SMALL, "train.accumulate=2", "data.workers=1", "init.image=nofile.pth"])
    text = engine.dry_run(recipe, data=data, device="cpu").partition("time of a step ")[2]
    assert text.startswith("(3 steps timed after 2 of warm-up, cpu, float32, one process)\n")
    number = r"([\d.,e+-]+)"
    pace = re.search(rf"samples/s +{number} \(\d+% of the time spent waiting for data; up to 4 batches", text)
    flop, share = (
        re.search(rf"GFLOP a sample +{number}\n", text),
        re.search(rf"share +\d+% of {number} GF", text),
    )
    assert pace and flop and share and all(float(found[1]) > 0 for found in (pace, flop, share))
    left = re.search(r"to the end +(.+), without measuring held-out clips", text)
    assert left and left[1] == in_hours(96 / speeds[0][1]["samples_per_second"])
    assert files(data) == before and not files(tmp_path)


def test_no_further_step_is_timed_once_patience_is_over(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry, "PATIENCE", 1e-9)
    monkeypatch.setattr(dry, "product_rate", lambda *args: 1e30)
    text = engine.dry_run(load_recipe("tiny", SMALL), data=data, device="cpu")
    assert "(1 steps timed after 2 of warm-up" in text


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PATIENCE", 0.0, "(not measured, it takes "),
        ("free_memory", lambda device: 1000, "(not measured, 1 kB of memory are free; "),
    ],
)
def test_a_step_too_long_or_too_large_is_not_made(
    name: str, value: object, said: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry, name, value)
    monkeypatch.setattr(dry, "product_rate", lambda *args: 1e6)
    monkeypatch.setattr(dry, "PATIENCE", 0.0 if name == "PATIENCE" else 1e9)
    monkeypatch.setattr(dry, "timed_steps", pytest.fail)
    recipe = load_recipe("tiny", SMALL)
    text = engine.dry_run(recipe, data=data, device="cpu").partition("time of a step ")[2]
    flop = new_run(recipe, data).flop_of_sample
    assert flop and text.startswith(said) and "samples/s" not in text
    assert f"{in_hours(48 * flop / 1e6)} or more, without measuring held-out clips" in text


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tiny", ["model.fusion.kind=dense", "train.activation_checkpointing=true"]),
        ("tiny-classify", [*CLASSIFY, "train.drop_path=0.5", "train.precision=bf16"]),
        ("tiny-probe", ["init.model=none", "data.validation=0"]),
        ("tiny", ["optim.name=muon", "train.accumulate=2"]),
        ("tiny-localize", LOCALIZE),
    ],
)
def test_arithmetic_of_a_sample_is_that_of_a_step_and_leaves_all_as_it_is(
    name: str, settings: list[str], data: Path
) -> None:
    run = new_run(load_recipe(name, [*SMALL, *settings]), data)
    before = {key: value.clone() for key, value in run.task.state_dict().items()}
    drawn = torch.get_rng_state()
    flop = run.flop_of_sample
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, before[key]) for key, value in run.task.state_dict().items())
    assert all(parameter.grad is None for parameter in run.task.parameters())
    assert run.task.training and run.task.progress == 0
    run.task.progress = MIDDLE
    batches, check, meter = run.batches(), FiniteCheck(run), Meter(clips_per_step=8)
    counted = count_flops(lambda: train_step(run, run.task, batches, check=check, meter=meter))
    exact = 2e-3 if name == "tiny-localize" else 1e-9  # of two samples, each is compared with one other
    assert flop > 0 and flop == pytest.approx(counted / (8 * run.recipe.train.accumulate), rel=exact)


def test_every_process_makes_the_optimizers_products(data: Path) -> None:
    found = {}
    for name, processes in (("adamw", 1), ("muon", 1), ("muon", 2)):
        run = new_run(load_recipe("tiny", [*SMALL, f"optim.name={name}"]), data)
        run.world = World(0, processes)
        found[name, processes] = run.flop_of_sample
    once, twice = (found["muon", processes] - found["adamw", 1] for processes in (1, 2))
    assert twice == pytest.approx(2 * once) and once > 0


def test_shared_batch_norm_is_counted_without_the_others(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run(load_recipe("tiny-probe", [*SMALL, "init.model=none", "data.validation=0"]), data)
    alone = run.flop_of_sample
    share_batch_norm(run.task, World(0, 2), torch.device("cuda"))
    run.task.train()
    del run.flop_of_sample
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(ValueError, match="process group"):
        run.task(next(run.batches()))  # where it would ask them
    assert run.flop_of_sample == alone
    assert batch_norms(run.task) and all(part.training for part in batch_norms(run.task))


def test_memory_and_time_are_those_of_the_middle_of_a_run(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, float]] = []
    for name in ("memory_of_step", "train_step"):
        real = getattr(dry, name)
        monkeypatch.setattr(
            dry,
            name,
            lambda *args, _name=name, _real=real, **how: (
                seen.append((_name, getattr(args[0], "task", args[0]).progress)) or _real(*args, **how)
            ),
        )
    engine.dry_run(load_recipe("tiny-localize", [*SMALL, *LOCALIZE]), data=data, device="cpu")
    assert set(seen) == {("memory_of_step", MIDDLE), ("train_step", MIDDLE)}


class Drawing(torch.nn.Linear):
    """A task that draws from torch's own generator."""

    def forward(self, batch: Batch) -> Batch:
        return {"loss": super().forward(batch["x"] + torch.rand(5, 3)).sum()}


def test_what_a_task_draws_is_not_drawn_from_the_run() -> None:
    drawn = torch.get_rng_state()
    task, batch = Drawing(3, 2), {"x": torch.zeros(5, 3), "index": torch.arange(5)}
    torch.set_rng_state(drawn)
    flop, moved = flop_of_sample(task, batch, device=CPU, precision=torch.float32)
    assert flop == 2 * 2 * 3 * 2  # forward and the gradient of the weights; the input wants none
    assert [id(value) for value in moved] == [id(value) for value in task.parameters()]
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_run_says_its_speed_and_counting_changes_no_bit(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (*SMALL, *CLASSIFY, "train.drop_path=0.5", "train.log_every=3")
    recipe = load_recipe("tiny-classify", settings)
    weights = []
    for counted in (True, False):
        if not counted:
            monkeypatch.setattr(engine.Run, "flop_of_sample", 0.0)
        torch.manual_seed(1)
        out = engine.train(recipe, data=data, out=tmp_path / str(counted), device="cpu", allow_random=True)
        weights.append(read_safetensors(checkpoints_of(out)[-1] / "model.safetensors"))
        rows = [row for row in read_metrics(out) if "loss" in row]
        last = capsys.readouterr().err.splitlines()[-1]
        pace = 48 / rows[-1]["seconds"]
        assert last.startswith(f"6 steps done: {figure(pace)} samples/s, ")
        assert last.endswith(f", {in_hours(rows[-1]['seconds'])} without measuring held-out clips")
        assert all((row["gflop_per_sample"] > 0) == counted for row in rows) and len(rows) == 2
        assert f", {figure(rows[0]['gflop_per_sample'])} GFLOP a sample, " in last
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


def test_times_in_words() -> None:
    assert [in_hours(seconds) for seconds in (0.5, 90, 3600, 4.5e6)] == [
        "0.5 s", "1.5 minutes", "1 hours", "1,250 hours",
    ]  # fmt: skip
