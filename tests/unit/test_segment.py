"""Segmentation from training to one's own clip, on pictures in which the sound says which half is meant."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from avtool import engine, media
from avtool.cli import app
from avtool.config.recipes import load_recipe
from avtool.data.dataset import PreparedDataset
from avtool.data.loader import batches_in_order
from avtool.data.prepare import prepare
from avtool.errors import AvtoolError, DataError, MediaError, TrainingError, UsageError
from avtool.evaluate import evaluate
from avtool.losses import overlap_loss
from avtool.pages import report
from avtool.places import resolve_checkpoint
from avtool.report.overlay import lay_over, palette, write_mask
from avtool.tasks.localize.predict import localize
from avtool.tasks.names import ClassNames
from avtool.tasks.segment.predict import segment
from avtool.tasks.segment.train import Segmentation
from avtool.whole import slower
from tests import clips, timed

RATE = clips.RATE
SMALL = (
    "train.batch_size=8",
    "train.precision=float32",
    "train.eval_every=0",
    "train.log_every=5",
    "model.image_size=[32,32]",
    "model.audio_size=[32,64]",
    "model.dim=128",
    "model.depth=2",
    "model.heads=4",
    "data.workers=0",
    "data.flip=false",
    "data.crop_scale=[0.9,1.0]",
    "init.model=none",
)
COLOURS = {"red": (220, 40, 40), "blue": (40, 40, 220)}
TONES = {"red": 300, "blue": 2400}


def picture(generator: np.random.Generator, first: str, second: str) -> np.ndarray:
    """A grey frame with a patch of one colour in its left half and one of the other in its right."""
    frame = np.full((64, 64, 3), generator.integers(90, 150), np.uint8)
    for name, at in ((first, 2), (second, 34)):
        top = int(generator.integers(4, 28))
        frame[top : top + 32, at : at + 28] = COLOURS[name]
    return frame


def sound(name: str) -> np.ndarray:
    return clips.tone(1.5, frequency=TONES[name])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 48 pictures: both colours in view, one of them sounds and is masked with 1."""
    folder, generator = tmp_path_factory.mktemp("source"), np.random.default_rng(0)
    lines = ["id,split,label,image,audio,mask,view"]
    for number in range(48):
        order = ("red", "blue") if generator.random() < 0.5 else ("blue", "red")
        heard = ("red", "blue")[number % 2]
        frame = picture(generator, *order)
        cv2.imwrite(str(folder / f"{number}.png"), frame[..., ::-1])
        cv2.imwrite(str(folder / f"m{number}.png"), (frame == COLOURS[heard]).all(axis=2).astype(np.uint8))
        soundfile.write(folder / f"{number}.wav", sound(heard), RATE)
        split, view = ("test" if number >= 40 else "train"), '"[1, 2]"' if number % 4 < 3 else ""
        lines.append(f"{number},{split},{heard},{number}.png,{number}.wav,m{number}.png,{view}")
    (folder / "table.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def data(source: Path) -> Path:
    return prepare("manifest", source / "table.csv", out=source / "prepared").out


def recipe(*overrides: str):
    return load_recipe("tiny-segment", [*SMALL, *overrides])


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of both colours, trained for some seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("run") / "run"
    given = recipe("max_steps=60", "optim.base_lr=3e-2", "optim.layer_decay=1.0")
    engine.train(given, data=data, out=out, allow_random=True, device="cpu")
    torch.set_num_threads(threads)
    return out


@pytest.fixture(scope="module")
def semantic(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("semantic") / "run"
    given = recipe("max_steps=1", "segment.semantic=true", "train.eval_clips=2")
    return engine.train(given, data=data, out=out, allow_random=True, device="cpu")


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading weights fails the test."""

    def load(*args, **kwargs):
        pytest.fail("weights were loaded")

    for module in ("avtool.tasks.context", "avtool.predict"):
        monkeypatch.setattr(f"{module}.load_model", load)


def measures(table) -> dict[str, dict[str, float]]:
    return {row.name: {name: found.value for name, found in row.measures.items()} for row in table.rows}


def test_the_mask_follows_the_sound(run: Path, data: Path) -> None:
    tpavi, published, crowded, _ = evaluate(run, data, batch_size=3)
    found = measures(tpavi)
    assert found["model"]["mIoU"] > 70
    assert found["another class's sound"]["mIoU"] < 20
    assert found["untrained weights"]["mIoU"] < 35
    assert found["an empty mask"]["mIoU"] == 0
    assert found["foreground all over"]["mIoU"] == pytest.approx(100 * 32 * 28 / 64**2, rel=0.02)
    assert (tpavi.samples, tpavi.recordings, crowded.samples) == (8, 8, 6)
    assert crowded.notes[0] == "Only frames with two objects or more in view."
    both = measures(published)["model"]
    assert both["mIoU"] > found["model"]["mIoU"]
    assert both["F"] >= found["model"]["F"]
    text = f"mIoU {found['model']['mIoU']:.1f}% and F {found['model']['F']:.1f}% by avs-tpavi, {both['mIoU']:.1f}%"
    assert any(text in note for note in tpavi.notes)


def test_the_same_numbers_for_any_batch_size_and_workers(run: Path, data: Path, tmp_path: Path) -> None:
    one = evaluate(run, data, batch_size=8, save_predictions=tmp_path / "p.npz")
    other = evaluate(run, data, batch_size=3, workers=1)
    for a, b in zip(one, other, strict=True):
        assert measures(a).keys() == measures(b).keys()
        for name, values in measures(a).items():
            assert values == pytest.approx(measures(b)[name], abs=1e-9)
    kept = np.load(tmp_path / "p.npz")
    assert kept["frames"].tolist() == [[i, 0] for i in range(8)]
    assert 100 * kept["foreground IoU: model"].mean() == pytest.approx(measures(one[0])["model"]["mIoU"])
    f = 100 * kept["F at each threshold: model"].mean(axis=0).max()
    assert f == pytest.approx(measures(one[0])["model"]["F"])
    assert not kept["nothing sounds: model"].any()
    dataset = PreparedDataset(data, "test")
    for number, (clip, frame) in enumerate(kept["frames"]):
        truth = cv2.resize(dataset.mask(clip, frame), (224, 224), interpolation=cv2.INTER_NEAREST_EXACT) > 0
        mask = kept["mask: model"][number]
        assert mask.dtype == np.uint8 and mask.shape == truth.shape
        iou = (truth & (mask > 127)).sum() / (truth | (mask > 127)).sum()
        assert iou == pytest.approx(kept["foreground IoU: model"][number], abs=1e-3)


def test_masks_of_classes_are_kept_as_class_numbers(semantic: Path, data: Path, tmp_path: Path) -> None:
    evaluate(semantic, data, save_predictions=tmp_path / "p.npz")
    masks = np.load(tmp_path / "p.npz")["mask: model"]
    assert masks.dtype == np.uint8 and masks.shape == (8, 224, 224) and masks.max() < 3


def test_what_training_measures_does_not_depend_on_the_batches(run: Path, data: Path) -> None:
    dataset, given = PreparedDataset(data, "test"), recipe()
    task = Segmentation(given, dataset, np.arange(8))
    views, numbers = task.evaluation_views(given, dataset, np.arange(8))

    def batches(size: int):
        return lambda: batches_in_order(views, numbers.tolist(), batch_size=size)

    large, small = task.validate(batches(8), batches(8)), task.validate(batches(3), batches(3))
    assert large == pytest.approx(small, rel=1e-5)
    assert large["clips"] == 8
    assert large["floor"] == pytest.approx(32 * 28 / 64**2, rel=0.02)
    assert "a blind mask gets" in task.summarize(large)
    assert task.training


def test_classes_have_masks_of_their_own(semantic: Path, data: Path) -> None:
    (table, crowded) = evaluate(semantic, data)
    assert table.protocol == crowded.protocol == "avs-semantic"
    found = measures(table)
    assert found["background all over"]["mIoU"] == pytest.approx(100 * (1 - 32 * 28 / 64**2) / 3, rel=0.02)
    assert json.loads((semantic / "best/classes.json").read_text())["classes"] == [
        "background",
        "blue",
        "red",
    ]


def test_what_cannot_be_trained_is_refused(data: Path, tmp_path: Path, source: Path) -> None:
    def train(folder: Path, *overrides: str) -> None:
        engine.train(recipe("max_steps=1", *overrides), data=folder, out=tmp_path / "run", allow_random=True)

    def other(name: str, *, mask: int | None) -> Path:
        lines = ["id,split,label,image,audio" + (",mask" if mask else "")]
        for number in range(9):
            if mask:
                cv2.imwrite(str(source / f"{name}{number}.png"), np.full((64, 64), mask, np.uint8))
            lines.append(
                f"{number},train,red,{number}.png,{number}.wav" + (f",{name}{number}.png" if mask else "")
            )
        (source / f"{name}.csv").write_text("\n".join(lines))
        return prepare("manifest", source / f"{name}.csv", out=tmp_path / name).out

    with pytest.raises(TrainingError, match="64 wide, its encoder 48"):
        train(data, "model.dim=48")
    with pytest.raises(TrainingError, match="segment needs every patch"):
        train(data, "train.keep_patches=0.5")
    with pytest.raises(DataError, match="no clip of split train has a mask"):
        train(other("bare", mask=None))
    with pytest.raises(DataError, match=r"clip 0 of .* holds 255, but the clip has 1 labels"):
        train(other("binary", mask=255), "segment.semantic=true")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_weights")
def test_what_cannot_be_judged_is_refused_before_weights_are_loaded(
    run: Path, semantic: Path, data: Path, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="gives one mask of all that sounds: avs-semantic cannot judge it"):
        evaluate(run, data, protocols=["avs-tpavi", "avs-semantic"])
    with pytest.raises(UsageError, match="gives a mask of each class: avs-tpavi cannot judge it"):
        evaluate(semantic, data, protocols=["avs-tpavi"])
    (source / "few.csv").write_text("id,split,label,image,audio,mask\n0,test,red,0.png,0.wav,m0.png")
    few = prepare("manifest", source / "few.csv", out=tmp_path / "few").out
    with pytest.raises(DataError, match=r"tells 3 classes apart, .* has 2, the background among them"):
        evaluate(semantic, few)
    other = tmp_path / "other"
    shutil.copytree(resolve_checkpoint(semantic), other)
    ClassNames(("background", "red", "green"), several=True).write(other)
    with pytest.raises(DataError, match=r"class 1 is 'red' for the model and 'blue' in"):
        evaluate(other, data)


def test_without_other_classes_the_exchanged_row_is_left_out_and_said(
    run: Path, source: Path, tmp_path: Path
) -> None:
    (source / "one.csv").write_text("id,split,label,image,audio,mask\n0,test,red,0.png,0.wav,m0.png")
    one = prepare("manifest", source / "one.csv", out=tmp_path / "one").out
    table = evaluate(run, one)[0]
    assert "another class's sound" not in measures(table)
    assert table.notes[0].startswith("No row with another class's sound: ")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds, 30 frames each: first the red patch sounds, then the blue one; red is on the left."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    frame = cv2.resize(picture(np.random.default_rng(5), "red", "blue"), (96, 64))
    wave = np.concatenate([clips.tone(2, frequency=TONES[name]) for name in ("red", "blue")])
    media.write_clip(path, [frame] * 120, fps=30, waveform=wave, sample_rate=RATE)
    return path


def test_a_mask_of_ones_own_clip(run: Path, clip: Path, tmp_path: Path) -> None:
    for at, left in ((0.5, True), (3.5, False)):
        found = segment(
            clip, out=tmp_path / "m.png", overlay=tmp_path / "o.png", model=run, at=at, force=True
        )
        mask = media.read_mask(tmp_path / "m.png")[0]
        assert mask.shape == (64, 96)
        assert set(np.unique(mask)) == {0, 255}
        assert np.array_equal(mask > 0, found.mask == 1)
        assert (np.nonzero(mask)[1].mean() < 48) == left
        assert found.shares == {"sounding": pytest.approx((mask > 0).mean())}
        changed = (media.read_image(tmp_path / "o.png") != media.read_frame(clip, at)[0]).any(axis=2)
        assert (changed == (mask > 0)).mean() > 0.98


def test_a_whole_clip_under_its_masks(
    run: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = segment(clip, out=tmp_path / "o.mp4", model=run)
    assert "warning" not in capsys.readouterr().err
    video = clips.streams_of(tmp_path / "o.mp4")["video"]
    assert (video["width"], video["height"], video["fps"], found.frames) == (96, 64, 15, 60)
    assert media.describe_container(tmp_path / "o.mp4")["duration"] == pytest.approx(4, abs=0.15)
    own, written = (
        media.read_waveform(path, sample_rate=RATE)[2000:60000] for path in (clip, tmp_path / "o.mp4")
    )
    assert np.corrcoef(own, written)[0, 1] > 0.99
    for at, left in ((0.5, True), (3.5, False)):
        change = np.abs(
            media.read_frame(tmp_path / "o.mp4", at)[0].astype(int) - media.read_frame(clip, at)[0]
        ).sum(axis=2)
        assert (change[:, :48].mean() > change[:, 48:].mean()) == left
    assert not list(tmp_path.glob(".*"))


def test_masks_alone_and_the_page_of_them_beside_maps(run: Path, clip: Path, tmp_path: Path) -> None:
    found = segment(clip, out=tmp_path / "found" / "masks.npz", model=run, every=0.25)
    with np.load(tmp_path / "found" / "masks.npz") as file:
        kept = {name: file[name] for name in file.files}
    assert kept["times"] == pytest.approx(np.arange(0, 4, 0.25), abs=0.01) and found.frames == 16
    assert kept["masks"].shape == (16, 32, 32) and kept["masks"].dtype == np.uint8
    assert found.shares == {"sounding": pytest.approx((kept["masks"] > 0).mean())}
    for at, left in ((2, True), (14, False)):
        assert (np.nonzero(kept["masks"][at])[1].mean() < 16) == left
    assert kept["names"].tolist() == ["background", "sounding"]
    assert (kept["clip"], kept["sound"], Path(str(kept["model"])).parent) == (str(clip), str(clip), run)
    maps = localize(clip, out=tmp_path / "found" / "maps.npz", model=run, controls=True)
    text = report(tmp_path / "found", out=tmp_path / "page.html").read_text()
    for name, control in maps.controls.items():
        assert f"<b>{name}</b>: {100 * control.marked:.1f} % marked" in text
    assert "masks, masks.npz" in text and "probability that a pixel sounds" in text


def test_several_clips_share_a_model_and_a_bad_one_stops_none(run: Path, clip: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "in").mkdir()
    shutil.copy(clip, folder / "a.mp4")
    (folder / "b.mp4").write_text("no video")
    words = [
        "segment",
        str(folder),
        str(clip),
        "--model",
        str(run),
        "--at",
        "0.5",
        "--out",
        str(tmp_path / "out"),
    ]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 1 and done.stderr.count("(from --model)") == 1
    told = json.loads(done.stdout)
    assert [Path(one["files"][0]).name for one in told["clips"]] == ["a.png", "clip.png"]
    assert [Path(one["clip"]).name for one in told["failed"]] == ["b.mp4"]
    alone = segment(clip, out=tmp_path / "m.png", model=run, at=0.5).mask
    for name in ("a.png", "clip.png"):
        assert np.array_equal(media.read_mask(tmp_path / "out" / name)[0] > 0, alone == 1)
    again = CliRunner().invoke(app, words)  # what is there is not replaced, and the exit code says so
    assert again.exit_code == 1 and again.stderr.count("exists") >= 2


@pytest.mark.parametrize("ending", ["mp4", "ts"])
def test_a_whole_clip_whose_picture_begins_late_stays_in_time(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    path = timed.make(tmp_path / f"late.{ending}", picture_begins=0.52)
    segment(path, out=tmp_path / "o.mp4", model=run)
    seen, own = timed.see(tmp_path / "o.mp4"), timed.see(path)
    assert seen.numbers[0] == 13 and len(seen.numbers) == 44
    assert seen.late() == pytest.approx(own.late()[0], abs=1e-3)
    assert seen.clicks == pytest.approx(own.clicks, abs=2e-3)


def test_it_is_said_where_the_sound_of_a_whole_clip_ends_first(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = cv2.resize(picture(np.random.default_rng(5), "red", "blue"), (96, 64))
    media.write_clip(tmp_path / "c.mp4", [frame] * 32, fps=8, waveform=sound("red"), sample_rate=RATE)
    segment(tmp_path / "c.mp4", out=tmp_path / "o.mp4", model=run)
    assert (
        "c.mp4 has sound up to 1.5 s: frames more than 0.5 s after that are judged by the last of it"
        in capsys.readouterr().err
    )


def test_a_picture_with_its_sound_and_classes(semantic: Path, source: Path, tmp_path: Path) -> None:
    found = segment(source / "1.png", audio=source / "1.wav", out=tmp_path / "m.png", model=semantic)
    assert set(found.shares) <= {"red", "blue"}
    assert np.array_equal(media.read_mask(tmp_path / "m.png")[0], found.mask)


@pytest.mark.usefixtures("no_weights")
def test_what_cannot_be_segmented_is_refused_before_weights_are_loaded(
    run: Path, clip: Path, data: Path, source: Path, tmp_path: Path
) -> None:
    def refused(error: type[AvtoolError], match: str, given: Path = clip, **options) -> None:
        with pytest.raises(error, match=match):
            segment(given, **{"out": tmp_path / "m.png", "model": run} | options)
        assert not list(tmp_path.glob("*.png"))

    mute = tmp_path / "mute.mp4"
    media.write_clip(mute, clips.level_frames(20), fps=10, waveform=None, sample_rate=RATE)
    silent = tmp_path / "silent.mp4"
    nothing = np.zeros(2 * RATE, np.float32)
    media.write_clip(silent, clips.level_frames(20), fps=10, waveform=nothing, sample_rate=RATE)
    refused(MediaError, "mute.mp4 has no sound track", mute)
    refused(MediaError, "silent.mp4 has ", silent)
    refused(MediaError, "silent.mp4 has ", silent, out=tmp_path / "o.mp4")
    refused(MediaError, "1.wav has no video", source / "1.wav")
    refused(UsageError, "is a picture and has no sound", source / "1.png")
    refused(
        UsageError,
        "is a picture, and --out .* is of a whole clip",
        source / "1.png",
        audio=source / "1.wav",
        out=Path("x.mp4"),
    )
    refused(UsageError, "neither .png, .mp4 nor .npz", out=tmp_path / "m.jpg")
    refused(UsageError, "--at is of one frame", out=tmp_path / "o.mp4", at=1.0)
    refused(UsageError, "--every says nothing where", out=tmp_path / "o.mp4", every=1.0)
    refused(UsageError, "--overlay is of one frame", out=tmp_path / "o.mp4", overlay=tmp_path / "o.png")
    refused(UsageError, "--overlay .* would replace", overlay=tmp_path / "m.png")
    refused(UsageError, "--out .* would replace", out=clip, force=True)
    pretrained = tmp_path / "other"
    engine.train(
        load_recipe("tiny-classify", [*SMALL, "max_steps=1", "train.accumulate=1", "train.eval_clips=0"]),
        data=data,
        out=pretrained,
        allow_random=True,
        device="cpu",
    )
    refused(UsageError, "of kind classifier, not segmentation", model=pretrained)
    with pytest.raises(UsageError, match=r"of kind .*, not segmentation"):
        evaluate(pretrained, data, task="segment")


def test_frames_on_a_grid_and_how_fast(tmp_path: Path) -> None:
    path = tmp_path / "c.mp4"
    media.write_clip(path, clips.level_frames(20), fps=10, waveform=None, sample_rate=RATE)
    with media.MediaFile(path) as file:
        half = [
            (clips.level_of(frame.rgb()), round(time, 3)) for frame, time in media.shown_frames(file, rate=5)
        ]
        twice = [clips.level_of(frame.rgb()) for frame, _ in media.shown_frames(file, rate=20)]
    assert half == [(2 * k, k / 5) for k in range(10)]
    assert twice == [k // 2 for k in range(40)]
    assert [slower(fps) for fps in (10, 15, 25, 30, 60, 0)] == [10, 15, 12.5, 15, 15, 15]


def test_an_overlay_tints_what_is_marked(tmp_path: Path) -> None:
    frame, mask = np.full((40, 60, 3), 100, np.uint8), np.zeros((40, 60), np.uint8)
    mask[5:30, 10:40] = 2
    picture = lay_over(frame, mask)
    assert np.array_equal((picture != frame).any(axis=2), mask > 0)
    assert np.abs(picture[15, 20].astype(int) - (100 + palette(3)[2].astype(int)) / 2).max() <= 1
    assert not np.array_equal(lay_over(frame, mask, names=("", "", "dog")), picture)
    assert len(np.unique(palette(71), axis=0)) == 71
    with pytest.raises(ValueError, match="does not lie over"):
        lay_over(frame, mask.T)
    write_mask(tmp_path / "m.png", mask, classes=3)
    assert np.array_equal(media.read_mask(tmp_path / "m.png")[0], mask)


def test_the_loss_of_overlap_is_added_by_its_weight(data: Path) -> None:
    dataset = PreparedDataset(data, "train")
    logits = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    masks = (logits[:, 0] > 0.5).to(torch.uint8)
    alone, both = (
        Segmentation(recipe(f"segment.overlap={weight}"), dataset, np.arange(8)).loss(logits, masks)
        for weight in (0, 2)
    )
    assert (both - alone).item() == pytest.approx(2 * overlap_loss(logits, masks).item(), rel=1e-5)
