"""Localization by contrast: nothing leaks from the sound into the patches that it is compared with, and batches are
compared within themselves."""

from __future__ import annotations

import csv

import cv2
import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F

from avtool.config.recipes import load_recipe
from avtool.data.dataset import PreparedDataset
from avtool.data.loader import batches_in_order, batches_in_training
from avtool.data.prepare import prepare
from avtool.data.views import PartnerViews, SilencedViews
from avtool.engine.start import Clips
from avtool.errors import DataError, UsageError
from avtool.features import inputs_of, silence
from avtool.losses import candidates_loss, contrastive_loss, pool_cells, sigmoid_loss
from avtool.model.encoder import AudioVisualEncoder
from avtool.model.localization import LocalizationModel
from avtool.tasks.localize.maps import choose_map, localization_map
from avtool.tasks.localize.train import Localization
from avtool.tasks.settings import drawn_views

SMALL = (
    "train.batch_size=4", "train.accumulate=1", "model.image_size=[32,32]", "model.audio_size=[32,64]", "model.dim=24",
    "model.depth=2", "localize.width=8", "init.model=none", "localize.clusters=null", "localize.blank_share=1",
    "localize.map_scale=1",
    "train.keep_patches=1", "localize.negatives=0",
)  # fmt: skip

HALF = ("train.keep_patches=0.5", "localize.blank_share=1")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """Nine photographs with sounds, of three classes."""
    folder = tmp_path_factory.mktemp("source")
    generator = np.random.default_rng(0)
    rows = []
    for number in range(9):
        cv2.imwrite(str(folder / f"{number}.png"), generator.integers(0, 255, (40, 48, 3), np.uint8))
        soundfile.write(folder / f"{number}.wav", generator.normal(0, 0.1, 24000), 16000)
        rows.append((f"clip{number}", "train", "abc"[number % 3], f"{number}.png", f"{number}.wav"))
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "split", "label", "image", "audio"), *rows])
    return PreparedDataset(prepare("manifest", folder / "table.csv", out=folder / "prepared").out)


def task_of(dataset: PreparedDataset, *settings: str) -> tuple[Localization, torch.nn.Module]:
    recipe = load_recipe("tiny-localize", [*SMALL, *settings])
    return Localization(recipe, dataset, np.arange(len(dataset))).eval(), recipe


def batch_of(task: Localization, recipe, dataset: PreparedDataset, size: int = 4) -> dict[str, torch.Tensor]:
    views = task.training_views(recipe, dataset, np.arange(len(dataset)))
    return next(batches_in_training(views, np.arange(len(dataset)), batch_size=size, workers=0, seed=0))


def test_two_passes_hear_nothing_while_they_look_and_see_nothing_while_they_listen(dataset) -> None:
    task, recipe = task_of(dataset)
    image, audio = inputs_of(task.log_mel, batch_of(task, recipe, dataset))
    with torch.no_grad():
        assert torch.equal(task.model.patches(image, audio), task.model.patches(image, audio.flip(0)))
        assert torch.equal(task.model.sounds(image, audio), task.model.sounds(image.flip(0), audio))
        maps, other = (
            localization_map(task.model, image, sound, kind="trained") for sound in (audio, audio.flip(0))
        )
    assert maps.shape == (4, 2, 2) and not torch.equal(maps, other)
    assert maps.abs().max() <= 1 + 1e-5
    assert choose_map(task.model, None) == "trained"


def test_a_few_blank_patches_stand_for_all(dataset) -> None:
    task, recipe = task_of(dataset, "localize.blank_share=0.25")
    image, audio = inputs_of(task.log_mel, batch_of(task, recipe, dataset))
    read = []
    task.model.encoder.register_forward_hook(lambda _, inputs, tokens: read.append(tokens))
    with torch.no_grad():
        patches, sounds = task.model.patches(image, audio), task.model.sounds(image, audio)
        whole, _ = task_of(dataset, "localize.blank_share=1")
        assert [(tokens.image.shape[1], tokens.audio.shape[1]) for tokens in read] == [(4, 2), (1, 8)]
        assert patches.shape == whole.model.patches(image, audio).shape
        assert not torch.allclose(patches, whole.model.patches(image, audio), atol=1e-7)
        keep = torch.tensor([[2, 6]] * 4)  # of eight patches the middles of both halves
        expected = task.model.encoder(image, silence(audio), audio_keep=keep).image
    assert torch.equal(patches, F.normalize(task.model.image_projection(expected), dim=-1))
    assert sounds.shape == (4, 8)
    assert task.config.head.blank_share == 0.25


@pytest.mark.parametrize("way", ["unimodal", "joint"])
def test_a_map_may_be_of_the_enlarged_frame(dataset, way: str) -> None:
    (plain, recipe), (larger, _) = (
        task_of(dataset, f"localize.encoding={way}", *more) for more in ((), ("localize.map_scale=1.5",))
    )
    batch = batch_of(plain, recipe, dataset)
    image, audio = inputs_of(plain.log_mel, batch)
    enlarged = F.interpolate(image, (48, 48), mode="bilinear", align_corners=False)
    with torch.no_grad():
        maps = larger.model(image, audio)
        assert maps.shape == (4, 3, 3) and torch.allclose(maps, plain.model(enlarged, audio), atol=1e-6)
        assert torch.equal(
            larger.forward(batch)["loss"], plain.forward(batch)["loss"]
        )  # of the frame as it is
    assert larger.config.head.map_scale == 1.5


@pytest.mark.parametrize("shifts", [2, 4])
def test_a_map_may_be_the_mean_over_shifts_each_in_its_place(dataset, shifts: int, monkeypatch) -> None:
    task, _ = task_of(
        dataset, "localize.encoding=joint", f"localize.map_shifts={shifts}", "model.image_size=[96,128]"
    )
    looks = []

    def brightness(image: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        looks.append(image.shape[2:])
        return F.avg_pool2d(image.mean(dim=1, keepdim=True), 16).flatten(1)

    monkeypatch.setattr(task.model, "pair_cells", brightness)
    rows, columns = torch.arange(96.0)[:, None], torch.arange(128.0)
    ramp = (10 * rows + columns).expand(2, 3, 96, 128)
    maps = task.model(ramp, torch.zeros(2, 1, 32, 64))
    assert maps.shape == (2, 6 * shifts, 8 * shifts) and len(looks) == shifts**2
    inside = slice(2 * shifts, -2 * shifts)  # at the edges the frame is continued by its last pixels
    there = F.avg_pool2d(ramp[:, :1], 16 // shifts)[:, 0]
    assert torch.allclose(maps[:, inside, inside], there[:, inside, inside], atol=1e-3)


def test_shifts_divide_the_patch() -> None:
    encoder = AudioVisualEncoder(
        patch_size=6, dim=24, depth=1, heads=2, image_size=(24, 24), audio_size=(24, 24)
    )
    with pytest.raises(ValueError, match="map_shifts is 4, which does not divide patches of 6"):
        LocalizationModel(encoder, encoding="joint", width=8, map_shifts=4)


@pytest.mark.parametrize("way", ["unimodal", "joint"])
def test_training_encodes_the_share_of_patches_that_is_kept_and_measuring_encodes_all(
    dataset, way: str
) -> None:
    task, recipe = task_of(dataset, f"localize.encoding={way}", "localize.candidates=2", *HALF)
    batch = batch_of(task, recipe, dataset)
    read = []
    task.model.encoder.register_forward_hook(
        lambda _, inputs, tokens: read.append((tokens.image.shape[1], tokens.audio.shape[1]))
    )
    whole = task.forward(batch)["loss"]
    everything, part = (4, 8), {"unimodal": {(2, 8), (4, 4)}, "joint": {(2, 4)}}[way]
    assert set(read) == {everything}
    read.clear()
    loss = task.train().forward(batch)["loss"]
    assert set(read) == part and loss != whole
    assert torch.equal(task.forward(batch)["loss"], loss)  # drawn from (seed, epoch, index) alone
    assert task.forward({**batch, "epoch": batch["epoch"] + 1})["loss"] != loss
    image, audio = task.kept_patches(batch)
    assert image.shape == (4, 2) and audio.shape == (4, 4)
    assert all(len(set(row.tolist())) == len(row) for row in (*image, *audio))


@pytest.mark.parametrize("negatives", [0, 0.5])
def test_the_loss_compares_each_batch_within_itself(dataset, negatives: float) -> None:
    """Two batches in one pass have the mean of their losses, so that a pass may hold any number of them."""
    task, recipe = task_of(dataset, f"localize.negatives={negatives}")
    batch = batch_of(task, recipe, dataset, size=8)
    with torch.no_grad():
        halves = [
            task({name: value[part] for name, value in batch.items()}) for part in (slice(0, 4), slice(4, 8))
        ]
        whole = task(batch)
    assert ("presence" in whole) == bool(negatives)
    for name in whole:
        assert whole[name].item() == pytest.approx((halves[0][name] + halves[1][name]).item() / 2, rel=1e-5)


def test_the_score_lies_between_mean_and_maximum_and_reaches_every_cell() -> None:
    cells = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    soft = pool_cells(cells, pooling="logsumexp", temperature=0.3)
    assert (soft < cells.amax(1)).all() and (soft > cells.mean(1)).all()
    soft.sum().backward()
    assert (cells.grad > 0).all()
    assert torch.allclose(pool_cells(cells, pooling="logsumexp", temperature=1e-4), cells.amax(1), atol=1e-3)
    assert torch.equal(pool_cells(cells, pooling="max", temperature=1.0), cells.amax(1))
    assert torch.allclose(
        pool_cells(torch.full((1, 9), 0.7), pooling="logsumexp", temperature=0.1), torch.tensor([0.7])
    )
    with pytest.raises(ValueError, match="max or logsumexp"):
        pool_cells(cells, pooling="sum", temperature=1.0)


def test_the_contrast_is_a_cross_entropy_over_rows_and_over_columns() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.3, 0.2]])
    losses = contrastive_loss(scores, temperature=0.5)
    rows = [-torch.log_softmax(scores[i] / 0.5, 0)[i] for i in (0, 1)]
    columns = [-torch.log_softmax(scores[:, i] / 0.5, 0)[i] for i in (0, 1)]
    assert losses["image"].item() == pytest.approx((rows[0] + rows[1]).item() / 2)
    assert losses["audio"].item() == pytest.approx((columns[0] + columns[1]).item() / 2)
    assert losses["loss"].item() == pytest.approx((losses["image"] + losses["audio"]).item() / 2)
    assert candidates_loss(scores, temperature=0.5).item() == pytest.approx(
        -(torch.log_softmax(scores / 0.5, 1)[:, 0]).mean().item()
    )


@pytest.mark.parametrize("way", ["unimodal", "joint"])
def test_a_sound_that_tells_the_clip_is_learned(dataset, way: str) -> None:
    task, recipe = task_of(dataset, f"localize.encoding={way}", "localize.candidates=3")
    batch = batch_of(task, recipe, dataset)
    task.train()
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    first = None
    for _ in range(25):
        loss = task(batch)["loss"]
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.8 * first


def test_joint_pairs_hold_one_side_and_exchange_the_other(dataset) -> None:
    task, recipe = task_of(dataset, "localize.encoding=joint", "localize.candidates=3")
    batch = batch_of(task, recipe, dataset)
    with torch.no_grad():
        by_frame, by_sound = (task.candidate_scores(batch, side) for side in ("image", "audio"))
        alone = task.model(*inputs_of(task.log_mel, batch)).flatten(1)
    own = pool_cells(alone, pooling="logsumexp", temperature=recipe.localize.temperature)
    assert by_frame.shape == by_sound.shape == (4, 3)
    assert torch.allclose(by_frame[:, 0], own, atol=1e-5) and torch.allclose(by_sound[:, 0], own, atol=1e-5)
    assert not torch.allclose(by_frame[:, 1:], by_sound[:, 1:])


@pytest.mark.parametrize("way", ["unimodal", "joint"])
def test_what_is_measured_does_not_depend_on_the_batches(dataset, way: str) -> None:
    task, recipe = task_of(dataset, f"localize.encoding={way}", "localize.candidates=3")
    views, chosen = task.evaluation_views(recipe, dataset, np.arange(len(dataset)))

    def measured(size: int) -> dict[str, float]:
        return task.validate(
            lambda: batches_in_order(views, chosen.tolist(), batch_size=size), lambda: iter(())
        )

    assert measured(2) == measured(9)
    assert measured(9)["clips"] == 9


def test_weights_are_chosen_by_the_share_of_sounds_that_a_frames_own_is_above(
    dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, _ = task_of(dataset)
    groups = [
        (torch.tensor([3.0, 1.0]), torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, 0.0]])),
        (torch.tensor([0.0]), torch.tensor([[2.0, 0.0]])),
    ]
    monkeypatch.setattr(task, "_paired_scores", lambda held_out: groups)
    found = task.validate(lambda: iter(()), lambda: iter(()))
    assert found["score"] == pytest.approx((2 + 1.5 + 0) / 5)
    assert found["first"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert found["floor"] == 0.5 and found["clips"] == 3
    groups[:] = [(torch.tensor([2.0]), torch.tensor([[2.0]]))]  # nothing to tell it from
    assert task.validate(lambda: iter(()), lambda: iter(()))["score"] == 0.5


def test_a_batch_of_one_has_no_other_sounds_to_tell_from(dataset) -> None:
    alone = (*SMALL, "train.batch_size=1")
    with pytest.raises(UsageError, match=r"train\.batch_size is 1"):
        Clips.of(load_recipe("tiny-localize", alone), dataset)
    assert len(Clips.of(load_recipe("tiny-localize", [*alone, "localize.encoding=joint"]), dataset).training)


def test_partners_are_other_clips_the_same_in_any_batch(dataset) -> None:
    recipe = load_recipe("tiny-localize", SMALL)
    views = PartnerViews(drawn_views(recipe, dataset), np.arange(9), partners=2, other_class=True)
    labels = [dataset.label_id(i) for i in range(9)]
    drawn = set()
    for index in range(9):
        for epoch in range(4):
            sample, again = views.sample(epoch, index), views.sample(epoch, index)
            others = sample["other_index"].tolist()
            assert np.array_equal(sample["other_waveform"], again["other_waveform"])
            assert len({labels[index], *(labels[other] for other in others)}) == 3
            drawn.add((index, *others))
    assert len(drawn) > 20
    with pytest.raises(DataError, match="3 classes of split train to draw from, 4 are needed"):
        PartnerViews(drawn_views(recipe, dataset), np.arange(9), partners=3, other_class=True)


def test_negatives_are_in_nobodys_row_and_in_everybodys_contrast() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.4], [0.3, 0.2, 0.0], [0.5, 0.7, 0.6]])
    belongs = torch.tensor([True, False, True])
    found = contrastive_loss(scores, temperature=0.5, belongs=belongs)
    for name, table in (("image", scores), ("audio", scores.t())):
        rows = [-torch.log_softmax(table[i] / 0.5, 0)[i].item() for i in (0, 2)]
        assert found[name].item() == pytest.approx(sum(rows) / 3)
    parts = [
        contrastive_loss(
            scores[part], scores.t()[part], first=part.start, temperature=0.5, belongs=belongs[part]
        )["loss"].item() * count
        for part, count in ((slice(0, 1), 1), (slice(1, 3), 2))
    ]  # fmt: skip
    assert sum(parts) / 3 == pytest.approx(found["loss"].item())
    first = torch.log_softmax(scores / 0.5, 1)[:, 0]
    assert candidates_loss(scores, temperature=0.5, belongs=belongs).item() == pytest.approx(
        -(first[0] + first[2]).item() / 3
    )


def test_the_sigmoid_loss_pushes_scores_of_own_sounds_up_and_of_others_down() -> None:
    scores = torch.tensor([[0.5, -0.5, 0.5]], requires_grad=True)
    loss = sigmoid_loss(scores, torch.tensor([[True, False, False]]), temperature=0.5)
    right, wrong = np.log1p(np.exp(-1)), np.log1p(np.exp(1))
    assert loss.item() == pytest.approx((2 * right + wrong) / 3)
    loss.backward()
    assert scores.grad[0, 0] < 0 < scores.grad[0, 1] < scores.grad[0, 2]


def test_frames_and_sounds_of_one_clip_belong_together_but_negatives_to_nothing(dataset) -> None:
    task, recipe = task_of(dataset, "localize.negatives=0.5", "localize.clusters=null", "train.batch_size=8")
    batch = batch_of(task, recipe, dataset, size=8)
    image, audio = inputs_of(task.log_mel, batch)
    with torch.no_grad():
        presence = task(batch)["presence"]
        scores = task.scores(task.model.patches(image, audio), task.model.sounds(image, audio))
    own = torch.diag(~batch["negative"])
    assert 1 < own.sum() < 7
    assert torch.allclose(presence, sigmoid_loss(scores, own, temperature=task.options.temperature))


def test_a_share_of_windows_is_silent_or_noise_the_same_every_time(dataset) -> None:
    task, recipe = task_of(dataset, "localize.negatives=0.5")
    views = task.training_views(recipe, dataset, np.arange(9))
    assert isinstance(views, SilencedViews)
    plain, kinds = drawn_views(recipe, dataset), dict.fromkeys(("own", "silence", "noise"), 0)
    for epoch in range(20):
        for index in range(9):
            sample, own = views.sample(epoch, index), plain.sample(epoch, index)
            assert np.array_equal(sample["waveform"], views.sample(epoch, index)["waveform"])
            assert np.array_equal(sample["image"], own["image"])
            same = np.array_equal(sample["waveform"], own["waveform"])
            assert sample["negative"] != same
            kinds["own" if same else "noise" if sample["waveform"].any() else "silence"] += 1
    assert kinds["own"] == pytest.approx(90, abs=20) and min(kinds["silence"], kinds["noise"]) > 25
    off, recipe = task_of(dataset)
    assert not isinstance(off.training_views(recipe, dataset, np.arange(9)), SilencedViews)


@pytest.mark.parametrize("way", ["unimodal", "joint"])
def test_what_is_trained_on_silence_and_noise_scores_them_below_a_frames_own(dataset, way: str) -> None:
    task, recipe = task_of(
        dataset,
        f"localize.encoding={way}",
        "localize.candidates=2",
        "localize.negatives=0.5",
        "train.batch_size=8",
    )
    batch = batch_of(task, recipe, dataset, size=8)
    negative = batch["negative"]
    assert 1 < negative.sum() < 7
    task.train()
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    for _ in range(40):
        losses = task(batch)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    sides = (losses["image"] + losses["audio"]) / 2
    assert losses["loss"].item() == pytest.approx((sides + losses["presence"]).item())
    maps = localization_map(task.eval().model, *inputs_of(task.log_mel, batch), kind="trained")
    tops = maps.amax(dim=(1, 2))
    assert tops[negative].max() < tops[~negative].min()
