"""Separation: masks and sound, the task, protocol bss-eval, and one's own clips."""

from __future__ import annotations

import csv
import errno
import json
import re
import resource
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor
from typer.testing import CliRunner

from avtool import engine
from avtool.checkpoint import save_checkpoint
from avtool.cli import app
from avtool.clip import Clip
from avtool.config.checkpoint import read_config
from avtool.config.recipes import load_recipe
from avtool.config.schema import Recipe
from avtool.data.dataset import PreparedDataset
from avtool.data.prepare import prepare
from avtool.errors import AvtoolError, DataError, MediaError, TrainingError, UsageError
from avtool.evaluate import evaluate
from avtool.features import LogMel, at_frames
from avtool.inputs import whole_crop
from avtool.losses import ratio_masks
from avtool.media import read_frame, write_clip
from avtool.media import sound as sound_module
from avtool.metrics.separation import bss_eval
from avtool.model.build import random_model
from avtool.places import resolve_checkpoint
from avtool.report.pictures import Panel, render_masks
from avtool.tasks.separate import predict as inference
from avtool.tasks.separate import protocols as evaluation
from avtool.tasks.separate import train as task_module
from avtool.tasks.separate.predict import separate
from avtool.tasks.separate.train import Mixtures, Separation, fixed_mixtures, mask_logits, mix
from avtool.tracking import read_metrics
from tests.clips import moving_frames, read_track, tone
from tests.models import described

RATE = 16000
SMALL = (
    "data.workers=0",
    "data.validation=0.25",
    "train.batch_size=4",
    "train.precision=float32",
    "train.eval_every=0",
    "max_steps=2",
    "model.image_size=[32,32]",
    "model.audio_size=[32,64]",
    "model.dim=16",
    "model.heads=2",
    "model.depth=2",
    "model.fusion.attn_ratio=1.0",
    "model.decoder={dim: 16, depth: 1, heads: 2}",
    "init.model=none",
)
SETTINGS = {
    "image_size": [32, 32], "audio_size": [32, 64], "patch_size": 16, "dim": 16, "depth": 2, "heads": 2,
    "fusion": "factorized", "fusion_tokens": [3, 2, 2],
}  # fmt: skip
SPECTROGRAM = {"sample_rate": RATE, "n_fft": 800, "hop": 250}


def recipe(*changes: str) -> Recipe:
    return load_recipe("tiny-separate", [*SMALL, *changes])


def prepared(folder: Path, labels: str, *, silent: Sequence[int] = ()) -> Path:
    """A still and a tone of its own class's pitch for each of ``labels``; the last quarter is split test. What is heard
    of the ``silent`` ones in evaluation, their middle, has no sound."""
    generator = np.random.default_rng(0)
    rows = []
    for number, label in enumerate(labels):
        cv2.imwrite(str(folder / f"{number}.png"), generator.integers(0, 255, (40, 48, 3), np.uint8))
        sound = tone(1.5, frequency=300 * 2 ** "abc".index(label), level=0.2) + generator.normal(
            0, 0.01, 24000
        )
        if number in silent:
            sound[3000:] = 0
        soundfile.write(folder / f"{number}.wav", sound, RATE)
        split = "test" if number >= 3 * len(labels) // 4 else "train"
        rows.append((f"clip{number}", split, label, f"{number}.png", f"{number}.wav"))
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "split", "label", "image", "audio"), *rows])
    return prepare("manifest", folder / "table.csv", out=folder / "prepared").out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("source"), "abc" * 8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "separator"
    return saved(folder, "separation", SETTINGS)


def saved(folder: Path, kind: str, settings: dict) -> Path:
    module = random_model(kind, settings, seed=3)
    save_checkpoint(folder, model=module, config=described(kind, settings, SPECTROGRAM))
    return folder


# Masks and sound --------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [16000, 48000, 48123])
def test_a_mask_of_ones_gives_the_sound_itself(samples: int) -> None:
    log_mel, sound = LogMel(), torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
    found = log_mel.masked(sound, torch.ones(2, 1, 128, samples // 250))
    assert found.shape == (2, 1, samples)
    torch.testing.assert_close(found[:, 0], sound, atol=1e-5, rtol=0)


def test_bands_count_as_in_the_transposed_filter_bank() -> None:
    log_mel = LogMel()
    weights, total = log_mel.bands_at(torch.arange(401) * 20.0), log_mel.filters.sum(dim=1)
    inside = (total - 1).abs() < 1e-4
    assert inside.sum() > 380
    torch.testing.assert_close(weights[inside], log_mel.filters[inside], atol=1e-4, rtol=0)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(401))


def test_a_mask_keeps_its_bands_and_times_at_any_rate() -> None:
    rate, seconds = 44100, 2
    time = torch.arange(rate * seconds) / rate
    low, high, above = (0.3 * torch.sin(2 * torch.pi * f * time) for f in (500, 3000, 12000))
    log_mel = LogMel()
    bands = log_mel.bands_at(torch.tensor([1500.0]))[0].argmax()
    masks = torch.zeros(1, 1, 128, seconds * RATE // 250)
    masks[:, :, :bands, 64:] = 1  # below 1.5 kHz, in the second second
    found = log_mel.masked((low + high + above)[None], masks, rate=rate)[0, 0]
    half = rate + 4000
    assert found[: rate - 4000].abs().max() < 1e-3
    torch.testing.assert_close(found[half:-4000], low[half:-4000], atol=1e-2, rtol=0)


def test_masks_between_frames_are_interpolated() -> None:
    found = at_frames(torch.tensor([[0.0, 1.0, 3.0]]), torch.tensor([0.0, 0.5, 1.0, 1.25, 2.0, 7.0]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.5, 1.0, 1.5, 3.0, 3.0]]))


def test_stretches_of_a_long_sound_meet_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    sound = torch.randn(2, 60000, generator=generator).numpy()
    masks, log_mel = torch.rand(2, 128, 174, generator=generator), LogMel()

    def masked() -> tuple[np.ndarray, np.ndarray]:
        pieces = inference.masked_pieces(log_mel, lambda a, b: sound[:, a:b], 60000, masks, rate=22050)
        given, found = zip(*pieces, strict=True)
        return np.concatenate(given, axis=-1), np.concatenate(found, axis=-1)

    whole = masked()[1]
    monkeypatch.setattr(inference, "STRETCH", 9000)
    given, parts = masked()
    assert np.array_equal(given, sound) and np.abs(whole).max() > 0.5
    np.testing.assert_allclose(parts, whole, atol=1e-5)


# The task ---------------------------------------------------------------------------------------------


def batch_of(task: Separation, what: Recipe, dataset: PreparedDataset, epoch: int = 0) -> dict[str, Tensor]:
    from avtool.data.loader import collate

    clips, _ = task.select_clips(what, dataset)
    views = task.training_views(what, dataset, clips)
    return collate([views.sample(epoch, int(i)) for i in clips[:4]])


def test_mixtures_are_sums_of_clips_of_other_classes_as_loud_as_they_are(data: Path) -> None:
    dataset, what = PreparedDataset(data), recipe("separate.sources=3")
    task = Separation(what, dataset, np.arange(len(dataset)))
    batch = batch_of(task, what, dataset)
    assert (batch["gain_db"] == 0).all() and (batch["other_gain_db"] == 0).all()
    kinds = torch.cat([batch["label"][:, None], batch["other_label"]], dim=1)
    assert all(len(set(row.tolist())) == 3 for row in kinds)
    mixed = mix(task.log_mel, batch)
    assert mixed.images.shape == (4, 3, 3, 32, 32) and mixed.sources.shape == (4, 3, 32, 64)
    torch.testing.assert_close(mixed.mixture, mixed.waveforms.sum(dim=1))
    torch.testing.assert_close(mixed.waveforms[:, 0], batch["waveform"].float() / 32768)
    torch.testing.assert_close(mixed.heard, task.log_mel(mixed.mixture))
    torch.testing.assert_close(mixed.sources[:, 1], task.log_mel(mixed.waveforms[:, 1])[:, 0])
    again = batch_of(task, what, dataset)
    assert torch.equal(batch["other_index"], again["other_index"])
    assert not torch.equal(batch["other_index"], batch_of(task, what, dataset, epoch=1)["other_index"])


def test_every_picture_is_asked_for_its_own_mask(data: Path) -> None:
    dataset, what = PreparedDataset(data), recipe("separate.weighted=false")
    task = Separation(what, dataset, np.arange(len(dataset))).eval()
    mixed = mix(task.log_mel, batch_of(task, what, dataset))
    logits = mask_logits(task.model, mixed)
    alone = task.model(mixed.images[1:2, 1], mixed.heard[1:2])[0, 0]
    torch.testing.assert_close(logits[1, 1], alone, atol=1e-4, rtol=1e-4)
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits, ratio_masks(mixed.sources))
    torch.testing.assert_close(task.loss(logits, mixed), wanted)


@pytest.mark.parametrize(("target", "total"), [("ratio", 1.0), ("binary", 1.0), ("published", 0.6)])
def test_targets(data: Path, target: str, total: float) -> None:
    dataset, what = PreparedDataset(data), recipe(f"separate.target={target}")
    task = Separation(what, dataset, np.arange(len(dataset)))
    mixed = mix(task.log_mel, batch_of(task, what, dataset))
    masks = task.targets(mixed.sources, mixed.heard.expand_as(mixed.sources))
    assert set(masks.unique().tolist()) <= {0.0, 1.0} or target != "binary"
    sums = masks.sum(dim=1)
    assert (sums - 1).abs().max() < 1e-5 if total == 1 else sums.mean() < 1


def oracle(module: torch.nn.Module, mixed: Mixtures) -> Tensor:
    return ratio_masks(mixed.sources).logit(eps=1e-6)


def test_what_is_measured_of_masks_that_are_right(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, what = PreparedDataset(data), recipe()
    clips, _ = Separation.select_clips(what, dataset)
    task = Separation(what, dataset, clips)
    views, numbers = task.evaluation_views(what, dataset, clips)

    def batches():
        from avtool.data.loader import batches_in_order

        return batches_in_order(views, numbers.tolist(), batch_size=5)

    untrained = task.validate(batches, batches)
    assert task.training
    monkeypatch.setattr(task_module, "mask_logits", oracle)
    values = task.validate(batches, batches)
    assert values["sdr_improvement"] > 10 and values["exchanged"] < -5
    assert values["loss"] < untrained["loss"] and values["clips"] == len(clips) == 18
    assert abs(untrained["sdr_improvement"]) < 1 and untrained["floor"] == values["floor"]
    assert "over the mixture itself" in task.summarize(values)


def test_fixed_mixtures_are_of_different_classes_and_follow_from_the_seed(data: Path) -> None:
    dataset = PreparedDataset(data)
    clips = np.arange(len(dataset))
    mixtures = fixed_mixtures(dataset, clips, 3, seed=0)
    assert np.array_equal(mixtures[:, 0], clips)
    assert all(len({dataset.label_id(int(i)) for i in row}) == 3 for row in mixtures)
    assert np.array_equal(mixtures, fixed_mixtures(dataset, clips, 3, seed=0))
    assert not np.array_equal(mixtures, fixed_mixtures(dataset, clips, 3, seed=1))


def test_a_run_goes_from_mixtures_to_a_model_that_separates(data: Path, tmp_path: Path) -> None:
    out = engine.train(recipe(), data=data, out=tmp_path / "run", allow_random=True, device="cpu")
    assert read_config(out / "best").kind == "separation"
    (table,) = evaluate(out, data, device="cpu")
    assert table.protocol == "bss-eval" and table.samples == 12


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("model.patch_size=8", TrainingError, "patches of 16x16, not 8x8"),
        ("model.dim=8", TrainingError, "needs 16 or more, not 8"),
        ("spectrogram.hop=500", TrainingError, "overlap by less than half"),
        ("separate.sources=4", DataError, "has 3 classes among its 18 clips"),
    ],
)
def test_what_cannot_be_trained_is_said_before_weights_are_loaded(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, error: type, message: str
) -> None:
    monkeypatch.setattr(engine.run, "load_start", lambda *args: pytest.fail("weights were loaded"))
    with pytest.raises(error, match=message) as raised:
        wrong = recipe("separate.decoder_width=null", change)
        engine.train(wrong, data=data, out=tmp_path / "run", allow_random=True, device="cpu")
    assert raised.value.hint
    assert not (tmp_path / "run").exists()


# Protocol bss-eval ------------------------------------------------------------------------------------


def values_of(table: object, measure: str) -> dict[str, float]:
    return {row.name: row.measures[measure].value for row in table.rows if measure in row.measures}


def test_a_model_stands_between_floor_and_ceilings(
    data: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "mask_logits", oracle)
    (table,) = evaluate(model, data, device="cpu")
    assert [row.role for row in table.rows] == ["model", "control", "control", "floor", "ceiling", "ceiling"]
    sdr, gain = values_of(table, "SDR"), values_of(table, "SDR improvement")
    assert sdr["model"] == pytest.approx(sdr["ideal ratio mask"], abs=0.01)
    assert (
        gain["the mixture itself"] == 0 and gain["ideal binary mask"] > 10 and gain["pictures exchanged"] < -5
    )
    assert "the mixture itself" not in values_of(table, "SAR")
    assert (table.samples, table.recordings, dict(table.left_out)) == (12, 6, {})


def test_kept_waveforms_have_the_scores_of_the_table(data: Path, model: Path, tmp_path: Path) -> None:
    evaluate(model, data, device="cpu", batch_size=5, save_predictions=tmp_path / "kept.npz")
    with np.load(tmp_path / "kept.npz") as kept:
        found, true, masks = (kept[name] for name in ("waveforms_model", "waveforms_sources", "masks_model"))
        clips, sdr = kept["mixtures"], kept["SDR_model"]
    assert (
        found.dtype == true.dtype == np.int16 and found.shape == true.shape and masks.shape[:2] == clips.shape
    )
    assert masks.min() >= 0 and masks.max() <= 1
    sounds = (torch.from_numpy(sound / 32768).float() for sound in (true, found))
    again = bss_eval(next(sounds), next(sounds)[:, None]).sdr
    assert again.flatten().numpy() == pytest.approx(sdr, abs=0.1)


def test_the_same_numbers_for_any_batch_size(data: Path, model: Path) -> None:
    one, many = (evaluate(model, data, device="cpu", batch_size=size)[0] for size in (1, 5))
    for measure in ("SDR", "SIR", "SAR"):
        assert values_of(one, measure) == pytest.approx(values_of(many, measure), abs=1e-3)
    assert evaluate(model, data, device="cpu", seed=1)[0].as_dict() != one.as_dict()


def test_silent_sources_are_left_out_and_counted(tmp_path: Path, model: Path) -> None:
    quiet = prepared(tmp_path, "abc" * 8, silent=[20])
    (table,), (one_by_one,) = (evaluate(model, quiet, device="cpu", batch_size=size) for size in (32, 1))
    left_out = table.left_out["as silent sources"]
    assert left_out >= 2 and table.samples == 12 - left_out
    assert one_by_one.left_out == table.left_out  # also where they are all that a batch has
    assert values_of(one_by_one, "SDR") == pytest.approx(values_of(table, "SDR"), abs=1e-3)


@pytest.mark.parametrize("silent", [[0], range(24)])
def test_a_run_whose_held_out_mixtures_have_silent_sources_says_how_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], silent: Sequence[int]
) -> None:
    quiet = prepared(tmp_path, "abc" * 8, silent=silent)
    out = tmp_path / "run"
    small = recipe("train.batch_size=1", "data.validation=0.5")
    engine.train(small, data=quiet, out=out, allow_random=True, device="cpu")
    said = " ".join(capsys.readouterr().err.split())
    row = read_metrics(out)[-1]
    if len(silent) == 1:
        assert f"; {row['held_out_silent']:.0f} sources of mixtures with a silent one left out; loss" in said
        assert row["held_out_silent"] >= 2 and row["held_out_sdr_improvement"] is not None
    else:
        assert "no SDR, for no mixture has two sources that sound; " in said
        assert "no best checkpoint: sdr_improvement was never a number; the last one is used" in said
        assert read_config(resolve_checkpoint(out)).kind == "separation" and not (out / "best").exists()


def test_pairs_that_the_data_names_are_taken(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = PreparedDataset(data, "test")
    names = [dataset.record(i).id for i in range(len(dataset))]
    partners = {0: names[3], 1: names[2], 4: "gone"}
    monkeypatch.setattr(dataset, "facts", lambda i: {"partner": partners.get(i)})
    pairs = evaluation.find_pairs(dataset, np.arange(len(dataset)), seed=0)
    assert pairs.mixtures.tolist() == [[0, 3], [1, 2]]
    assert "names" in pairs.words and pairs.left_out == {"whose partner is not there": 1}


def test_another_kind_of_model_is_refused_before_weights_are_loaded(data: Path, tmp_path: Path) -> None:
    other = saved(tmp_path / "x", "classifier", {**SETTINGS, "classes": 3})
    (other / "model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match=r"of kind .*, not separation") as error:
        evaluate(other, data, task="separate", device="cpu")
    assert "avtool finetune separate" in error.value.hint


# One's own clips --------------------------------------------------------------------------------------


def clip(path: Path, sound: np.ndarray | None, *, rate: int = RATE, seconds: int = 3) -> Path:
    write_clip(path, moving_frames(4 * seconds), fps=4, waveform=sound, sample_rate=rate)
    return path


def test_several_clips_have_folders_of_their_own(model: Path, tmp_path: Path) -> None:
    good = [str(clip(tmp_path / f"{name}.mp4", tone(3))) for name in "ab"]
    bad = str(clip(tmp_path / "mute.mp4", None))
    words = ["separate", *good, bad, "--model", str(model), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert (
        done.exit_code == 1
        and "mute.mp4 has no sound" in done.stderr
        and "1 of 3 clips failed" in done.stderr
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b"]
    assert len(done.stdout.split()) == 2 * len(list((tmp_path / "out" / "a").iterdir()))
    refused = CliRunner().invoke(app, [*words[:-1], str(tmp_path / "x"), "--with", good[0]])
    assert refused.exit_code == 2 and "--with goes with one clip, not with 3" in refused.stderr


def stereo(seconds: float, rate: int = 48000) -> np.ndarray:
    left, right = tone(seconds, rate=rate), tone(seconds, frequency=9500, rate=rate, level=0.3)
    return np.stack([left, right], axis=1)


def test_the_files_sum_to_the_clips_own_sound(tmp_path: Path, model: Path) -> None:
    path, out = clip(tmp_path / "-x.mp4", stereo(3), rate=48000), tmp_path / "o"
    found = separate(path, out=out, model=model)
    assert [file.name for file in found.files] == ["guided.wav", "rest.wav", "masks.png", "separation.json"]
    assert sorted(found.files) == sorted(out.iterdir())
    (guided, rate), (rest, _) = (
        soundfile.read(out / f"{name}.wav", dtype="float32") for name in ("guided", "rest")
    )
    track = read_track(path)
    assert rate == track.rate == 48000
    own = track.waveform().T
    assert guided.shape == rest.shape == own.shape == (144000, 2)
    np.testing.assert_allclose(guided + rest, own, atol=1e-6)
    assert np.abs(guided[:, 0]).max() > 0.1
    assert np.abs(guided[5000:-5000, 1]).max() < 0.01  # 9.5 kHz: above what the model hears
    assert cv2.imread(str(out / "masks.png")).shape[1] > 800
    assert json.loads((out / "separation.json").read_text())["with"] is None


def test_the_same_sounds_are_the_same_bytes(tmp_path: Path, model: Path) -> None:
    path, written = clip(tmp_path / "x.mp4", tone(3)), []
    for seconds in (0.0, 1.1):  # libsndfile asks the system what time it is, in whole seconds
        time.sleep(seconds)
        out = separate(path, out=tmp_path / str(seconds), model=model).files[0].parent
        written.append([(out / name).read_bytes() for name in ("guided.wav", "rest.wav")])
    assert written[0] == written[1]


@pytest.mark.parametrize("mixed", [False, True])
def test_pieces_are_the_sounds_as_a_whole(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, mixed: bool
) -> None:
    one = clip(tmp_path / "one.mp4", stereo(4), rate=48000)
    options = {"model": model, "other": clip(tmp_path / "two.mp4", tone(3)) if mixed else None}
    whole = separate(one, out=tmp_path / "whole", **options)
    monkeypatch.setattr(inference, "STRETCH", 60000)
    monkeypatch.setattr(sound_module, "IN_MEMORY", 1)
    pieces = separate(one, out=tmp_path / "pieces", **options)
    assert pieces.sounds.keys() == whole.sounds.keys() and pieces.sdr.keys() == whole.sdr.keys()
    for name, sound in whole.sounds.items():
        assert np.abs(sound).max() > 0.01
        np.testing.assert_allclose(pieces.sounds[name], sound, atol=1e-5)
    for name, figures in whole.sdr.items():
        assert pieces.sdr[name] == pytest.approx(figures, abs=0.01)
    if mixed:
        assert (tmp_path / "whole/mixture.wav").read_bytes() == (tmp_path / "pieces/mixture.wav").read_bytes()
    drawn = [cv2.imread(str(tmp_path / name / "masks.png")).astype(int) for name in ("whole", "pieces")]
    assert np.abs(drawn[0] - drawn[1]).max() <= 8 and np.abs(drawn[0] - drawn[1]).mean() < 0.01
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["pieces", "whole"]


def test_a_long_sound_is_not_held_in_memory(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "STRETCH", 1 << 16)
    monkeypatch.setattr(sound_module, "IN_MEMORY", 1 << 16)
    cv2.imwrite(str(tmp_path / "p.png"), np.zeros((32, 32, 3), np.uint8))
    peaks, rate = dict[int, int](), 96000
    for seconds in (3, 10, 30):  # the first one loads what is loaded once
        soundfile.write(tmp_path / "s.wav", np.resize(stereo(1, rate), (seconds * rate, 2)), rate)
        tracemalloc.start()
        separate(tmp_path / "p.png", audio=tmp_path / "s.wav", out=tmp_path / str(seconds), model=model)
        peaks[seconds] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    one_sound = (30 - 10) * rate * 2 * 4
    assert peaks[30] - peaks[10] < one_sound / 2


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, model: Path) -> None:
    path, limits = clip(tmp_path / "x.mp4", stereo(3), rate=48000), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))  # a sound has 1.2 MB
    try:
        with pytest.raises(OSError, match="too large") as told:
            separate(path, out=tmp_path / "o", model=model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert told.value.errno == errno.EFBIG
    assert [name.name for name in tmp_path.iterdir()] == ["x.mp4"]


def test_a_clip_is_not_mixed_with_itself(tmp_path: Path, model: Path) -> None:
    path, link = clip(tmp_path / "x.mp4", tone(3)), tmp_path / "y.mp4"
    link.symlink_to(path)
    with pytest.raises(UsageError, match=r"--with .*y\.mp4 has the very sound of the clip"):
        separate(path, out=tmp_path / "o", model=model, other=link)
    assert not (tmp_path / "o").exists()


def test_a_clip_to_mix_in_needs_picture_and_sound_of_its_own(tmp_path: Path, model: Path) -> None:
    path = clip(tmp_path / "x.mp4", tone(3))
    soundfile.write(tmp_path / "y.wav", tone(3), RATE)
    cv2.imwrite(str(tmp_path / "y.png"), np.zeros((32, 32, 3), np.uint8))
    for other in (clip(tmp_path / "mute.mp4", None), tmp_path / "y.wav", tmp_path / "y.png"):
        with pytest.raises(AvtoolError, match=other.name) as told:
            separate(path, out=tmp_path / "o", model=model, other=other)
        assert told.value.hint == "choose a video with sound for --with"


def test_masks_of_ones_leave_nothing_over(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        inference, "window_masks", lambda chosen, heard, guides: torch.ones(1, 32, len(heard) // 250)
    )
    found = separate(clip(tmp_path / "x.mp4", tone(3)), out=tmp_path / "o", model=model)
    assert np.abs(found.sounds["rest"]).max() < 1e-5 < 0.4 < np.abs(found.sounds["guided"]).max()


def test_windows_fade_into_each_other() -> None:
    starts, frames = [0, 32, 64, 83], 147

    def faded(*values: float) -> Tensor:
        fade = inference.CrossFade(2, 64, frames, torch.device("cpu"))
        for start, value in zip(starts, values, strict=True):
            fade.add(start, torch.full((2, 64), value))
        return fade.mask()

    torch.testing.assert_close(faded(0.3, 0.3, 0.3, 0.3), torch.full((2, 147), 0.3))
    steps = faded(0.0, 1.0, 0.0, 1.0)
    assert steps.diff(dim=1).abs().max() < 0.09
    assert steps[0, 0] == 0 and steps[0, -1] == 1


@pytest.mark.parametrize("seconds", [0.98, 1.0, 1.016, 1.032, 1.1, 1.15, 1.52])
def test_clips_about_as_long_as_a_window_are_masked_from_end_to_end(
    tmp_path: Path, model: Path, seconds: float
) -> None:
    found = separate(clip(tmp_path / "x.mp4", tone(seconds)), out=tmp_path / "o", model=model)
    mask = found.masks["guided"]
    assert mask.shape[1] == pytest.approx(64 * seconds, abs=8)
    assert ((mask > 0) & (mask < 1)).all()


def test_a_long_clip_is_guided_by_the_frames_of_its_windows(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = Clip.frame
    monkeypatch.setattr(Clip, "frame", lambda self, time: seen.append(time) or real(self, time))
    path = clip(tmp_path / "x.mp4", tone(3))
    moving = separate(path, out=tmp_path / "a", model=model)
    assert seen == pytest.approx([1.5, 0.5, 1.0, 1.5, 2.0, 2.5], abs=0.01)  # the first is drawn
    separate(path, out=tmp_path / "b", model=model, at=1.0)
    assert seen[6:] == [1.0]
    assert moving.masks["guided"].shape == (32, 192)


def test_the_box_chooses_the_picture(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = inference.shown

    def spy(frame: np.ndarray, size: tuple[int, int], crop: object) -> np.ndarray:
        seen.append((frame, crop))
        return real(frame, size, crop)

    monkeypatch.setattr(inference, "shown", spy)
    path = clip(tmp_path / "x.mp4", tone(3))
    separate(path, out=tmp_path / "o", model=model, at=1.0, box=(0.25, 0.5, 0.75, 1.0))
    frame = read_frame(path, 1.0)[0]
    assert np.array_equal(seen[0][0], frame[24:48, 16:48])
    assert {crop for _, crop in seen} == {whole_crop}


def test_two_clips_are_mixed_and_found_again(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks that claim all of it twice are shared, so that the files still sum to the mixture."""
    one = clip(tmp_path / "one.mp4", stereo(3), rate=48000)
    # it fades: how a sound's last samples come out differs between FFmpeg 8 and 9, which cuts AAC's end padding
    fading = tone(2, frequency=2000) * np.linspace(4, 0, 2 * RATE, dtype=np.float32).clip(max=1)
    two = clip(tmp_path / "two.mp4", fading, seconds=2)
    monkeypatch.setattr(
        inference, "window_masks", lambda chosen, heard, guides: torch.ones(2, 32, len(heard) // 250)
    )
    found = separate(one, other=two, out=tmp_path / "o", model=model)
    sounds = {
        file.stem: soundfile.read(file, dtype="float32")[0] for file in found.files if file.suffix == ".wav"
    }
    assert list(sounds) == ["guided", "other", "rest", "mixture"]
    total = sounds["guided"] + sounds["other"] + sounds["rest"]
    np.testing.assert_allclose(total, sounds["mixture"], atol=1e-6)
    np.testing.assert_allclose(sounds["guided"], sounds["other"], atol=1e-6)
    assert np.abs(sounds["rest"][:, 0]).max() < 0.02 < 0.4 < np.abs(sounds["guided"][:, 0]).max()
    own = read_track(one).waveform().T
    np.testing.assert_allclose(sounds["mixture"][100000:], own[100000:], atol=1e-3)  # the other one is over
    assert np.abs(sounds["mixture"][:90000] - own[:90000]).max() > 0.3
    assert set(found.sdr) == {"guided", "other"}


def test_a_picture_with_a_sound_and_a_clip_shorter_than_the_window(tmp_path: Path, model: Path) -> None:
    cv2.imwrite(str(tmp_path / "p.png"), np.zeros((30, 20, 3), np.uint8))
    soundfile.write(tmp_path / "s.wav", tone(0.5, rate=11025), 11025)
    found = separate(tmp_path / "p.png", audio=tmp_path / "s.wav", out=tmp_path / "o", model=model)
    assert found.rate == 11025 and found.sounds["guided"].shape == (round(0.5 * 11025), 1)


@pytest.mark.parametrize(
    ("box", "message", "hint"),
    [
        ((0.1, 0.1, 1.2, 0.5), "reaches outside", "fractions"),
        ((16, 12, 48, 36), "reaches outside", r"these pixels of 64 x 48 are --box 0.25,0.25,0.75,0.75"),
        ((0.5, 0.5, 1.5, 0.9), "reaches outside", "x1,y1,x2,y2 are fractions of the frame, from 0 to 1$"),
        ((0.5, 0.1, 0.2, 0.5), "nothing in it", "--box 0.2,0.1,0.5,0.5"),
        ((0.5, 0.1, 0.5, 0.5), "nothing in it", "x1 < x2"),
        ((float("nan"), 0.1, 0.5, 0.5), "reaches outside", "fractions"),
    ],
)
def test_boxes_that_are_none(box: tuple, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        inference.cropped_to(np.zeros((48, 64, 3), np.uint8), box)
    assert re.search(hint, error.value.hint)


def test_what_is_wrong_is_said_before_weights_are_loaded(tmp_path: Path, model: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((model / "config.json").read_bytes())
    (broken / "model.safetensors").write_bytes(b"")
    good, mute = clip(tmp_path / "good.mp4", tone(3)), clip(tmp_path / "mute.mp4", None)
    silent = clip(tmp_path / "silent.mp4", np.zeros(48000, np.float32))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    classifier = saved(tmp_path / "c", "classifier", {**SETTINGS, "classes": 3})
    cases: list[tuple[type, str, Path, dict]] = [
        (MediaError, "mute.mp4 has no sound track", mute, {}),
        (MediaError, "mute.mp4 has no sound track", good, {"other": mute}),
        (MediaError, "silent.mp4 has digital silence", silent, {}),
        (UsageError, "do not go together", good, {"other": good, "box": (0, 0, 1, 1)}),
        (UsageError, "reaches outside", good, {"box": (0, 0, 2, 2)}),
        (UsageError, "of kind classifier, not separation", good, {"model": classifier}),
        (UsageError, "x.wav has the name of a sound file", good, {"out": tmp_path / "x.wav"}),
        (UsageError, "full exists", good, {"out": tmp_path / "full"}),
        (UsageError, "is not replaced", good, {"out": tmp_path / "full", "force": True}),
    ]
    for kind, message, path, options in cases:
        with pytest.raises(kind, match=message) as error:
            separate(path, **{"out": tmp_path / "o", "model": broken, **options})
        assert error.value.hint or "sound track" in message
    assert not (tmp_path / "o").exists()
    with pytest.raises(AvtoolError, match="empty"):
        separate(good, out=tmp_path / "o", model=broken)


def test_a_picture_of_masks_shows_them(tmp_path: Path) -> None:
    mel = np.full((32, 64), -2.0)
    picture = np.full((20, 10, 3), (200, 10, 10), np.uint8)
    masks = [np.zeros((32, 64)), np.ones((32, 64))]
    dark, bright = (
        render_masks(mel, [Panel("x", picture, mask)], title="t", seconds=1.0, highest=8000.0)
        for mask in masks
    )
    assert dark.shape == bright.shape and dark.dtype == np.uint8
    assert (dark == (200, 10, 10)).all(axis=2).any()
    assert (bright != dark).any(axis=2).sum() > 2 * 300 * 150  # mask and what it leaves
    with pytest.raises(ValueError, match="does not lie over"):
        render_masks(mel, [Panel("x", None, np.zeros((32, 60)))], title="t", seconds=1.0, highest=8000.0)
