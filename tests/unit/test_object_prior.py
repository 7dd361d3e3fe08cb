"""The object prior of localization: what it is, how it is mixed in, and that it is never there unasked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision import models

from avtool.checkpoint import save_checkpoint
from avtool.errors import CheckpointError, UsageError
from avtool.evaluate import evaluate
from avtool.metrics.localization import pointing_hits
from avtool.model.build import random_model
from avtool.tasks.localize.prior import load_prior, with_prior
from tests.models import described

SETTINGS = {
    "image_size": [32, 32], "audio_size": [32, 64], "patch_size": 16, "dim": 24, "depth": 2, "heads": 2,
    "fusion": "factorized", "fusion_tokens": [3, 2, 2],
}  # fmt: skip
SPECTROGRAM = {"sample_rate": 16000, "n_fft": 400, "hop": 250}


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.resnet18(weights=None).eval()


@pytest.fixture(scope="module")
def weights(network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def data(synth: Callable[[int], Path]) -> Path:
    return synth(20)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "encoder"
    config = described("autoencoder", SETTINGS, SPECTROGRAM)
    save_checkpoint(folder, model=random_model("autoencoder", SETTINGS, seed=3), config=config)
    return folder


@torch.no_grad()
def test_the_prior_is_the_mean_absolute_feature_of_the_last_stage(
    network: torch.nn.Module, weights: Path
) -> None:
    images = torch.randn(2, 3, 32, 48)
    kept = []
    handle = network.layer4.register_forward_hook(lambda _module, _given, found: kept.append(found))
    network(F.interpolate(images, (224, 224), mode="bilinear"))
    handle.remove()
    found = load_prior(weights)(images)
    assert found.shape == (2, 7, 7)
    torch.testing.assert_close(found, kept[0].abs().mean(dim=1))


def test_the_mixture_is_of_both_scaled_image_by_image() -> None:
    generator = np.random.default_rng(0)
    maps, prior = generator.normal(5, 2, (3, 224, 224)), generator.uniform(0, 9, (3, 224, 224))
    prior[2] = 4  # a prior without levels says nothing
    found = with_prior(maps, prior)
    for one, other, mixed in zip(maps, prior, found, strict=True):
        level = (one - one.min()) / (one.max() - one.min())
        thing = (other - other.min()) / (np.ptp(other) or 1)
        np.testing.assert_allclose(mixed, 0.4 * level + 0.6 * thing, atol=1e-5)
    assert with_prior(maps[:, :14, :14], prior[:, :7, :7]).shape == (3, 224, 224)


def test_what_is_reported_with_it_stands_beside_what_is_without(
    model: Path, weights: Path, data: Path, tmp_path: Path
) -> None:
    options = {"task": "localize", "maps": ["difference"], "device": "cpu"}
    without = evaluate(model, data, **options)
    found = evaluate(
        model, data, object_prior=weights, save_predictions=tmp_path / "p.npz", batch_size=3, **options
    )
    saved = np.load(tmp_path / "p.npz")
    controls = {"": "model", "another class's sound": "", "untrained weights": ""}
    mixed = {", ".join(filter(None, ("difference with object prior", of))): of for of in controls}
    for before, after in zip(without, found, strict=True):
        rows = {row.name: row for row in after.rows}
        assert {name: rows.pop(name) for name in [row.name for row in before.rows]} == {
            row.name: row for row in before.rows
        }
        assert set(rows) == {*mixed, "the object prior alone"}
        assert rows["the object prior alone"].role == "floor"
        assert rows["difference with object prior"].role == "model"
        assert "object prior" in after.words and "object prior" not in before.words
    pointing = {row.name: row.measures["pointing"].value for row in found[0].rows}
    for name, of in mixed.items():
        maps = with_prior(saved[f"difference: {of or 'model'}"], saved["object prior"])
        hits = pointing_hits(maps, saved["truth"] > 0)
        assert pointing[name] == pytest.approx(100 * hits.mean())


def test_files_that_hold_no_imagenet_resnet_are_refused(
    network: torch.nn.Module, weights: Path, model: Path, data: Path, tmp_path: Path
) -> None:
    state = network.state_dict()
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    load_prior(tmp_path / "old.pth")
    few = {**state, "fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}
    cases = [
        ({"weight": torch.zeros(3)}, "holds no ResNet's weights"),
        (few, "fc.weight is"),
        (network, "is refused"),
    ]
    for number, (content, words) in enumerate(cases):
        torch.save(content, tmp_path / f"{number}.pth")
        with pytest.raises(CheckpointError, match=words) as told:
            evaluate(model, data, task="localize", object_prior=tmp_path / f"{number}.pth", device="cpu")
        assert told.value.hint
    for task, protocol in (("retrieve", "recall"), ("localize", "slavc-extended")):
        with pytest.raises(UsageError, match=f"--object-prior changes nothing in {protocol}"):
            evaluate(model, data, task=task, protocols=[protocol], object_prior=weights, device="cpu")
