"""Classification: targets, mixing, heads, and what a fine-tuning run does with the encoder and its clips."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from avtool import engine
from avtool.config.checkpoint import read_config
from avtool.config.recipes import load_recipe
from avtool.config.schema import Recipe
from avtool.data import parts
from avtool.data.dataset import PreparedDataset
from avtool.data.loader import collate
from avtool.data.prepare import prepare
from avtool.engine.start import Clips
from avtool.errors import CheckpointError, DataError, TrainingError, UsageError
from avtool.features import blank_frames, silence
from avtool.optim import SCALE, parameter_groups
from avtool.places import BEST, checkpoints_of, resolve_checkpoint
from avtool.tasks.classify.recipe import Classify
from avtool.tasks.classify.train import (
    Classification,
    beta_quantile,
    blanked,
    labels_of,
    masked,
    mix,
    one_hot,
)
from avtool.tasks.names import CLASSES, ClassNames
from avtool.tracking import read_metrics
from avtool.weight_files import read_safetensors

SMALL = (
    "max_steps=6",
    "init.model=none",
    "train.batch_size=6",
    "train.accumulate=1",
    "train.log_every=1",
    "train.eval_every=0",
    "train.precision=float32",
    "model.image_size=[32,32]",
    "model.audio_size=[32,64]",
    "model.dim=24",
    "model.depth=2",
    "data.validation=0.25",
    "data.workers=0",
)
LABELS = ("a", "b", "c")
TAKES = 2


def write_data(folder: Path, rows: list[tuple[str, str, str]]) -> Path:
    """Prepared clips of (id, split, label): a frame of the first label's colour, a tone of its pitch. Ids that are the
    same before _ share their sound."""
    generator = np.random.default_rng(0)
    table = []
    for number, (name, split, label) in enumerate(rows):
        kind = LABELS.index(label[0]) if label else 0
        picture = generator.integers(0, 60, (40, 48, 3), np.uint8)
        picture[..., kind] += 180
        cv2.imwrite(str(folder / f"{number}.png"), picture)
        times = np.arange(24000) / 16000
        sound = 0.2 * np.sin(2 * np.pi * 400 * (kind + 1) * times) + generator.normal(0, 0.02, 24000)
        heard = f"{name.split('_')[0]}.wav"
        soundfile.write(folder / heard, sound, 16000)
        table.append((name, split, label, f"{number}.png", heard))
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "split", "label", "image", "audio"), *table])
    return prepare("manifest", folder / "table.csv", out=folder / "prepared").out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training clips of one label, in two takes of each recording, with one of two labels and one of none; and six
    test clips."""
    rows = [
        (f"{label}{recording}_{take}", "train", label)
        for label in LABELS
        for recording in range(4)
        for take in range(TAKES)
    ]
    rows += [("both", "train", "a;b"), ("none", "train", "")]
    rows += [(f"test-{label}{number}", "test", label) for label in LABELS for number in range(2)]
    return write_data(tmp_path_factory.mktemp("classify"), rows)


def recipe_of(*overrides: str) -> Recipe:
    return load_recipe("tiny-classify", [*SMALL, *overrides])


def run(data: Path, out: Path, *overrides: str, **options) -> Path:
    return engine.train(
        recipe_of(*overrides), data=data, out=out, device="cpu", **{"allow_random": True, **options}
    )


def task_of(data: Path, *overrides: str) -> tuple[Classification, Recipe, PreparedDataset, np.ndarray]:
    recipe, dataset = recipe_of(*overrides), PreparedDataset(data, "train")
    chosen, _ = Classification.select_clips(recipe, dataset)
    return Classification(recipe, dataset, chosen), recipe, dataset, chosen


def batch_of(task: Classification, recipe: Recipe, dataset: PreparedDataset, keys: list[tuple[int, int]]):
    """The training batch of (epoch, index) pairs."""
    chosen, _ = Classification.select_clips(recipe, dataset)
    views = task.training_views(recipe, dataset, chosen)
    return collate([views.sample(epoch, index) for epoch, index in keys])


def last_weights(folder: Path) -> dict[str, Tensor]:
    return read_safetensors(checkpoints_of(folder)[-1] / "model.safetensors")


# Targets and losses


def test_targets_have_a_one_for_each_label(data: Path) -> None:
    dataset = PreparedDataset(data, "train")
    names = [dataset.record(i).id for i in range(len(dataset))]
    targets = one_hot(labels_of(dataset), 3)
    assert targets[names.index("b1_0")].tolist() == [0, 1, 0]
    assert targets[names.index("both")].tolist() == [1, 1, 0]
    assert targets[names.index("none")].tolist() == [0, 0, 0]


def test_clips_without_a_label_or_with_several_are_left_out_and_counted(data: Path) -> None:
    dataset = PreparedDataset(data, "train")
    chosen, left_out = Classification.select_clips(recipe_of(), dataset)
    assert (len(chosen), left_out) == (24, {"without a label": 1, "with several labels": 1})
    chosen, left_out = Classification.select_clips(recipe_of("classify.multi_label=true"), dataset)
    assert (len(chosen), left_out) == (25, {"without a label": 1})


@pytest.mark.parametrize("several", [False, True], ids=["one label", "several"])
def test_the_loss_is_that_of_the_heads_mean_by_hand(data: Path, several: bool) -> None:
    switches = (
        "train.drop_path=0",
        "classify.label_smoothing=0.3",
        "classify.class_weights=true",
        "classify.mixup=0",
    )
    task, recipe, dataset, chosen = task_of(data, *switches, f"classify.multi_label={str(several).lower()}")
    batch = batch_of(task, recipe, dataset, [(0, int(i)) for i in chosen[[0, 9, 20]]])
    seen = {}
    task.model.register_forward_hook(lambda module, inputs, output: seen.update(logits=output))
    loss = task(batch)["loss"]
    logits = torch.stack(seen["logits"][:3]).mean(dim=0)
    truth = torch.eye(3)[[LABELS.index(dataset.record(int(i)).labels[0]) for i in chosen[[0, 9, 20]]]]
    counts = torch.tensor([9.0, 9, 8] if several else [8.0, 8, 8])
    weight = counts.sum() / 3 / counts
    soft = 0.7 * truth + 0.1
    if several:
        share = logits.sigmoid()
        expected = -(weight * (soft * share.log() + (1 - soft) * (1 - share).log())).mean()
    else:
        expected = -(weight * soft * logits.softmax(dim=1).log()).sum(dim=1).mean()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("probe", ["false", "true"])
@pytest.mark.parametrize("several", ["false", "true"])
def test_predictions_before_training_are_the_classes_shares(tmp_path: Path, several: str, probe: str) -> None:
    rows = [
        (f"{label}{k}", "train", label)
        for label, count in (("a", 6), ("b", 3), ("c", 1))
        for k in range(count)
    ]
    made = write_data(tmp_path, rows)
    switches = (f"classify.multi_label={several}", f"classify.probe={probe}", "train.drop_path=0")
    task, recipe, dataset, chosen = task_of(made, *switches, "classify.prior_bias=true")
    for name in ("image_head", "audio_head", "fusion_head"):
        torch.nn.init.zeros_(getattr(task.model, name).weight)
    batch = batch_of(task, recipe, dataset, [(0, int(i)) for i in chosen])
    from avtool.features import inputs_of

    logits = task.model(*inputs_of(task.log_mel, batch)).mean
    shares = logits.sigmoid() if several == "true" else logits.softmax(dim=1)
    torch.testing.assert_close(shares, torch.tensor([[0.6, 0.3, 0.1]]).expand(10, -1), atol=1e-5, rtol=0)


# What is drawn for a sample


def two_sides(count: int) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Samples of ones and partners of zeros, of classes 0 and 1, and noise."""
    ones = {"image": torch.ones(count, 3, 64, 64), "audio": torch.ones(count, 1, 8, 192)}
    own = {**ones, "targets": torch.tensor([[1.0, 0]]).expand(count, -1)}
    partner = {name: torch.zeros_like(value) for name, value in ones.items()}
    partner["targets"] = torch.tensor([[0.0, 1]]).expand(count, -1)
    return own, partner, torch.rand(count, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_shares_of_picture_sound_and_targets_agree(mixup: float, cutmix: float) -> None:
    own, partner, noise = two_sides(200)
    image, audio, targets = mix(own, partner, noise, Classify(mixup=mixup, cutmix=cutmix))
    kept = targets[:, 0]
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(200))
    assert kept.min() < 0.1 and kept.max() > 0.9
    cut = ((image == 0) | (image == 1)).flatten(1).all(dim=1)
    assert cut.float().mean() == pytest.approx({0.8: 0, 0.0: 1, 0.4: 0.5}[mixup], abs=0.1)
    for share, most in ((image.mean(dim=(1, 2, 3)), 2.1 / 64), (audio.mean(dim=(1, 2, 3)), 1.1 / 192)):
        tolerance = torch.where(cut, most, 1e-6)  # a box and a span end at a pixel and at a frame
        assert ((share - kept).abs() <= tolerance).all()
    if cut.any():
        spans = (audio[cut, 0, 0] == 0).float()
        assert (spans.diff(dim=1).abs().sum(dim=1) <= 2).all()  # one piece
        assert (image[cut] == image[cut][:, :1]).all()  # the same box of all colours


@pytest.mark.parametrize("alpha", [0.2, 0.8, 2.0])
def test_shares_are_beta_distributed(alpha: float) -> None:
    uniform = (torch.arange(20000) + 0.5) / 20000
    drawn = beta_quantile(uniform, torch.full_like(uniform, alpha)).double()
    assert (drawn.diff() >= 0).all()
    assert drawn.mean().item() == pytest.approx(0.5, abs=2e-3)
    assert drawn.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)
    torch.testing.assert_close(beta_quantile(uniform, torch.ones_like(uniform)), uniform)


def test_blanking_takes_one_of_the_two_from_a_share_of_the_samples() -> None:
    image, audio = torch.ones(100, 3, 8, 8), torch.ones(100, 1, 4, 16)
    noise = (torch.arange(100) + 0.5) / 100
    seen, heard = blanked(image, audio, noise, 0.4)
    no_image = (seen == blank_frames(image)).flatten(1).all(dim=1)
    no_audio = (heard == silence(audio)).flatten(1).all(dim=1)
    assert (no_image.sum(), no_audio.sum(), (no_image & no_audio).sum()) == (20, 20, 0)
    assert (seen[~no_image] == 1).all() and (heard[~no_audio] == 1).all()


def test_masks_silence_bands_and_times_up_to_a_share() -> None:
    audio = torch.ones(400, 1, 40, 100)
    heard = masked(audio, torch.rand(400, 4, generator=torch.Generator().manual_seed(0)), 0.4) == 1
    bands, times = heard.any(dim=3).flatten(1), heard.any(dim=2).flatten(1)
    torch.testing.assert_close(heard.squeeze(1), bands.unsqueeze(2) & times.unsqueeze(1))
    for left, longest in ((bands, 16), (times, 40)):
        silent = (~left).sum(dim=1)
        assert silent.max() <= longest + 1 and silent.max() > 0.8 * longest
        assert silent.float().mean() == pytest.approx(longest / 2, rel=0.1)
        assert (left.diff(dim=1).sum(dim=1) <= 2).all()  # in one piece
        assert left[:, 0].any() and not left[:, 0].all()
    assert masked(audio, torch.zeros(400, 4), 0.0) is audio


DRAWN = (
    "classify.mixup=0.8",
    "classify.cutmix=1.0",
    "classify.modality_dropout=0.5",
    "classify.spectrogram_masks=0.5",
    "train.drop_path=0.5",
)


def test_a_sample_is_a_function_of_seed_epoch_and_index_alone(data: Path) -> None:
    task, recipe, dataset, chosen = task_of(data, *DRAWN)
    task.train()
    keys = [(epoch, int(i)) for epoch in (0, 3) for i in chosen[:6]]
    torch.manual_seed(1)
    whole = task(batch_of(task, recipe, dataset, keys))["loss"]
    torch.manual_seed(2)  # nothing is drawn from here
    alone = [task(batch_of(task, recipe, dataset, [key]))["loss"] for key in reversed(keys)]
    torch.testing.assert_close(torch.stack(alone).mean(), whole)
    assert len({loss.item() for loss in alone}) == len(keys)
    other, recipe, *_ = task_of(data, *DRAWN, "seed=1")
    other.model.load_state_dict(task.model.state_dict())
    assert other.train()(batch_of(other, recipe, dataset, keys))["loss"] != whole


def test_paths_are_dropped_by_the_samples_own_noise(data: Path) -> None:
    plain = ("classify.mixup=0", "classify.cutmix=0", "classify.modality_dropout=0")
    task, recipe, dataset, chosen = task_of(data, *plain, "train.drop_path=0.9")
    batch = batch_of(task, recipe, dataset, [(0, int(i)) for i in chosen[:4]])
    still, *_ = task_of(data, *plain, "train.drop_path=0")
    dropped, kept = task.train()(batch)["loss"], still.train()(batch)["loss"]
    assert dropped != kept
    assert task.eval()(batch)["loss"] == kept


def test_a_share_of_the_patches_is_trained_on_and_all_are_looked_at(data: Path) -> None:
    task, recipe, dataset, chosen = task_of(data, "train.keep_patches=0.5")
    batch = batch_of(task, recipe, dataset, [(0, int(i)) for i in chosen[:4]])
    seen = []
    task.model.encoder.register_forward_hook(lambda _, inputs, tokens: seen.append(tokens))
    for training in (True, False):
        task.train(training)(batch)
    part, whole = ((tokens.image.shape[1], tokens.audio.shape[1]) for tokens in seen)
    assert part == (whole[0] // 2, whole[1] // 2)


# Optimiser


def layer_by_hand(name: str, depth: int) -> int:
    if "patch_embed" in name or name == "encoder.fusion_tokens":
        return 0
    words = name.split(".")
    numbers = [int(word) for word in words[:4] if word.isdigit()]
    return numbers[0] + 1 if "blocks" in name and numbers else depth + 1


def test_every_parameter_learns_at_the_rate_of_its_layer(data: Path) -> None:
    task, recipe, *_ = task_of(data)
    depth, decay = recipe.model.depth, 0.75
    groups = parameter_groups(task.model, weight_decay=0.05, layer_decay=decay, depth=depth)
    found = {id(p): group for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found) == len(list(task.model.parameters()))
    scales = Counter()
    for name, parameter in task.model.named_parameters():
        group = found[id(parameter)]
        assert group[SCALE] == pytest.approx(decay ** (depth + 1 - layer_by_hand(name, depth))), name
        assert (group["weight_decay"] > 0) == (parameter.ndim > 1 and not name.endswith("fusion_tokens")), (
            name
        )
        scales[round(group[SCALE], 6)] += 1
    assert sorted(scales) == [round(decay**k, 6) for k in (3, 2, 1, 0)]


# Runs


def test_a_probe_trains_nothing_of_the_encoder(data: Path, tmp_path: Path) -> None:
    start = run(data, tmp_path / "start", "max_steps=1")
    options = ("classify.probe=true", "optim.name=lars", "optim.base_lr=10", f"init.model={start}")
    out = run(data, tmp_path / "probe", *options, allow_random=False)
    before, after = read_safetensors(resolve_checkpoint(start) / "model.safetensors"), last_weights(out)
    encoder = {name for name in after if name.startswith("encoder.")}
    assert encoder and all(torch.equal(after[name], before[name]) for name in encoder)
    made = engine.Run(
        recipe_of(*options),
        PreparedDataset(data, "train"),
        folder=tmp_path / "x",
        device=torch.device("cpu"),
        checkpoint=resolve_checkpoint(start),
    )
    heads = {f"{name}_head.{kind}" for name in ("image", "audio", "fusion") for kind in ("weight", "bias")}
    trained = {id(parameter) for parameter in made.parameters}
    assert {name for name, value in made.task.model.named_parameters() if id(value) in trained} == heads
    fresh = made.task.model.state_dict()
    assert not any(torch.equal(after[name], fresh[name]) for name in heads)
    assert not torch.equal(after["audio_norm.running_mean"], fresh["audio_norm.running_mean"])


def test_fine_tuning_trains_the_whole_encoder(data: Path, tmp_path: Path) -> None:
    start = run(data, tmp_path / "start", "max_steps=1")
    out = run(data, tmp_path / "run", f"init.model={start}", "optim.base_lr=1", allow_random=False)
    before, after = read_safetensors(resolve_checkpoint(start) / "model.safetensors"), last_weights(out)
    assert [
        name for name in before if name.startswith("encoder.") and torch.equal(before[name], after[name])
    ] == []


@pytest.mark.parametrize("way", [DRAWN, ("classify.probe=true", "optim.name=lars")], ids=["whole", "probe"])
def test_three_steps_and_three_more_are_six(data: Path, tmp_path: Path, way: tuple[str, ...]) -> None:
    whole = run(data, tmp_path / "whole", *way)
    halves = run(data, tmp_path / "parts", *way, stop_after=3)
    assert checkpoints_of(halves)[-1].name == "step-00000003"
    run(data, halves, *way, resume=True)
    assert all(torch.equal(value, last_weights(halves)[name]) for name, value in last_weights(whole).items())


def test_the_best_checkpoint_is_of_the_best_validation_measure(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.1, 0.4, 0.9, 0.3, 0.9])
    measure = Classification.measure
    monkeypatch.setattr(
        Classification, "measure", lambda self, *args: {**measure(self, *args), "score": next(scores)}
    )
    options = ("max_steps=4", "train.eval_every=1", "train.save_every=1", "train.keep=9")
    out = run(data, tmp_path / "run", *options)
    assert "step 2 of 4" in read_config(out / BEST).origin
    best = read_safetensors(out / BEST / "model.safetensors")
    of_step_2 = read_safetensors(checkpoints_of(out)[1] / "model.safetensors")
    assert all(torch.equal(value, of_step_2[name]) for name, value in best.items())
    assert resolve_checkpoint(out) == out / BEST
    held_out = [row for row in read_metrics(out) if "held_out" in row]
    assert {row["held_out"] for row in held_out} == {"validation"}


@pytest.mark.parametrize(
    ("scores", "step"), [((0.5, 0.5, 0.5), 2), ((0.5, 0.2, 0.4), 0), ((math.nan, 0.2, math.nan), 2)]
)
def test_weights_that_nothing_was_learned_with_are_kept_only_where_they_are_better(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    scores: tuple[float, ...],
    step: int,
) -> None:
    drawn, measure = iter(scores), Classification.measure
    monkeypatch.setattr(
        Classification, "measure", lambda self, *args: {**measure(self, *args), "score": next(drawn)}
    )
    out = run(data, tmp_path / "run", "max_steps=4", "train.eval_every=2")
    assert f"step {step} of 4" in read_config(out / BEST).origin
    assert f"best: {out / BEST}, of step {step}" in capsys.readouterr().err


def recordings_of(dataset: PreparedDataset, clips: np.ndarray) -> set[str]:
    return {dataset.recording(int(i)) for i in clips}


@pytest.mark.parametrize("fold", ["null", "[2,4]"])
def test_the_validation_part_shares_no_recording_with_training(data: Path, fold: str) -> None:
    recipe, dataset = recipe_of(f"data.fold={fold}"), PreparedDataset(data, "train")
    clips = Clips.of(recipe, dataset)
    training, held_out = recordings_of(dataset, clips.training), recordings_of(dataset, clips.held_out)
    assert (clips.part, clips.held_out_of.split) == ("validation", "train")
    assert training.isdisjoint(held_out) and len(held_out) == 3 and len(clips.held_out) == 3 * TAKES
    assert {name[0] for name in held_out} == set(LABELS)
    judged = recordings_of(dataset, np.setdiff1d(np.arange(24), [*clips.training, *clips.held_out]))
    assert len(judged) == (0 if fold == "null" else 3) and judged.isdisjoint(training | held_out)


def test_parts_are_whole_recordings_of_every_class() -> None:
    generator = np.random.default_rng(0)
    names = [f"recording {generator.integers(60)}" for _ in range(400)]
    labels = [int(name.split()[1]) % 4 for name in names]
    folds = np.stack([parts.fold(names, labels, k, 5) for k in range(1, 6)])
    assert (folds.sum(axis=0) == 1).all()
    chosen = parts.held_out(names, labels, 0.2)
    for inside in (*folds, chosen):
        here = {name for name, took in zip(names, inside, strict=True) if took}
        assert here.isdisjoint(name for name, took in zip(names, inside, strict=True) if not took)
        assert Counter(int(name.split()[1]) % 4 for name in here) == dict.fromkeys(range(4), 3)
    order = generator.permutation(400)
    again = parts.held_out([names[i] for i in order], [labels[i] for i in order], 0.2)
    assert (again == chosen[order]).all()
    assert not parts.held_out(names, labels, 0.0).any()


# What is refused


def test_random_fusion_weights_have_to_be_allowed(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="random fusion weights") as told:
        run(data, tmp_path / "run", allow_random=False)
    assert "--allow-random" in told.value.hint
    with pytest.raises(UsageError, match="no pretrained model given"):
        run(data, tmp_path / "run", "init.model=null")
    assert not (tmp_path / "run").exists()


def test_data_without_classes_to_tell_apart_is_refused(tmp_path: Path) -> None:
    cases = {
        "no labels": ([("x", "train", ""), ("y", "train", "")], "has a label"),
        "one class": ([(f"a{k}", "train", "a") for k in range(8)], "one class, 'a'"),
        "one class in training": (
            [*((f"a{k}", "train", "a") for k in range(8)), ("b", "test", "b")],
            "every clip to train on in .* is of class 'a'",
        ),
        "only clips of several": ([(f"a{k}", "train", "a;b") for k in range(8)], "exactly one label"),
    }
    for name, (rows, words) in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        made = write_data(folder, rows)
        with pytest.raises(DataError, match=words) as told:
            run(made, folder / "run")
        assert told.value.hint and not (folder / "run").exists()


def test_a_validation_part_that_leaves_nothing_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="are held out; a batch needs 8") as told:
        run(data, tmp_path / "run", "data.validation=0.99", "train.batch_size=8")
    assert "data.validation=0.1" in told.value.hint


def test_that_nothing_is_held_out_is_said_with_its_reason(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, tmp_path / "run", "data.validation=0.01", "max_steps=1")
    said = "no validation set to choose the best checkpoint on: data.validation=0.01 rounds to no recording"
    assert said in capsys.readouterr().err and not (tmp_path / "run" / BEST).exists()


def test_an_encoder_without_fusion_tokens_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="fusion head reads fusion tokens"):
        run(data, tmp_path / "run", "model.fusion={kind: token, layers: none, tokens: [0, 0, 0]}")


# Names


def test_the_names_of_the_classes_are_kept_beside_the_weights(data: Path, tmp_path: Path) -> None:
    out = run(data, tmp_path / "run", "max_steps=1")
    for folder in (checkpoints_of(out)[-1], out / BEST):
        assert ClassNames.read(folder, count=3) == ClassNames(LABELS, several=False)
    (folder / CLASSES).unlink()
    assert ClassNames.read(folder, count=3) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "does not hold"),
        ("[1]", "does not hold"),
        (json.dumps({"classes": ["a", 1], "several": False}), "no list of names"),
        (json.dumps({"classes": ["a"], "several": False}), "names 1 classes, the model has 2"),
    ],
)
def test_damaged_names_are_an_error(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / CLASSES).write_text(content)
    with pytest.raises(CheckpointError, match=words):
        ClassNames.read(tmp_path, count=2)


def test_a_resumed_run_needs_no_names(data: Path, tmp_path: Path) -> None:
    out = run(data, tmp_path / "run", stop_after=3)
    (checkpoints_of(out)[-1] / CLASSES).unlink()
    shutil.rmtree(out / BEST)
    run(data, out, resume=True)
    assert ClassNames.read(checkpoints_of(out)[-1], count=3) is not None
