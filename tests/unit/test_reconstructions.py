"""Reconstructions: predictions in their own units, side by side with what was there."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from avtool import engine
from avtool.config.recipes import load_recipe
from avtool.features import normalize_frames
from avtool.losses import normalize_patches
from avtool.model.mae import Mask, Reconstruction
from avtool.model.transformer import patchify
from avtool.report.pictures import Example, draw_reconstructions
from avtool.tasks.pretrain import train as pretrain
from avtool.tasks.pretrain.train import Pretraining, as_pictures, filled_in
from tests.unit.test_dry_run import SMALL, data  # noqa: F401 - a fixture


def test_a_perfect_prediction_gives_the_input_back() -> None:
    torch.manual_seed(0)
    values = torch.randn(2, 3, 8, 12) * 2 + 1
    order = torch.rand(2, 6).argsort(dim=1)
    mask = Mask(order[:, :2], order[:, 2:])
    target = patchify(values, 4).gather(1, mask.removed.unsqueeze(-1).expand(-1, -1, 48))
    for prediction, same in ((normalize_patches(target), True), (torch.zeros_like(target), False)):
        filled, where = filled_in(values, Reconstruction(prediction, target, mask), 4, (2, 3))
        assert torch.allclose(filled, values, atol=1e-4) == same
        assert where.shape == (2, 8, 12) and where.float().mean() == pytest.approx(4 / 6)
        assert torch.equal(filled.permute(0, 2, 3, 1)[~where], values.permute(0, 2, 3, 1)[~where])
    patch_means = patchify(filled, 4).mean(dim=-1), patchify(values, 4).view(2, 6, -1).mean(dim=-1)
    assert torch.allclose(*patch_means, atol=1e-5)  # of nothing predicted, each patch's mean is left


def test_frames_come_back_as_pictures() -> None:
    frames = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    assert torch.equal(as_pictures(normalize_frames(frames)), frames.permute(0, 2, 3, 1))


def example(name: str = "clip") -> Example:
    frame = np.full((64, 64, 3), 40, np.uint8)
    removed = np.zeros((64, 64), bool)
    removed[:32] = True
    mel, mel_removed = np.full((64, 192), -2.0), np.zeros((64, 192), bool)
    mel_removed[:32] = True  # the low bands
    return Example(name, frame, frame + 100, removed, mel, mel - 3, mel_removed)


def test_input_prediction_and_target_stand_side_by_side() -> None:
    page = draw_reconstructions([example(), example("x" * 300)], caption=["What is shown."])
    top = int(np.argmax((page == 140).all(axis=2).sum(axis=1) > 100))  # the first row of the predicted frame
    left, right = (12 + k * 172 + 80 for k in (0, 1)), 12 + 2 * 172 + 80
    masked, predicted = left
    assert (page[top + 10, masked] == 200).all() and (page[top + 150, masked] == 40).all()
    assert (page[top + 10, predicted] == 140).all() and (page[top + 10, right] == 40).all()
    mel = [540 + k * 252 + 120 for k in range(3)]
    assert (page[top + 150, mel[0]] == 200).all() and not (page[top + 10, mel[0]] == 200).all()
    assert page[top + 80, mel[1]].sum() < page[top + 80, mel[2]].sum()  # quieter: darker
    assert (page[:, -4:] == 255).all()


def test_a_run_leaves_its_reconstructions_behind(data: Path, tmp_path: Path) -> None:  # noqa: F811
    recipe = load_recipe("tiny", [*SMALL, "max_steps=1"])
    out = engine.train(recipe, data=data, out=tmp_path / "none", device="cpu")
    assert not (out / "reconstructions.png").exists()  # nothing is held out


def _batch(count: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8),
        "waveform": torch.randint(-9000, 9000, (count, 16000), generator=generator).short(),
        "index": torch.arange(count),
        "label": torch.arange(count) % 2,
    }


def test_what_is_drawn_of_a_task_is_a_picture_and_leaves_it_as_it_was() -> None:
    task = Pretraining(load_recipe("tiny", SMALL)).train()
    with task.judged():
        page, again = (task.draw(_batch(3), ["a", "b", "c"]) for _ in range(2))
    assert page.dtype == np.uint8 and page.shape[2] == 3 and task.training
    assert cv2.imencode(".png", page)[0]
    assert np.array_equal(page, again)


def test_collapsed_fusion_tokens_have_no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Pretraining(load_recipe("tiny", SMALL))
    batches = [_batch(12)]
    healthy = task.validate(lambda: batches, lambda: batches)
    assert 2 < healthy["effective_rank_fusion"] <= 11
    assert "effective rank of fusion tokens" in task.summarize(healthy)
    torch.nn.init.zeros_(task.model.encoder.fusion_norm.weight)
    assert task.validate(lambda: batches, lambda: batches)["effective_rank_fusion"] == 0
    monkeypatch.setattr(pretrain, "RANKED_CLIPS", 4)
    torch.nn.init.ones_(task.model.encoder.fusion_norm.weight)
    assert task.validate(lambda: batches, lambda: batches)["effective_rank_fusion"] <= 3
    one = [_batch(1)]
    assert "effective_rank_fusion" not in task.validate(lambda: one, lambda: one)
