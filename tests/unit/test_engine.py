"""Training: what a run leaves, that it resumes to the bit, and what stops it."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
import torch

from avtool import engine
from avtool.config.recipes import load_recipe
from avtool.data.dataset import PreparedDataset
from avtool.data.prepare import prepare
from avtool.engine import dry, loop
from avtool.engine import run as engine_run
from avtool.errors import CheckpointError, DataError, TrainingError, UsageError
from avtool.model.encoder import encoder_of
from avtool.places import checkpoints_of
from avtool.replicas import replicas_for
from avtool.tasks.pretrain.train import Pretraining
from avtool.tracking import read_metrics
from avtool.weight_files import read_safetensors

SMALL = (
    "max_steps=6",
    "train.batch_size=4",
    "train.accumulate=1",
    "train.log_every=1",
    "train.precision=float32",
    "model.image_size=[32,32]",
    "model.audio_size=[32,64]",
    "model.dim=24",
    "model.depth=2",
    "model.decoder={dim: 16, depth: 1, heads: 2}",
    "data.workers=0",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten photographs with sounds, of two classes; two of them are held out."""
    folder = tmp_path_factory.mktemp("source")
    generator = np.random.default_rng(0)
    rows = []
    for number in range(10):
        cv2.imwrite(str(folder / f"{number}.png"), generator.integers(0, 255, (40, 48, 3), np.uint8))
        soundfile.write(folder / f"{number}.wav", generator.normal(0, 0.1, 24000), 16000)
        split = "test" if number >= 8 else "train"
        rows.append((f"clip{number}", split, "ab"[number % 2], f"{number}.png", f"{number}.wav"))
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "split", "label", "image", "audio"), *rows])
    return prepare("manifest", folder / "table.csv", out=folder / "prepared").out


def strictly_read(log: Path) -> list[dict]:
    """The rows, by a reader that takes JSON alone."""
    return [json.loads(line, parse_constant=pytest.fail) for line in log.read_text().splitlines()]


def run(data: Path, out: Path, *overrides: str, **options) -> Path:
    recipe = load_recipe("tiny", [*SMALL, *overrides])
    return engine.train(recipe, data=data, out=out, device="cpu", **options)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_safetensors(checkpoints_of(folder)[-1] / "model.safetensors")


def test_a_run_says_what_made_it_and_measures_held_out_clips(data: Path, tmp_path: Path) -> None:
    out = run(data, tmp_path / "run", command=["avtool", "pretrain"])
    assert {path.name for path in out.iterdir()} == {
        "recipe.yaml",
        "run.json",
        "metrics.jsonl",
        "reconstructions.png",
        "checkpoints",
    }
    assert load_recipe(str(out / "recipe.yaml")).model_dump() == load_recipe("tiny", SMALL).model_dump()
    (checkpoint,) = checkpoints_of(out)
    assert checkpoint.name == "step-00000006"
    assert {path.name for path in checkpoint.iterdir()} == {"model.safetensors", "config.json", "trainer.pt"}
    rows = read_metrics(out)
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5, 6, 6]
    assert all(row["loss"] == pytest.approx(row["image"] + row["audio"], rel=1e-6) for row in rows[1:-1])
    assert rows[1]["lr"] == pytest.approx(4e-3 * 4 / 256)  # one step of warm-up: 0.2 of 6
    first, last = rows[0], rows[-1]
    assert first["held_out_clips"] == 2
    assert last["held_out_loss"] < first["held_out_loss"]
    assert {"held_out_knn_image", "held_out_knn_fusion", "held_out_knn_floor"} <= set(last)


@pytest.mark.parametrize(
    "kind",
    ["model.fusion.kind=token", "model.fusion.kind=dense", "model.fusion.kind=factorized", "optim.name=muon"],
)
def test_three_steps_and_three_more_are_six(data: Path, tmp_path: Path, kind: str) -> None:
    whole = run(data, tmp_path / "whole", kind)
    parts = run(data, tmp_path / "parts", kind, stop_after=3)
    assert checkpoints_of(parts)[-1].name == "step-00000003"
    run(data, parts, kind, resume=True)
    assert all(torch.equal(value, weights(parts)[name]) for name, value in weights(whole).items())
    losses = [[row.get("loss") for row in read_metrics(folder)] for folder in (whole, parts)]
    assert losses[0][1:7] == [loss for loss in losses[1] if loss is not None]


def test_accumulated_batches_are_one_large_batch(data: Path, tmp_path: Path) -> None:
    large = run(data, tmp_path / "large", "train.batch_size=8", "max_steps=1")
    small = run(data, tmp_path / "small", "train.batch_size=4", "train.accumulate=2", "max_steps=1")
    assert read_metrics(small)[1]["loss"] == pytest.approx(read_metrics(large)[1]["loss"], rel=1e-5)


def test_small_batches_of_a_step_are_merged_on_a_cpu(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged = run(data, tmp_path / "merged", "train.accumulate=4")
    monkeypatch.setattr(engine_run, "MERGED_WORK", 0)
    alone = run(data, tmp_path / "alone", "train.accumulate=4")
    losses = [[row["loss"] for row in read_metrics(out)[1:7]] for out in (merged, alone)]
    # Later steps part: AdamW makes full steps of gradients that are nothing but rounding.
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5)
    assert losses[0][1] == pytest.approx(losses[1][1], rel=1e-3)
    recipe = load_recipe("tiny", [*SMALL, "train.accumulate=6"])
    dataset = engine.PreparedDataset(data, "train")
    monkeypatch.setattr(engine_run, "MERGED_WORK", 4 * 24 * 2 * 5)
    assert engine.Run(recipe, dataset, folder=tmp_path, device=torch.device("cpu")).schedule.merged == 3


@pytest.mark.proof
def test_a_compiled_run_has_the_losses_of_a_plain_one(data: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # of which a plain run makes two replicas
    options = ("train.batch_size=8", "train.accumulate=2", "model.fusion.kind=dense", "max_steps=2")
    try:
        losses = [
            [
                row["loss"]
                for row in read_metrics(run(data, tmp_path / switch, *options, f"train.compile={switch}"))[
                    1:3
                ]
            ]
            for switch in ("false", "true")
        ]
    finally:
        torch.set_num_threads(threads)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_two_switches_of_a_recipe_reach_the_model(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    monkeypatch.setattr(engine_run, "compile_blocks", compiled.append)
    recipe = load_recipe("tiny", [*SMALL, "train.activation_checkpointing=true", "train.compile=true"])
    dataset = engine.PreparedDataset(data, "train")
    made = engine.Run(recipe, dataset, folder=tmp_path, device=torch.device("cpu"))
    assert compiled == [made.task.model] and made.replicas == 1
    assert made.task.model.encoder.activation_checkpointing
    assert "activation_checkpointing" not in made.task.config.settings


def test_replicas_need_clips_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    cpu = torch.device("cpu")
    plain = torch.nn.Linear(2, 2)
    assert [replicas_for(plain, size, cpu) for size in (2, 15, 16, 17, 64)] == [1, 1, 2, 1, 2]
    assert replicas_for(plain, 64, torch.device("cuda")) == 1
    assert replicas_for(torch.nn.BatchNorm1d(2), 64, cpu) == 1
    assert [replicas_for(plain, 64, cpu, **one) for one in ({"compiled": True}, {"processes": 2})] == [1, 1]


def test_seeds_and_resumes_draw_what_they_should(data: Path, tmp_path: Path) -> None:
    first = read_metrics(run(data, tmp_path / "a", "max_steps=2"))
    again = read_metrics(run(data, tmp_path / "b", "max_steps=2"))
    other = read_metrics(run(data, tmp_path / "c", "max_steps=2", "seed=1"))
    assert first[1]["loss"] == again[1]["loss"] != other[1]["loss"]


def test_resume_refuses_another_recipe_and_names_the_difference(data: Path, tmp_path: Path) -> None:
    out = run(data, tmp_path / "run", stop_after=2)
    with pytest.raises(UsageError, match=r"optim.base_lr was 0.004, is now 0.001"):
        run(data, out, "optim.base_lr=1e-3", resume=True)
    run(data, out, "optim.base_lr=1e-3", resume=True, force=True)
    assert checkpoints_of(out)[-1].name == "step-00000006"


def test_resume_names_a_checkpoint_of_another_optimizer(data: Path, tmp_path: Path) -> None:
    out = run(data, tmp_path / "run", stop_after=2)
    with pytest.raises(CheckpointError, match="step-00000002 holds the state of another optimizer") as raised:
        run(data, out, "optim.name=muon", resume=True, force=True)
    assert "optim.name" in raised.value.hint
    assert [path.name for path in checkpoints_of(out)] == ["step-00000002"]


def test_resume_refuses_other_data(data: Path, tmp_path: Path) -> None:
    table = (data.parent / "table.csv").read_text().replace("clip0", "other")
    (data.parent / "other.csv").write_text(table)
    other = prepare("manifest", data.parent / "other.csv", out=tmp_path / "other").out
    out = run(data, tmp_path / "run", stop_after=2)
    with pytest.raises(UsageError, match=f"was trained on other data, those in {data}, than {other}"):
        run(other, out, resume=True)
    moved = shutil.copytree(data, tmp_path / "moved")
    run(moved, out, resume=True, stop_after=3)
    run(other, out, resume=True, force=True)
    assert checkpoints_of(out)[-1].name == "step-00000006"


def test_resume_without_a_checkpoint_starts_afresh_and_says_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run" / "checkpoints" / ".step-00000003.partial-1").mkdir(parents=True)
    with pytest.raises(UsageError, match="not what avtool wrote"):
        run(data, tmp_path / "run", resume=True)
    (tmp_path / "run" / "run.json").write_text("{}")
    out = run(data, tmp_path / "run", resume=True)
    assert "no whole checkpoint" in capsys.readouterr().err
    assert [path.name for path in checkpoints_of(out)] == ["step-00000006"]


def test_resume_goes_back_to_the_newest_checkpoint_that_is_whole(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(data, tmp_path / "whole")
    out = run(data, tmp_path / "run", "train.save_every=1", "train.keep=3", stop_after=4)
    newest, before = checkpoints_of(out)[-1:-3:-1]
    (newest / "trainer.pt").write_bytes((newest / "trainer.pt").read_bytes()[:1000])
    (before / "model.safetensors").write_bytes(b"")
    run(data, out, "train.save_every=1", "train.keep=3", resume=True)
    said = capsys.readouterr().err
    assert "step-00000004 is damaged" in said and "step-00000003 is damaged" in said
    assert all(torch.equal(value, weights(out)[name]) for name, value in weights(whole).items())


def test_a_finished_run_is_left_as_it_is(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(data, tmp_path / "run", command=["first"])
    before = (out / "run.json").read_bytes()
    run(data, out, command=["second"], resume=True)
    assert "is finished: 6 of 6 steps" in capsys.readouterr().err
    assert (out / "run.json").read_bytes() == before


def test_force_replaces_a_run_and_never_a_folder_of_ones_own(data: Path, tmp_path: Path) -> None:
    out = run(data, tmp_path / "run")
    run(data, out, force=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("kept")
    for folder in (tmp_path / "mine", data):
        with pytest.raises(UsageError, match="not even with --force"):
            run(data, folder, force=True)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "kept"
    assert (data / "dataset.json").is_file()


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_data_is_one_clear_error_whoever_meets_it(data: Path, tmp_path: Path, workers: int) -> None:
    broken = shutil.copytree(data, tmp_path / "broken")
    for shard in (broken / "shards").iterdir():
        shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(DataError) as caught:
        run(broken, tmp_path / "run", f"data.workers={workers}", "data.split=all")
    assert "cut short" in caught.value.message and "Traceback" not in caught.value.message
    assert caught.value.hint


def test_only_the_newest_checkpoints_are_kept(data: Path, tmp_path: Path) -> None:
    out = run(data, tmp_path / "run", "train.save_every=1", "train.keep=2")
    assert [path.name for path in checkpoints_of(out)] == ["step-00000005", "step-00000006"]


def test_a_disk_without_room_for_a_checkpoint_is_said_before_the_first_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = run(data, tmp_path / "run", "max_steps=1")
    (checkpoint,) = checkpoints_of(out)
    size = sum((checkpoint / name).stat().st_size for name in ("model.safetensors", "trainer.pt"))
    free = shutil.disk_usage(tmp_path)._replace(free=round(0.6 * size))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(CheckpointError, match=r"a checkpoint takes [\d.]+ MB, [\d.]+ \w+ are free"):
        run(data, tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()
    free = free._replace(free=round(1.1 * size))
    run(data, tmp_path / "new" / "run", "max_steps=1")


def test_every_so_many_steps_a_checkpoint_is_kept_for_good(data: Path, tmp_path: Path) -> None:
    out = run(data, tmp_path / "run", "train.save_every=1", "train.keep=1", "train.keep_every=2")
    assert [path.name for path in checkpoints_of(out)] == ["step-00000002", "step-00000004", "step-00000006"]


@pytest.mark.parametrize("fusion", ["token", "dense", "factorized", "bilinear"])
def test_half_precision_has_the_losses_of_full_and_resumes_with_its_scale(
    data: Path, tmp_path: Path, fusion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, half, norms = f"model.fusion.kind={fusion}", "train.precision=fp16", []
    norm_of = torch.nn.utils.get_total_norm

    def noted(gradients):
        norms.append(norm_of(gradients).item())
        return norm_of(gradients)

    monkeypatch.setattr(torch.nn.utils, "get_total_norm", noted)
    whole = run(data, tmp_path / "whole", kind, half)
    rows = [read_metrics(out)[1:7] for out in (whole, run(data, tmp_path / "full", kind))]
    assert norms[:6] == pytest.approx(norms[6:], rel=0.05)
    assert [row["loss"] for row in rows[0]] == pytest.approx([row["loss"] for row in rows[1]], rel=1e-2)
    assert {row["loss_scale"] for row in rows[0]} == {2.0**16}
    parts = run(data, tmp_path / "parts", kind, half, stop_after=3)
    run(data, parts, kind, half, resume=True)
    assert all(torch.equal(value, weights(parts)[name]) for name, value in weights(whole).items())


def test_a_gradient_too_large_for_half_precision_is_scaled_less(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bursting(torch.autograd.Function):
        """The identity, whose gradient leaves fp16 while the loss is scaled by more than 2^14."""

        @staticmethod
        def forward(context, loss):  # type: ignore[override]
            return loss.clone()

        @staticmethod
        def backward(context, gradient):  # type: ignore[override]
            return gradient * (torch.inf if gradient > limit else 1)

    plain = Pretraining.forward
    monkeypatch.setattr(
        Pretraining,
        "forward",
        lambda self, batch: {name: Bursting.apply(value) for name, value in plain(self, batch).items()},
    )
    limit = 2.0**14
    rows = read_metrics(run(data, tmp_path / "run", "train.precision=fp16"))[1:7]
    assert [row["loss_scale"] for row in rows] == [2.0**15, *[2.0**14] * 5]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=0.2)
    limit = 0
    with pytest.raises(TrainingError, match="step 17: the gradient is not finite"):
        run(data, tmp_path / "hopeless", "train.precision=fp16", "max_steps=20")


def test_a_loss_that_is_not_finite_stops_before_the_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Pretraining.forward

    def poisoned(self, batch):
        parts = forward(self, batch)
        spoilt = {name: parts[name] * float("nan") for name in ("loss", "audio")}
        return {**parts, **spoilt} if batch["epoch"][0] == 1 else parts

    monkeypatch.setattr(Pretraining, "forward", poisoned)
    said = r"step 3: (loss and audio loss|audio loss and loss) are not finite; the batch's clips: clip\d"
    with pytest.raises(TrainingError, match=said):
        run(data, tmp_path / "run", "train.save_every=1")
    (*_, last) = checkpoints_of(tmp_path / "run")
    assert last.name == "step-00000002"
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


@pytest.mark.parametrize(
    "recipe", ["tiny", "tiny-classify", "tiny-localize", "tiny-separate", "tiny-segment"]
)
def test_a_model_that_diverged_is_told_where_it_is_measured(
    recipe: str, synth: Callable[[int], Path], tmp_path: Path
) -> None:
    settings = ["data.workers=0", "train.batch_size=4", "train.eval_clips=8", "data.validation=0.4"]
    settings += ["train.precision=float32"]  # auto is bf16 on some CPUs
    dataset = PreparedDataset(synth(40), "all")
    diverged = engine_run.Run(
        load_recipe(recipe, settings), dataset, folder=tmp_path / "run", device=torch.device("cpu")
    )
    with torch.no_grad():
        for weight in encoder_of(diverged.task.model).parameters():
            weight.mul_(1e30)
    with pytest.raises(TrainingError, match=r"step 0: on held-out clips .* (not finite|NaN)") as caught:
        diverged.evaluate()
    assert caught.value.hint == "lower optim.base_lr, set optim.clip_grad"


@pytest.mark.parametrize("optimizer", ["adamw", "lars", "muon"])
def test_where_reading_waits_a_step_that_is_not_finite_moves_no_weight_and_is_told_before_anything_is_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    """Steps 3 and 4 are begun before step 3 is looked at, by the checkpoint of step 4 at the latest."""
    forward, plain = Pretraining.forward, loop.train_step
    weights_after = []

    def poisoned(self, batch):
        parts = forward(self, batch)
        return {**parts, "loss": parts["loss"] * float("nan")} if batch["epoch"][0] == 1 else parts

    def noted(run, *args, **options):
        losses = plain(run, *args, **options)
        weights_after.append({name: value.clone() for name, value in run.task.model.state_dict().items()})
        return losses

    monkeypatch.setattr(Pretraining, "forward", poisoned)
    monkeypatch.setattr(loop, "train_step", noted)
    options = ("train.save_every=4", "train.log_every=100", f"optim.name={optimizer}", "max_steps=5")
    with pytest.raises(TrainingError, match=r"step 3: loss is not finite; the batch's clips: clip\d"):
        run(data, tmp_path / "run", *options)
    one, two, three = weights_after
    assert not all(torch.equal(value, two[name]) for name, value in one.items())
    assert all(torch.equal(value, three[name]) for name, value in two.items())
    assert not checkpoints_of(tmp_path / "run")


def test_a_signal_leaves_a_checkpoint_to_go_on_from(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(data, tmp_path / "whole")
    train_step = loop.train_step

    def interrupted(run, *args, **options):
        losses = train_step(run, *args, **options)
        if run.step == 3:
            signal.raise_signal(signal.SIGTERM)
        return losses

    monkeypatch.setattr(loop, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "run")
    assert checkpoints_of(tmp_path / "run")[-1].name == "step-00000004"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    monkeypatch.setattr(loop, "train_step", train_step)
    run(data, tmp_path / "run", resume=True)
    assert all(torch.equal(value, weights(tmp_path / "run")[name]) for name, value in weights(whole).items())


def test_what_does_not_fit_stops_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 8 clips of split train to train on; a batch needs 64"):
        run(data, tmp_path / "run", "train.batch_size=64")
    with pytest.raises(CheckpointError, match=r"init.audio=audiomae-vitb"):
        run(data, tmp_path / "run", "init.audio=audiomae-vitb")
    with pytest.raises(DataError, match=r"of 8000 samples a second, but .* holds sound of 16000") as caught:
        run(data, tmp_path / "run", "spectrogram.sample_rate=8000")
    assert caught.value.hint == "spectrogram.sample_rate=16000"
    with pytest.raises(UsageError, match=r"no such|is not there|device"):
        engine.train(load_recipe("tiny", SMALL), data=data, out=tmp_path / "run", device="cuda:99")
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    with pytest.raises(UsageError, match="exists"):
        run(data, tmp_path / "run")


def test_dry_run_counts_parameters_and_shapes(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry, "PATIENCE", 0.0)  # no full-size step is made
    monkeypatch.setattr("avtool.speed.PRODUCT_SIDE", 64)
    text = engine.dry_run(load_recipe("dense", ["data.split=all", "train.batch_size=2"]), data=data)
    assert "2 x 3 x 224 x 224" in text
    assert "2 x 1 x 128 x 192" in text
    assert "10 clips of" in text
    with pytest.raises(UsageError, match="cuda:99 is not there"):
        engine.dry_run(load_recipe("tiny"), data=data, device="cuda:99")


def test_a_number_that_is_not_finite_is_null_in_the_log_and_named_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward, measure = Pretraining.forward, Pretraining.measure

    def part_lost(self, batch):
        parts = forward(self, batch)
        return {**parts, "audio": parts["audio"] * float("inf")}

    monkeypatch.setattr(Pretraining, "forward", part_lost)
    monkeypatch.setattr(
        Pretraining, "measure", lambda self, *args: {**measure(self, *args), "knn_all": float("nan")}
    )
    rows = strictly_read(run(data, tmp_path / "run", stop_after=4) / "metrics.jsonl")
    assert [row["audio"] for row in rows if "loss" in row] == [None] * 4
    assert all(row["loss"] > 0 for row in rows if "loss" in row)
    assert [row["held_out_knn_all"] for row in rows if "held_out" in row] == [None, None]
    said = capsys.readouterr().err
    assert said.count("no finite value for held_out_knn_all at step 0: null in metrics.jsonl") == 1
    assert said.count("no finite value for audio at step 1: null in metrics.jsonl") == 1
    assert said.count("no finite value") == 2
    rows = strictly_read(run(data, tmp_path / "run", resume=True) / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]


def test_what_was_broken_off_before_its_measures_gets_them(data: Path, tmp_path: Path) -> None:
    whole = run(data, tmp_path / "whole", "train.eval_every=2")
    parts = run(data, tmp_path / "parts", "train.eval_every=2", stop_after=4)
    assert [row["step"] for row in read_metrics(parts) if "held_out" in row] == [0, 2, 4]
    log = parts / "metrics.jsonl"
    forget_measures(log, 4)
    run(data, parts, "train.eval_every=2", resume=True)
    measured = [[row for row in read_metrics(out) if "held_out" in row] for out in (whole, parts)]
    assert [row["step"] for row in measured[1]] == [0, 2, 4, 6]
    assert [row["held_out_loss"] for row in measured[0]] == [row["held_out_loss"] for row in measured[1]]
    forget_measures(log, 6)
    run(data, parts, "train.eval_every=2", resume=True)
    assert "held_out" in read_metrics(parts)[-1]


def forget_measures(log: Path, step: int) -> None:
    lines = log.read_text().splitlines(keepends=True)
    log.write_text(
        "".join(line for line in lines if f'"step": {step},' not in line or "held_out" not in line)
    )
