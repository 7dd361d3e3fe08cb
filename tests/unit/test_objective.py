"""Pretraining by contrast, alone or beside reconstruction: what is compared, within which batch, what is left out."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from avtool import engine
from avtool.config.recipes import load_recipe
from avtool.data.prepare import prepare
from avtool.errors import RecipeError, UsageError
from avtool.losses import contrastive_loss
from avtool.replicas import Replicas
from avtool.tasks.pretrain.train import Pretraining
from avtool.tracking import read_metrics
from tests.unit.test_dry_run import SMALL

SIZES = ("train.batch_size=8", "train.accumulate=1", "model.image_size=[32,32]", "model.audio_size=[32,64]")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifteen rendered clips, of which three are held out."""
    return prepare("synth", out=tmp_path_factory.mktemp("data") / "synth", clips=15).out


def task_of(objective: str, *settings: str) -> Pretraining:
    return Pretraining(load_recipe("tiny", [*SMALL, *SIZES, f"pretrain.objective={objective}", *settings]))


def batch_of(task: Pretraining, count: int = 8) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randint(0, 255, (count, 3, 32, 32), dtype=torch.uint8, generator=generator),
        "waveform": torch.randint(
            -9999, 9999, (count, task.config.window), dtype=torch.int16, generator=generator
        ),
        "gain_db": torch.zeros(count),
        "index": torch.arange(count),
        "epoch": torch.zeros(count, dtype=torch.int64),
    }


def test_both_adds_the_weighted_contrast_of_the_same_visible_patches() -> None:
    task = task_of("both", "pretrain.contrast_weight=0.5", "pretrain.temperature=0.2")
    batch = batch_of(task)
    with torch.no_grad():
        found, masked = task(batch), task_of("masked")(batch)
        parts = task.reconstruct(batch)
        frames, sounds = task.apart(*task.inputs(batch), *(part.mask.keep for part in parts))
        contrast = contrastive_loss(frames @ sounds.t(), temperature=0.2)["loss"]
    assert {*masked} == {"loss", "image", "audio"} and {*found} == {*masked, "contrast"}
    assert found["contrast"].item() == pytest.approx(contrast.item(), rel=1e-6)
    assert found["loss"].item() == pytest.approx(masked["loss"].item() + 0.5 * contrast.item(), rel=1e-6)
    alone = task_of("contrastive", "pretrain.temperature=0.2")(batch)
    assert {*alone} == {"loss", "contrast"} and alone["loss"].item() == pytest.approx(
        contrast.item(), rel=1e-6
    )


def test_nothing_of_a_sound_is_in_a_frame_that_it_is_compared_with() -> None:
    task = task_of("both").eval()
    image, audio = task.inputs(batch_of(task))
    with torch.no_grad():
        frames, sounds = task.apart(image, audio)
        assert torch.equal(frames, task.apart(image, audio.flip(0))[0])
        assert torch.equal(sounds, task.apart(image.flip(0), audio)[1])
        assert not torch.equal(sounds, task.apart(image, audio.flip(0))[1])
    assert torch.allclose(frames.norm(dim=1), torch.ones(8)) and torch.allclose(
        sounds.norm(dim=1), torch.ones(8)
    )


def test_clips_are_compared_with_their_own_batch_in_one_pass_and_over_replicas() -> None:
    task = task_of("both", "train.batch_size=4")
    batch = batch_of(task)
    halves = [{name: value[part] for name, value in batch.items()} for part in (slice(4), slice(4, 8))]
    with torch.no_grad():
        of_halves = [task(half)["contrast"].item() for half in halves]
        assert task(batch)["contrast"].item() == pytest.approx(sum(of_halves) / 2, rel=1e-5)
        assert Replicas(task, 2)(halves[0])["contrast"].item() == pytest.approx(of_halves[0], rel=1e-5)


def test_a_contrast_finds_the_sound_of_a_frame() -> None:
    task = task_of("contrastive")
    batch = batch_of(task)
    optimizer = torch.optim.AdamW(task.model.encoder.parameters(), lr=2e-3)
    for _ in range(40):
        loss = task(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * math.log(8)
    assert all(parameter.grad is None for parameter in task.model.image_decoder.parameters())
    measured = task.validate(
        lambda: [{**batch, "label": batch["index"]}], lambda: [{**batch, "label": batch["index"]}]
    )
    assert measured["recall"] == 1 and "loss" not in measured  # ten of eight
    assert "recall@10 100.0% (by lot 100.0%)" in task.summarize(measured)


def test_runs_log_the_contrast_and_draw_what_is_reconstructed(tmp_path: Path, data: Path) -> None:
    for objective, drawn in (("both", True), ("contrastive", False)):
        out = tmp_path / objective
        recipe = load_recipe(
            "tiny", [*SMALL, f"pretrain.objective={objective}", "max_steps=2", "train.log_every=1"]
        )
        engine.train(recipe, data=data, out=out)
        rows = read_metrics(out)
        assert any("contrast" in row for row in rows) and any("held_out_recall" in row for row in rows)
        assert (out / "reconstructions.png").exists() == drawn
        assert any("held_out_loss" in row for row in rows) == drawn


def test_what_cannot_be_contrasted_is_refused(tmp_path: Path, data: Path) -> None:
    alone = load_recipe("tiny", [*SMALL, "pretrain.objective=both", "train.batch_size=1"])
    with pytest.raises(UsageError, match=r"train\.batch_size is 1"):
        engine.train(alone, data=data, out=tmp_path / "out")
    with pytest.raises(RecipeError, match="this recipe is of task localize"):
        load_recipe("tiny-localize", ["pretrain.objective=both"])
