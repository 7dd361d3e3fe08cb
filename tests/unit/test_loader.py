"""Views and batches: draws that depend on nothing but seed, epoch and index."""

from __future__ import annotations

import gc
import itertools
import os
import signal
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from avtool import media
from avtool.data import loader, views
from avtool.data.dataset import PreparedDataset
from avtool.data.loader import (
    batches_in_order,
    batches_in_training,
    epoch_order,
    spread_over,
    steps_per_epoch,
)
from avtool.data.prepare import prepare
from avtool.data.views import EvaluationViews, TrainingViews
from avtool.inputs import cropped, fit_window
from tests import clips

RATE = clips.RATE
VIEW = {"image_size": 32, "window_samples": 16000}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> PreparedDataset:
    """Seven clips of levels: frame at t has the grey level 20 + 40 t, the sound is louder by the second."""
    folder = tmp_path_factory.mktemp("loader")
    lines = ["id,split,label,video,boxes"]
    for k in range(7):
        seconds = 0.5 if k == 6 else 4.0
        ramp = (np.arange(round(seconds * RATE)) / RATE / 8).astype(np.float32)
        frames = clips.level_frames(round(10 * seconds), 48, 80)
        path = folder / f"{k}.mp4"
        media.write_clip(path, frames, fps=10, waveform=ramp * clips.tone(seconds), sample_rate=RATE)
        lines.append(f'{k},train,label {k % 3},{k}.mp4,"[[0.5,0.25,0.75,0.5]]"')
    (folder / "mine.csv").write_text("\n".join(lines))
    prepare("manifest", folder / "mine.csv", out=folder / "out")
    return PreparedDataset(folder / "out")


def batches(dataset: PreparedDataset, count: int, *, seed: int = 5, **options) -> list[dict]:
    view = TrainingViews(dataset, **VIEW, seed=seed)
    options = {"batch_size": 3, "workers": 0, **options}
    return list(
        itertools.islice(batches_in_training(view, np.arange(len(dataset)), seed=seed, **options), count)
    )


def same(a: list[dict], b: list[dict]) -> bool:
    return len(a) == len(b) and all(
        x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)
        for x, y in zip(a, b, strict=True)
    )


def test_batches_are_tensors_of_the_shapes_said(dataset):
    batch = batches(dataset, 1)[0]
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in batch.items()}
    assert shapes == {
        "image": ((3, 3, 32, 32), torch.uint8),
        "waveform": ((3, 16000), torch.int16),
        "gain_db": ((3,), torch.float32),
        "index": ((3,), torch.int64),
        "epoch": ((3,), torch.int64),
        "label": ((3,), torch.int64),
    }
    assert batch["label"].tolist() == [i % 3 for i in batch["index"].tolist()]


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_batches(dataset, workers):
    assert same(batches(dataset, 7), batches(dataset, 7, workers=workers))


def test_batches_held_on_to_are_not_written_over(dataset):
    assert same(batches(dataset, 40), batches(dataset, 40, workers=2))


@pytest.mark.parametrize(("start", "workers"), [(1, 0), (2, 0), (5, 0), (5, 2)])
def test_starting_later_goes_on_where_a_run_from_the_start_would_be(dataset, start, workers):
    assert same(batches(dataset, 8)[start:], batches(dataset, 8 - start, start_step=start, workers=workers))


def test_epochs_are_orders_of_their_own_without_the_short_batch(dataset):
    indices = [batch["index"].tolist() for batch in batches(dataset, 6)]
    assert steps_per_epoch(7, 3) == 2
    epochs = [indices[k] + indices[k + 1] for k in (0, 2, 4)]
    assert all(len(set(epoch)) == 6 for epoch in epochs) and epochs[0] != epochs[1] != epochs[2]
    assert epochs[1] == epoch_order(7, seed=5, epoch=1)[:6].tolist()
    assert not same(batches(dataset, 2), batches(dataset, 2, seed=6))


def test_a_sample_is_a_function_of_seed_epoch_and_index(dataset):
    def sample(epoch: int, index: int, seed: int = 1) -> bytes:
        view = TrainingViews(dataset, **VIEW, seed=seed).sample(epoch, index)
        return view["image"].tobytes() + view["waveform"].tobytes() + view["gain_db"].tobytes()

    forward = {(epoch, index): sample(epoch, index) for epoch in range(3) for index in range(5)}
    assert all(sample(*key) == forward[key] for key in reversed(forward))
    assert len(set(forward.values())) == len(forward)
    assert sample(0, 0, seed=2) != forward[0, 0]


def test_the_frame_is_from_inside_the_window(dataset):
    view = TrainingViews(dataset, **VIEW, seed=0)
    starts, seen = [], set()
    for epoch in range(60):
        sample = view.sample(epoch, 0)
        loudness = np.sqrt(np.mean(np.square(sample["waveform"] / 32768)))
        middle = loudness * np.sqrt(2) / 0.5 * 8  # seconds, from the ramp
        shown = (float(sample["image"].mean()) - 20) / 40
        assert abs(shown - middle) < 0.62
        starts.append(middle - 0.5)
        seen.add(round(shown, 1))
    assert min(starts) < 0.4 and max(starts) > 2.6 and len(seen) >= 7


def test_gain_is_drawn_within_its_range_and_not_applied(dataset):
    view = TrainingViews(dataset, **VIEW, seed=0, gain_db=6.0)
    gains = np.array([view.sample(epoch, 1)["gain_db"] for epoch in range(200)])
    assert gains.dtype == np.float32 and gains.min() < -5 and gains.max() > 5 and np.abs(gains).max() <= 6
    plain = TrainingViews(dataset, **VIEW, seed=0, gain_db=0.0).sample(3, 1)
    assert plain["gain_db"] == 0
    np.testing.assert_array_equal(plain["waveform"], view.sample(3, 1)["waveform"])


def test_crops_have_the_area_and_ratio_asked_for_and_lie_anywhere_in_the_frame():
    generator = np.random.default_rng(0)
    crops = np.array([views.random_crop(generator, 341, 256, (0.5, 1.0)) for _ in range(2000)])
    left, top, width, height = crops.T
    assert left.min() == 0 and top.min() == 0
    assert (left + width).max() == 341 and (top + height).max() == 256
    area, ratio = width * height / (341 * 256), width / height
    frame = torch.zeros(1, 256, 341)
    torch.manual_seed(0)
    sizes = [RandomResizedCrop.get_params(frame, [0.5, 1.0], [3 / 4, 4 / 3])[2:] for _ in range(2000)]
    wanted = np.array(sizes).prod(1) / (341 * 256)
    assert area.min() > 0.49 and area.mean() == pytest.approx(wanted.mean(), abs=0.01)
    assert area.std() == pytest.approx(wanted.std(), abs=0.01)
    assert ratio.min() < 0.8 and ratio.max() > 1.25 and np.all((ratio > 0.73) & (ratio < 1.36))
    assert views.random_crop(generator, 1000, 10, (0.5, 1.0)) == (493, 0, 13, 10)


def test_flip_mirrors_and_can_be_switched_off(tmp_path):
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, :32] = 255
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    media.write_clip(tmp_path / "a.mp4", [picture] * 5, fps=5, waveform=clips.tone(1), sample_rate=RATE)
    (tmp_path / "mine.csv").write_text("id,split,label,video\na,train,x,a.mp4\n")
    prepare("manifest", tmp_path / "mine.csv", out=tmp_path / "out")
    halves = {True: set(), False: set()}
    for flip in halves:
        view = TrainingViews(
            PreparedDataset(tmp_path / "out"), **VIEW, crop_scale=(0.9, 1.0), flip=flip, seed=0
        )
        halves[flip] = {bool(view.sample(epoch, 0)["image"][..., :10].mean() > 127) for epoch in range(20)}
    assert halves == {True: {True, False}, False: {True}}


def test_evaluation_views_show_the_middle(dataset):
    view = EvaluationViews(dataset, **VIEW)
    sample = view.sample(0)
    assert sample["image"].shape == (3, 32, 32) and (
        float(sample["image"].mean()) - 20
    ) / 40 == pytest.approx(2.0, abs=0.03)
    np.testing.assert_array_equal(sample["waveform"], dataset.waveform(0, 24000, 16000))
    np.testing.assert_array_equal(view.sample(0)["image"], sample["image"])


def test_batches_in_order_show_every_clip_once(dataset):
    for workers in (0, 2):
        views = EvaluationViews(dataset, **VIEW)
        loaded = list(batches_in_order(views, range(7), batch_size=3, workers=workers))
        assert torch.cat([batch["index"] for batch in loaded]).tolist() == list(range(7))
        assert [len(batch["image"]) for batch in loaded] == [3, 3, 1]


def test_a_limit_spreads_over_the_data_set(dataset):
    assert spread_over(range(len(dataset)), 3) == [0, 2, 4]
    assert spread_over(range(len(dataset)), 100) == spread_over(range(len(dataset)), None) == list(range(7))


def test_views_need_not_be_square(dataset):
    options = {"image_size": (16, 40), "window_samples": 100}
    assert EvaluationViews(dataset, **options).sample(0)["image"].shape == (3, 16, 40)
    assert TrainingViews(dataset, **options, seed=0).sample(0, 0)["image"].shape == (3, 16, 40)


def test_short_sound_is_reflected_as_often_as_needed():
    sound = np.array([1, 2, 3], np.int16)
    assert fit_window(sound, 9).tolist() == [1, 2, 3, 2, 1, 2, 3, 2, 1]
    assert fit_window(sound, 2).tolist() == [1, 2] and fit_window(sound[:1], 3).tolist() == [1, 1, 1]
    assert fit_window(sound, 9).dtype == np.int16
    with pytest.raises(ValueError, match="no sound"):
        fit_window(sound[:0], 3)


def test_a_clip_shorter_than_the_window_is_padded(dataset):
    whole = dataset.waveform(6)
    assert len(whole) < 16000
    for sample in (
        TrainingViews(dataset, **VIEW, seed=0).sample(0, 6),
        EvaluationViews(dataset, **VIEW).sample(6),
    ):
        np.testing.assert_array_equal(sample["waveform"], fit_window(whole, 16000))


@pytest.mark.parametrize("size", [8, 12, 32, 100])
def test_reduced_decoding_shows_the_same_as_full(tmp_path, size):
    coarse = np.random.default_rng(0).integers(40, 216, (3, 4, 3), np.uint8)
    picture = cv2.resize(coarse, (200, 160), interpolation=cv2.INTER_CUBIC)
    media.write_clip(tmp_path / "a.mp4", [picture] * 5, fps=5, waveform=clips.tone(1), sample_rate=RATE)
    (tmp_path / "mine.csv").write_text("id,split,label,video\na,train,x,a.mp4\n")
    prepare("manifest", tmp_path / "mine.csv", out=tmp_path / "out")
    dataset = PreparedDataset(tmp_path / "out")
    crop = (33, 21, 140, 130)
    shown = cropped(partial(dataset.frame, 0, 0), crop, size).transpose(1, 2, 0)
    whole = cv2.resize(dataset.frame(0, 0)[21:151, 33:173], (size, size), interpolation=cv2.INTER_AREA)
    assert np.abs(shown.astype(float) - whole).mean() < 6


def test_workers_start_no_threads_of_their_own(dataset, tmp_path):
    path = Path(tmp_path) / "threads"

    class Spy(views.TrainingViews):
        def sample(self, epoch: int, index: int) -> dict:
            path.write_text(f"{torch.get_num_threads()} {cv2.getNumThreads()}")
            return super().sample(epoch, index)

    list(loader._loader(loader._Batches(Spy(dataset, **VIEW, seed=0)), iter([[(0, 0)]]), 1, False))
    assert path.read_text() == "1 1"


class Garbage:
    """A cycle that, once collected, leaves a file named after the process that did so."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.itself = folder, self

    def __del__(self) -> None:
        (self.folder / str(os.getpid())).touch()


def test_workers_free_nothing_that_was_there_before_them(dataset, tmp_path, monkeypatch):
    """PyAV's filter graphs wait for threads that do not come by a fork: freed in a worker, they hang it."""
    seed = torch.manual_seed

    def busy(number: int) -> torch.Generator:  # what torch does first in a worker
        gc.set_threshold(1)
        for _ in range(100):
            [[] for _ in range(100)]
        return seed(number)

    def drawn() -> None:
        list(batches_in_order(EvaluationViews(dataset, **VIEW), [0, 1], batch_size=1, workers=2))

    drawn()
    monkeypatch.setattr(torch, "manual_seed", busy)
    thresholds = gc.get_threshold()
    gc.collect()
    gc.set_threshold(10**9)
    try:
        Garbage(tmp_path)
        drawn()
        assert list(tmp_path.iterdir()) == [] and gc.isenabled()
        gc.collect()
    finally:
        gc.set_threshold(*thresholds)
    assert [path.name for path in tmp_path.iterdir()] == [str(os.getpid())]


@pytest.mark.parametrize("broken", [ConnectionResetError, EOFError])
def test_where_a_workers_connection_breaks_its_death_is_waited_for(broken, monkeypatch):
    def arriving():
        yield 1
        raise broken

    def dies(number, frame):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    before = signal.signal(signal.SIGALRM, dies)
    try:
        items = loader._unless_lost(arriving())
        assert next(items) == 1
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(RuntimeError, match="pid 7"):
            next(items)
        monkeypatch.setattr(loader, "LAST_WORDS", 0.01)
        with pytest.raises(broken):
            list(loader._unless_lost(arriving()))
    finally:
        signal.signal(signal.SIGALRM, before)
