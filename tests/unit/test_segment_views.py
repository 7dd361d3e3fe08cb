"""Views of masks: what a stored mask means, and that it stays where its frame is."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile

from avtool.data.dataset import PreparedDataset
from avtool.data.prepare import prepare
from avtool.data.views import (
    MaskViews,
    TrainingViews,
    class_names,
    frame_mask,
    masked_clips,
    masked_frames,
    resized_mask,
)
from avtool.errors import DataError
from avtool.inputs import window_with

RATE = 16000
CLASSES = ["background", "cat", "dog"]


@pytest.fixture(scope="module")
def avsbench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training clips and a test clip of S4's form: second k has the grey level 30 k, and a red box masked."""
    root = tmp_path_factory.mktemp("avsbench")
    rows = [("one", "cat", "train"), ("two", "dog", "train"), ("three", "cat", "test")]
    for number, (uid, label, split) in enumerate(rows):
        folder = root / "v1s" / uid
        for part in ("frames", "labels_semantic"):
            (folder / part).mkdir(parents=True)
        loud = np.repeat(np.arange(1, 6) / 8, RATE) * np.sin(2000 * np.arange(5 * RATE) / RATE)
        soundfile.write(folder / "audio.wav", loud, RATE)
        for second in range(5):
            frame, mask = np.full((60, 80, 3), 30 * second, np.uint8), np.zeros((60, 80), np.uint8)
            box = np.s_[8:40, 8 + 8 * number : 40 + 8 * number]
            frame[box], mask[box] = (0, 0, 255), CLASSES.index(label)
            cv2.imwrite(str(folder / f"frames/{second}.jpg"), frame)
            if second == 0 or split != "train":
                cv2.imwrite(str(folder / f"labels_semantic/{second}.png"), mask)
    with (root / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("vid", "uid", "s_min", "s_sec", "a_obj", "split", "label"))
        table.writerows((uid, uid, 0, 0, label, split, "v1s") for uid, label, split in rows)
    (root / "label2idx.json").write_text(json.dumps({name: k + 1 for k, name in enumerate(CLASSES)}))
    return prepare("avsbench", root, out=root / "out", subset="s4").out


def manifest(folder: Path, labels: str, value: int) -> PreparedDataset:
    """One clip with a mask that holds ``value`` in its left half."""
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "a.png"), np.full((40, 60, 3), 90, np.uint8))
    mask = np.zeros((40, 60), np.uint8)
    mask[:, :30] = value
    cv2.imwrite(str(folder / "mask.png"), mask)
    soundfile.write(folder / "a.wav", np.sin(np.arange(2 * RATE) / 20) / 4, RATE)
    lines = [
        "id,split,label,image,audio,mask",
        f"x,train,{labels},a.png,a.wav,mask.png",
        "y,train,b,a.png,a.wav,",
    ]
    (folder / "table.csv").write_text("\n".join(lines))
    return PreparedDataset(prepare("manifest", folder / "table.csv", out=folder / "out").out)


def test_class_ids_stay_and_of_a_training_clip_only_the_first_frame_is_masked(avsbench: Path) -> None:
    training, test = PreparedDataset(avsbench, "train"), PreparedDataset(avsbench, "test")
    assert class_names(training) == CLASSES
    assert masked_frames(training, range(2)).tolist() == [[0, 0], [1, 0]]
    assert masked_frames(test, [0]).tolist() == [[0, k] for k in range(5)]
    assert np.unique(frame_mask(training, 1, 0, semantic=True)).tolist() == [0, 2]
    assert np.unique(frame_mask(training, 1, 0, semantic=False)).tolist() == [0, 1]
    with pytest.raises(DataError, match=r"frame 3 of clip two of .* has no mask"):
        frame_mask(training, 1, 3, semantic=False)


def test_elsewhere_k_means_the_kth_label(tmp_path: Path) -> None:
    dataset = manifest(tmp_path / "numbered", "b;a", 2)
    assert class_names(dataset) == ["background", "a", "b"]
    assert np.unique(frame_mask(dataset, 0, 0, semantic=True)).tolist() == [0, 1]  # the second label, a
    assert masked_clips(dataset, range(2)).tolist() == [0]
    binary = manifest(tmp_path / "binary", "b;a", 255)
    assert np.unique(frame_mask(binary, 0, 0, semantic=False)).tolist() == [0, 1]
    with pytest.raises(DataError, match=r"clip x of .* holds 255, but the clip has 2 labels"):
        frame_mask(binary, 0, 0, semantic=True)
    with pytest.raises(DataError, match="no clip of split train has a mask"):
        masked_clips(dataset, [1])


def drawn(folder: Path, **options) -> TrainingViews:
    given = {"image_size": (48, 64), "window_samples": RATE, "crop_scale": (0.3, 1.0), "seed": 3} | options
    return TrainingViews(PreparedDataset(folder), **given, semantic=True)


def test_a_drawn_mask_lies_where_its_frame_is(avsbench: Path) -> None:
    views, sides = drawn(avsbench), set()
    for epoch in range(30):
        view = views.sample(epoch, epoch % 2)
        red = view["image"][0].astype(int) - view["image"][2] > 100
        assert view["mask"].shape == (48, 64)
        assert set(np.unique(view["mask"])) <= {0, 1 + epoch % 2}
        assert (red == (view["mask"] > 0)).mean() > 0.95
        inside = np.flatnonzero(view["mask"].any(axis=0))
        if len(inside):
            sides.add(bool(inside.mean() > 32))
    assert sides == {True, False}  # some are flipped


def test_a_drawn_view_is_a_function_of_seed_epoch_and_index(avsbench: Path) -> None:
    def same(a: dict, b: dict) -> bool:
        return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)

    assert same(drawn(avsbench).sample(4, 1), drawn(avsbench).sample(4, 1))
    assert not same(drawn(avsbench).sample(4, 1), drawn(avsbench).sample(5, 1))
    assert not same(drawn(avsbench).sample(4, 1), drawn(avsbench, seed=9).sample(4, 1))


def test_a_drawn_window_holds_the_frame() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        samples, length = int(generator.integers(10, 300)), int(generator.integers(5, 200))
        moment = round(generator.uniform(0, samples))
        starts = [window_with(moment, at, length, samples) for at in (0, 0.5, 0.999)]
        for start in starts:
            assert 0 <= start <= max(0, samples - length)
            if length < samples and moment < samples:
                assert start <= moment < start + length
        assert starts == sorted(starts)
    assert {window_with(20, at, 30, 50) for at in np.linspace(0, 0.999, 200)} == set(range(21))


def test_an_evaluation_view_is_the_whole_frame_and_the_sound_around_it(avsbench: Path) -> None:
    dataset = PreparedDataset(avsbench, "test")
    frames = masked_frames(dataset, [0])
    views = MaskViews(
        dataset, frames, image_size=(30, 40), mask_size=(120, 160), window_samples=RATE, semantic=False
    )
    for number, (_, second) in enumerate(frames):
        view = views.sample(number)
        assert view["image"].shape == (3, 30, 40)
        assert abs(int(view["image"][0, -1, -1]) - 30 * second) < 8
        rows, columns = np.nonzero(view["mask"])
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 79, 48, 111)
        assert np.abs(view["waveform"]).max() / 32768 == pytest.approx((second + 1) / 8, abs=0.01)


def test_a_mask_is_resized_by_its_nearest_neighbours() -> None:
    mask = np.array([[0, 7], [3, 0]], np.uint8)
    large = resized_mask(mask, (0, 0, 2, 2), (4, 6))
    assert large.tolist() == [[0, 0, 0, 7, 7, 7]] * 2 + [[3, 3, 3, 0, 0, 0]] * 2
    assert resized_mask(np.array([[1, 2, 3]], np.uint8), (0, 0, 3, 1), (1, 2)).tolist() == [[1, 3]]
    assert resized_mask(mask, (1, 0, 1, 2), (2, 1)).tolist() == [[7], [0]]
    assert resized_mask(mask, (0, 0, 2, 2), (2, 2), flip=True).tolist() == [[7, 0], [0, 3]]
