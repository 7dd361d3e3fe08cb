"""The audit: what is in several splits however it was cut and encoded, and what cannot be learned or heard."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from avtool.cli import app
from avtool.data.audit import Fingerprint, fingerprint_of
from avtool.data.prepare import prepare
from avtool.media import write_clip
from tests import clips

RATE = 16000


def noise(seed: int, seconds: float = 6.0) -> np.ndarray:
    """A sound like no other: bursts of noise of changing colour."""
    random = np.random.default_rng(seed)
    sound = random.standard_normal(round(seconds * RATE))
    for k in range(0, len(sound), 2000):
        smooth = np.ones(random.integers(1, 9)) * random.uniform(0.1, 1)
        sound[k : k + 2000] = np.convolve(sound[k : k + 2000], smooth / len(smooth), "same")
    return (0.1 * sound).astype(np.float32)


def write(path: Path, *, sound: np.ndarray, seed: int, side: int = 96) -> None:
    frames = clips.moving_frames(round(len(sound) / RATE * 10), 96, 128, seed=seed)
    smaller = (cv2.resize(frame, (side * 4 // 3, side), interpolation=cv2.INTER_AREA) for frame in frames)
    write_clip(path, smaller, fps=10, waveform=sound, sample_rate=RATE)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 8 clips to train on and 8 to test, t0 to t3 are of 0 to 3 in some way, and t4 of the recording of 4."""
    folder = tmp_path_factory.mktemp("planted")
    sounds = [noise(k) for k in range(16)]
    for k in range(8):
        write(folder / f"{k}.mp4", sound=sounds[k], seed=k)
        write(folder / f"t{k}.mp4", sound=sounds[8 + k], seed=8 + k)
    (folder / "t0.mp4").write_bytes((folder / "0.mp4").read_bytes())
    write(folder / "t1.mp4", sound=sounds[1][round(0.1 * RATE) + 77 :], seed=9)  # the sound alone, cut
    write(folder / "t2.mp4", sound=sounds[10], seed=2, side=48)  # the picture alone, smaller
    write(folder / "t3.mp4", sound=0.3 * sounds[3][20_000:70_000], seed=11)  # a quieter part of the sound
    rows = [
        {"id": name, "split": split, "label": label, "video": f"{name}.mp4", "recording": recording}
        for split, begin, label in (("train", "", "cat"), ("test", "t", "dog"))
        for name, recording in ((f"{begin}{k}", "4" if k == 4 else f"{begin}{k}") for k in range(8))
    ]
    with (folder / "clips.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return folder / "clips.csv"


def test_what_is_in_several_splits_is_found_and_nothing_else(planted, tmp_path):
    report = prepare("manifest", planted, out=tmp_path / "out")
    audit = json.loads((tmp_path / "out" / "report.json").read_text())["audit"]
    assert audit["in_several_splits"] == {
        "recording": {"clips": {"test": 1, "train": 1}, "examples": [["4", "t4"]]},
        "sound": {
            "clips": {"test": 3, "train": 3},
            "examples": audit["in_several_splits"]["sound"]["examples"],
        },
        "picture": {"clips": {"test": 2, "train": 2}, "examples": [["0", "t0"], ["2", "t2"]]},
    }
    assert sorted(audit["in_several_splits"]["sound"]["examples"]) == [["0", "t0"], ["1", "t1"], ["3", "t3"]]
    assert audit["classes_without_training_clips"] == ["dog"]
    assert audit["share"] == {"still picture": 0.0, "quiet": 0.0, "muted in part": 0.0}
    page = (tmp_path / "out" / "report.html").read_text()
    assert (
        "sounds in several splits: 3 clips of test, 3 clips of train" in page
        and "classes without training" in page
    )
    said = CliRunner().invoke(app, ["inspect", str(tmp_path / "out"), "--json"])
    assert json.loads(said.stdout)["report"]["audit"] == report.found()
    for part in ("1/2", "2/2"):  # the one that is last joins them
        prepare("manifest", planted, out=tmp_path / "parts", part=part)
    assert json.loads((tmp_path / "parts" / "report.json").read_text())["audit"] == audit


def test_a_class_without_training_clips_is_printed(planted, tmp_path):
    said = CliRunner().invoke(app, ["prepare", "manifest", str(planted), "--out", str(tmp_path / "out")])
    assert "classes without training clips" in said.stdout and "recordings in several splits" in said.stdout


def test_a_print_is_kept_whole():
    kept = fingerprint_of((noise(0) * 32767).astype(np.int16), RATE, [np.eye(64, dtype=np.uint8) * 200])
    assert kept.sound.shape == (128, 2) and kept.picture.any()
    again = Fingerprint.from_bytes(kept.to_bytes())
    assert (again.sound == kept.sound).all() and (again.picture == kept.picture).all()


@pytest.mark.parametrize("length", [1, 3200])
def test_silence_and_black_have_an_empty_print(length):
    empty = fingerprint_of(np.zeros(length, np.int16), RATE, [np.zeros((64, 64), np.uint8)])
    assert len(empty.sound) == 0 and not empty.picture.any()


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100])
def test_any_rate_has_a_print(rate):
    sound = (3000 * np.random.default_rng(0).standard_normal(2 * rate)).astype(np.int16)
    assert len(fingerprint_of(sound, rate, [np.zeros((64, 64), np.uint8)]).sound) == 128
