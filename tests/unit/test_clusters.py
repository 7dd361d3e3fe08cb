"""Localization from clusters of sounds: what is found, what is learned of it and when, and that runs go on with it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
import torch

from avtool.config.recipes import load_recipe
from avtool.data.dataset import PreparedDataset
from avtool.data.loader import batches_in_training
from avtool.data.prepare import prepare
from avtool.engine import train
from avtool.errors import DataError, RecipeError
from avtool.features import inputs_of
from avtool.losses import contrastive_loss
from avtool.replicas import Replicas
from avtool.tasks.localize.clusters import SoundClusters, describe, k_means, purity
from avtool.tasks.localize.train import HEARD, Localization
from avtool.tracking import read_metrics
from avtool.weight_files import read_safetensors

SMALL = (
    "train.batch_size=4", "train.accumulate=1", "train.log_every=1", "train.eval_clips=0", "data.validation=0",
    "model.image_size=[32,32]", "model.audio_size=[32,64]", "model.dim=24", "model.depth=2", "localize.width=8",
    "init.model=none", "max_steps=6", "data.workers=0", "localize.clusters=null", "train.keep_patches=1",
    "localize.blank_share=1", "localize.negatives=0",
)  # fmt: skip
ON = ("localize.clusters.count=3", "localize.clusters.share=0.5")
KINDS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photographs with sounds of three kinds, loud and soft: low notes, high notes, bursts of noise."""
    source = tmp_path_factory.mktemp("source")
    generator = np.random.default_rng(0)
    time = np.arange(24000) / 16000
    rows = []
    for number in range(12):
        kind = number % KINDS
        noise = generator.normal(0, 1, len(time))
        note = (300 if kind == 0 else 4000) * generator.uniform(0.95, 1.05)
        sound = (
            noise * (np.sin(20 * time) > 0) if kind == 2 else np.sin(2 * np.pi * note * time) + 0.01 * noise
        )
        sound = sound / np.abs(sound).max() * generator.choice([0.05, 0.9])
        cv2.imwrite(str(source / f"{number}.png"), generator.integers(0, 255, (40, 48, 3), np.uint8))
        soundfile.write(source / f"{number}.wav", sound, 16000)
        rows.append((f"clip{number}", "train", "abc"[kind], f"{number}.png", f"{number}.wav"))
    with (source / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "split", "label", "image", "audio"), *rows])
    return prepare("manifest", source / "table.csv", out=source / "prepared").out


@pytest.fixture(scope="module")
def dataset(folder: Path) -> PreparedDataset:
    return PreparedDataset(folder)


def task_of(dataset: PreparedDataset, *settings: str) -> tuple[Localization, dict]:
    """A task that has looked at its clips, and what it found."""
    recipe = load_recipe("tiny-localize", [*SMALL, *settings])
    task = Localization(recipe, dataset, np.arange(len(dataset)))
    return task, task.look_at_clips(recipe, dataset, np.arange(len(dataset)))


def batch_of(task: Localization, dataset: PreparedDataset, size: int = 4) -> dict[str, torch.Tensor]:
    recipe = load_recipe("tiny-localize", SMALL)
    views = task.training_views(recipe, dataset, np.arange(len(dataset)))
    return next(batches_in_training(views, np.arange(len(dataset)), batch_size=size, workers=0, seed=0))


def test_sounds_of_a_kind_are_a_cluster_however_loud_and_a_training_window_falls_into_it(dataset) -> None:
    task, facts = task_of(dataset, *ON)
    found = facts["clusters"]
    assert found["clips"] == found["labelled"] == 12 and found["purity"] == 1 and found["floor"] < 0.8
    batch = batch_of(task, dataset, size=12)
    _, audio = inputs_of(task.log_mel, batch)
    clusters = task.clusters.clusters_of(describe(audio)).numpy()
    assert purity(clusters, batch["label"].numpy()) == 1
    vectors = task.clusters(audio)
    assert torch.allclose(task.clusters.vectors @ task.clusters.vectors.t(), torch.eye(3), atol=1e-5)
    assert torch.equal(vectors, task.clusters.vectors[torch.from_numpy(clusters)])


def test_what_is_found_is_the_same_every_time_and_another_with_another_seed(dataset) -> None:
    (one, _), (two, _), (other, _) = (task_of(dataset, *ON, f"seed={seed}") for seed in (0, 0, 1))
    assert list(one.own_state()) == [f"clusters.{name}" for name in ("mean", "scale", "centroids", "vectors")]
    assert all(torch.equal(value, two.own_state()[name]) for name, value in one.own_state().items())
    assert not torch.equal(one.clusters.vectors, other.clusters.vectors)


def test_k_means_finds_what_lies_together_and_bears_points_that_are_all_one() -> None:
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    points = centres.repeat(25, 1) + 0.1 * torch.randn(100, 2, generator=torch.Generator().manual_seed(1))
    found = k_means(points, 4, seed=0)
    assert torch.cdist(centres, found).amin(dim=1).max() < 0.1
    assert torch.equal(found, k_means(points, 4, seed=0))
    assert torch.equal(k_means(torch.ones(5, 2), 3, seed=0), torch.ones(3, 2))


def test_purity_is_the_share_of_the_most_common_label_and_unknown_without_labels() -> None:
    assert purity(np.array([0, 0, 0, 2, 2]), np.array([1, 1, 0, 3, 3])) == 0.8
    clusters = SoundClusters(count=2, features=3, width=4)
    described = torch.tensor([[0.0, 0, 0], [0, 0, 1], [9, 9, 9], [9, 9, 8]])
    found = clusters.find(described, np.array([-1, -1, -1, -1]), seed=0)
    assert (
        found.purity is None and found.labelled == 0 and str(found) == "2 clusters of the sounds of 4 clips"
    )
    found = clusters.find(described, np.array([0, 0, 1, -1]), seed=0)
    assert (found.purity, found.labelled) == (1.0, 3)
    assert "of 3 with a single label 100.0%" in str(found)


def test_frames_learn_from_clusters_first_and_sounds_to_give_them_then_both_by_contrast(dataset) -> None:
    task, _ = task_of(dataset, *ON)
    batch = batch_of(task, dataset)
    image, audio = inputs_of(task.log_mel, batch)
    with torch.no_grad():
        patches, sounds = task.model.patches(image, audio), task.model.sounds(image, audio)
    given = task.clusters(audio)

    def expected(of: torch.Tensor) -> dict[str, torch.Tensor]:
        return contrastive_loss(task.scores(patches, of), temperature=task.options.temperature)

    first = task(batch)
    away = 1 - (sounds * given)[::HEARD].sum(dim=1).mean()
    assert list(first) == ["loss", "image", "audio", "clusters"]
    assert torch.allclose(first["clusters"], away) and torch.allclose(
        first["loss"], expected(given)["loss"] + away
    )
    for progress, switched in ((0.49, False), (0.5, True)):
        task.progress = progress
        assert ("clusters" not in task(batch)) == switched
    assert torch.allclose(task(batch)["loss"], expected(sounds)["loss"])
    # while they are fixed, the contrast teaches sounds nothing
    task.progress = 0.0
    (task(batch)["loss"] - task(batch)["clusters"]).backward()
    assert torch.count_nonzero(task.model.audio_projection.weight.grad) == 0
    assert torch.count_nonzero(task.model.image_projection.weight.grad) > 0


def test_silence_and_noise_are_of_no_cluster(dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    task, _ = task_of(dataset, *ON, "localize.negatives=0.5")
    batch = batch_of(task, dataset)
    belongs, given, scored = (
        torch.tensor([True, False, True, False]),
        task.clusters(inputs_of(task.log_mel, batch)[1]),
        [],
    )
    scores = task.scores
    monkeypatch.setattr(
        task, "scores", lambda patches, sounds: scored.append(sounds) or scores(patches, sounds)
    )
    first = task(batch | {"negative": ~belongs})
    assert torch.equal(scored[0], given * belongs[:, None]) and first["loss"].isfinite()
    assert torch.allclose(
        first["clusters"], task(batch | {"negative": torch.zeros(4, dtype=bool)})["clusters"]
    )
    task(batch | {"negative": ~belongs.roll(1)})["clusters"].backward()  # the one that is heard is silent
    assert torch.count_nonzero(task.model.audio_projection.weight.grad) == 0


def test_replicas_have_the_losses_and_gradients_of_one(dataset) -> None:
    task, _ = task_of(dataset, *ON, "train.batch_size=8")
    batch = batch_of(task, dataset, size=8)  # a whole number of HEARD for each

    def learned(model: torch.nn.Module) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        task.zero_grad()
        losses = model(batch)
        losses["loss"].backward()
        return losses, torch.cat([p.grad.flatten() for p in task.parameters() if p.grad is not None])

    (alone, gradient), (shared, of_two) = learned(task), learned(Replicas(task, 2))
    assert all(torch.allclose(alone[name], shared[name], atol=1e-6) for name in alone)
    assert (gradient - of_two).norm() < 1e-5 * gradient.norm()


def test_without_them_nothing_changes(dataset) -> None:
    recipe = load_recipe("tiny-localize", SMALL)
    assert recipe.localize.clusters is None
    task, facts = task_of(dataset)
    assert task.own_state() == {} and facts == {}
    batch = batch_of(task, dataset)
    image, audio = inputs_of(task.log_mel, batch)
    with torch.no_grad():
        scores = task.scores(task.model.patches(image, audio), task.model.sounds(image, audio))
        expected = contrastive_loss(scores, temperature=recipe.localize.temperature)
        assert {name: value.item() for name, value in task(batch).items()} == {
            name: value.item() for name, value in expected.items()
        }


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_run_goes_on_to_the_bit_before_at_and_after_the_switch(
    folder, tmp_path, monkeypatch, stop: int
) -> None:
    recipe = load_recipe("tiny-localize", [*SMALL, *ON])
    train(recipe, data=folder, out=tmp_path / "whole", allow_random=True, device="cpu")
    train(recipe, data=folder, out=tmp_path / "parts", allow_random=True, device="cpu", stop_after=stop)

    def looked(*_: object) -> None:
        raise AssertionError("the clusters are in the checkpoint")

    monkeypatch.setattr(Localization, "look_at_clips", looked)
    train(recipe, data=folder, out=tmp_path / "parts", allow_random=True, device="cpu", resume=True)
    one, two = (
        read_safetensors(tmp_path / run / "checkpoints" / "step-00000006" / "model.safetensors")
        for run in ("whole", "parts")
    )
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    rows = read_metrics(tmp_path / "parts")
    assert ["clusters" in row for row in rows] == [True] * 3 + [False] * 3
    assert [row["loss"] for row in rows] == [row["loss"] for row in read_metrics(tmp_path / "whole")]
    facts = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert facts["clusters"]["purity"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["localize.encoding=joint", *ON], r"localize\.clusters.*localize\.encoding is joint"),
        (["localize.clusters.count=9"], r"localize\.clusters\.count.*9 vectors .* localize\.width 8"),
        (["localize.clusters.count=1"], r"localize\.clusters\.count"),
        (["localize.clusters.share=0"], r"localize\.clusters\.share"),
        (["localize.clusters.share=1"], r"localize\.clusters\.share"),
        (["localize.clusters.number=3"], r"localize\.clusters\.number"),
    ],
)
def test_a_wrong_setting_is_named(settings: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("tiny-localize", [*SMALL, *settings])


def test_more_clusters_than_clips_are_refused(dataset) -> None:
    with pytest.raises(DataError, match=r"localize\.clusters\.count is 13, but there are 12 clips"):
        task_of(dataset, "localize.width=16", "localize.clusters.count=13")
