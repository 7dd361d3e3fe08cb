"""One's own clips as a model takes them: windows, classes over time, tokens in a file."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
import torch

from avtool.checkpoint import load_model, save_checkpoint
from avtool.clip import Clip, Window
from avtool.config.checkpoint import Config
from avtool.errors import AvtoolError, MediaError, UsageError
from avtool.features import blank_frames, normalize_frames, silence, to_float_waveform
from avtool.inputs import centre_crop, shown, window_starts
from avtool.media import read_waveform, write_clip
from avtool.model.build import build_model
from avtool.model.heads import pool
from avtool.tasks.classify.predict import classify
from avtool.tasks.embed.predict import embed
from avtool.tasks.names import ClassNames
from tests import clips
from tests.models import described

SETTINGS = {
    "image_size": [32, 32],
    "audio_size": [32, 64],
    "dim": 24,
    "depth": 2,
    "heads": 3,
    "fusion_tokens": [3, 1, 2],
}
NAMES = ("bark", "meow", "song")


def checkpoint(folder: Path, kind: str = "classifier", **settings) -> Path:
    """A model that hears 1 s at once."""
    settings = {**SETTINGS, "classes": 3, **settings} if kind == "classifier" else SETTINGS
    torch.manual_seed(0)
    model = build_model(kind, settings)
    model.encoder.reset_parameters()
    if kind == "classifier":
        for head in (model.image_head, model.audio_head, model.fusion_head):
            torch.nn.init.normal_(head.weight)
            torch.nn.init.normal_(head.bias)
    else:
        model.reset_parameters()
    save_checkpoint(folder, model=model, config=described(kind, settings))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = checkpoint(tmp_path / "model")
    ClassNames(NAMES).write(folder)
    return folder


def views(path: Path, config: Config, *, every: float | None) -> list[Window]:
    with Clip(path) as clip:
        return list(clip.windows(every, size=config.image_size, count=config.window, rate=config.rate))


def test_windows_begin_every_so_often_and_the_last_at_the_end() -> None:
    assert window_starts(3000, 1000, 500) == [0, 500, 1000, 1500, 2000]
    assert window_starts(3200, 1000, 500) == [0, 500, 1000, 1500, 2000, 2200]
    assert window_starts(3100, 1000, 500) == [0, 500, 1000, 1500, 2100]
    assert window_starts(3400, 1000, 500) == [0, 500, 1000, 1500, 2000, 2400]
    assert window_starts(2000, 1000, 5000) == [0, 1000]
    assert [window_starts(length, 1000, 500) for length in (300, 1000, 1100)] == [[0], [0], [50]]
    for length in range(1125, 4000, 7):
        starts = np.array(window_starts(length, 1000, 500))
        assert starts[0] == 0 and starts[-1] == length - 1000
        assert (np.diff(starts) > 0).all() and (np.diff(starts) <= 625).all()


def test_windows_show_the_frame_in_their_middle_and_hear_their_own_sound(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "x.mp4"
    write_clip(path, clips.level_frames(20), fps=5, waveform=clips.click(4.0, at=2.6), sample_rate=clips.RATE)
    config = load_model(model)[2]
    found = views(path, config, every=0.5)
    times = np.array([view.times for view in found])
    length = len(read_waveform(path)) / clips.RATE
    assert times[:, 0].tolist() == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5, length - 1], abs=0.13)
    np.testing.assert_allclose(times[:, 1] - times[:, 0], 1)
    frames = np.stack([view.image for view in found])
    assert frames.shape == (7, 3, 32, 32) and frames.dtype == np.uint8
    # The frame shown at a time is the last that appeared: number floor(5 t).
    shown = [clips.level_of(frame) for frame in frames]
    assert shown == [int(5 * middle + 1e-6) for middle in times.mean(axis=1)]
    sounds = np.stack([view.waveform for view in found])
    assert sounds.shape == (7, 16000)
    for (start, end), sound in zip(times, sounds, strict=True):
        heard = np.abs(sound).max() > 3000
        assert heard == (start < 2.6 < end)
        if heard:
            assert start + clips.where_is_click(sound) == pytest.approx(2.6, abs=0.02)
    (middle,) = views(path, config, every=None)
    assert list(middle.times) == pytest.approx([length / 2 - 0.5, length / 2 + 0.5], abs=1e-3)


def test_the_view_is_the_square_that_evaluation_looks_at() -> None:
    frame = np.zeros((64, 128, 3), np.uint8)
    frame[4:60, 36:92] = 200  # 224 of 256 of the height, in the middle
    view = shown(frame, (56, 56), centre_crop)
    assert view.shape == (3, 56, 56)
    assert np.abs(view.astype(int) - 200).max() <= 8  # a JPEG's edge
    frame[4:60, 36] = 0
    assert shown(frame, (56, 56), centre_crop)[0, :, 0].max() < 60


def by_hand(model: Path, clip: Path) -> torch.Tensor:
    """Logits of the windows of ``clip``."""
    classifier, log_mel, config = load_model(model)
    logits = []
    for view in views(clip, config, every=0.5):
        heard = log_mel(to_float_waveform(torch.tensor(view.waveform)[None]))
        with torch.no_grad():
            logits.append(classifier(normalize_frames(torch.tensor(view.image)[None]), heard).mean[0])
    return torch.stack(logits)


@pytest.mark.parametrize("several", [False, True], ids=["one label", "several"])
def test_classes_of_a_long_clip_are_the_mean_of_its_windows(tmp_path: Path, several: bool) -> None:
    model = checkpoint(tmp_path / "model")
    ClassNames(NAMES, several=several).write(model)
    path = clips.clip(tmp_path / "x.mp4", 3.0)
    (found,) = classify([path], model=model, device="cpu")
    logits = by_hand(model, path)
    share = torch.sigmoid if several else lambda values: values.softmax(dim=-1)
    np.testing.assert_allclose(found.probabilities, share(logits.mean(dim=0)), atol=1e-5)
    np.testing.assert_allclose(found.over_time, share(logits), atol=1e-5)
    assert found.over_time.shape == (5, 3) and found.times.shape == (5, 2)
    order = logits.mean(dim=0).argsort(descending=True).tolist()
    assert [name for name, _ in found.top(2)] == [NAMES[k] for k in order[:2]]
    assert len(found.top(9)) == 3
    assert found.top(1, window=4)[0][0] == NAMES[int(logits[4].argmax())]
    (sparse,) = classify([path], model=model, device="cpu", every=2.0)
    assert len(sparse.times) == 2


def test_a_model_without_names_gives_numbers_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, path = checkpoint(tmp_path / "model"), clips.clip(tmp_path / "x.mp4", 1.0)
    (found,) = classify([path], model=model, device="cpu")
    assert sorted(name for name, _ in found.top(3)) == ["0", "1", "2"]
    assert "without the names" in capsys.readouterr().err


def test_a_picture_with_a_sound(tmp_path: Path, model: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), np.full((40, 50, 3), 90, np.uint8))
    soundfile.write(tmp_path / "x.wav", clips.tone(2.0), clips.RATE)
    (found,) = classify([tmp_path / "x.png"], audio=tmp_path / "x.wav", model=model, device="cpu")
    assert len(found.times) == 3
    with pytest.raises(UsageError, match="--audio goes with one"):
        classify([tmp_path / "x.png"] * 2, audio=tmp_path / "x.wav", model=model, device="cpu")


def test_a_sound_that_outlasts_its_picture_sees_the_last_frame(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = clips.clip(tmp_path / "x.mp4", 1.0)
    soundfile.write(tmp_path / "x.wav", clips.tone(4.0), clips.RATE)
    (found,) = classify([path], audio=tmp_path / "x.wav", model=model, device="cpu")
    assert found.times[-1, 1] == 4
    assert re.search(
        r"x\.mp4 ends at 1\.\d\d s: windows of \S+x\.wav up to 3\.50 s see its last", capsys.readouterr().err
    )
    embed([path], audio=tmp_path / "x.wav", out=tmp_path / "t.npz", model=model, device="cpu")


def test_weights_wait_for_a_usable_clip_and_the_others_go_on(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = clips.clip(tmp_path / "good.mp4", 1.0)
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), clips.RATE)
    (tmp_path / "text.mp4").write_text("no clip")
    bad = [tmp_path / name for name in ("silent.wav", "text.mp4", "gone.mp4")]
    told: list[tuple[str, AvtoolError]] = []
    options = {"model": model, "device": "cpu"}

    def failed(clip: Path, error: AvtoolError) -> None:
        told.append((clip.name, error))

    names = [path.name for path in bad]
    found = list(classify([*bad, good], failed=failed, **options))
    assert [one.clip for one in found] == [good]
    assert [name for name, _ in told] == names
    words = ("digital silence", "is a text file", "does not exist")
    assert all(word in error.message for word, (_, error) in zip(words, told, strict=True))

    def unwanted(*_args, **_options):
        raise AssertionError("weights are loaded")

    monkeypatch.setattr("avtool.predict.load_model", unwanted)
    assert list(classify(bad, failed=failed, **options)) == []
    with pytest.raises(MediaError, match="digital silence"):
        next(classify(bad, **options))
    with pytest.raises(MediaError, match="none of the clips"):
        embed(bad, out=tmp_path / "t.npz", failed=failed, **options)
    assert not (tmp_path / "t.npz").exists()


def without(folder: Path, what: str) -> Path:
    """Two seconds that lack something: a file of one's own."""
    path = folder / what
    match path.suffix:
        case ".mp4":
            waveform = None if what == "mute.mp4" else np.zeros(32000, np.float32)
            write_clip(path, clips.moving_frames(10), fps=5, waveform=waveform, sample_rate=clips.RATE)
        case ".wav" | ".mp3":
            soundfile.write(path, clips.tone(2.0), clips.RATE)
        case _:
            cv2.imwrite(str(path), next(clips.moving_frames(1)))
    return path


@pytest.mark.parametrize(
    ("name", "lacks", "words", "windows"),
    [
        ("heard.wav", "picture", "heard.wav has no picture: .*heard.wav is judged by its sound alone", 3),
        ("heard.mp3", "picture", "heard.mp3 has no picture: .* by its sound alone", 3),
        ("mute.mp4", "sound", "mute.mp4 has no sound track: .* by its picture alone", 3),
        ("silent.mp4", "sound", "silent.mp4 has digital silence: .* by its picture alone", 3),
        ("photo.png", "sound", "is a picture and has no sound of its own: .* by its picture alone", 1),
    ],
)
def test_a_sound_or_a_picture_alone_is_judged_by_its_own_head(
    tmp_path: Path,
    model: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    lacks: str,
    words: str,
    windows: int,
) -> None:
    path, good = without(tmp_path, name), clips.clip(tmp_path / "good.mp4", 1.0)
    found, both = classify([path, good], model=model, device="cpu")
    assert re.search(words, " ".join(capsys.readouterr().err.split()))
    assert (found.lacks, both.lacks, len(found.times)) == (lacks, "", windows)
    classifier, log_mel, config = load_model(model)
    with Clip(path, alone=True) as source:
        view, *_ = source.windows(0.5, size=config.image_size, count=config.window, rate=config.rate)
    image = normalize_frames(torch.tensor(view.image)[None])
    audio = log_mel(to_float_waveform(torch.tensor(view.waveform)[None]))
    with torch.no_grad():
        if lacks == "sound":
            logits = classifier(image, silence(audio)).image[0]
        else:
            logits = classifier(blank_frames(image), audio).audio[0]
        tokens = classifier.encoder(
            *(blank_frames(image), audio) if lacks == "picture" else (image, silence(audio))
        )
    np.testing.assert_allclose(found.over_time[0], logits.softmax(dim=0), atol=1e-5)
    arrays = embed([path, good], out=tmp_path / "t.npz", model=model, device="cpu", every=0.5)
    assert arrays["lacks"].tolist() == [lacks, ""]
    np.testing.assert_allclose(arrays["image_tokens"][0], tokens.image[0], atol=1e-5)
    np.testing.assert_allclose(arrays["audio_tokens"][0], tokens.audio[0], atol=1e-5)


def test_a_picture_with_a_silent_sound_is_judged_by_itself(tmp_path: Path, model: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.zeros(16000), clips.RATE)
    (found,) = classify([without(tmp_path, "photo.png")], audio=tmp_path / "x.wav", model=model, device="cpu")
    assert found.lacks == "sound"


def test_other_models_do_not_classify(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "encoder", kind="autoencoder", decoder_dim=16)
    with pytest.raises(UsageError, match=r"of kind .*, not classifier") as told:
        classify([tmp_path / "x.mp4"], model=model, device="cpu")
    assert "finetune classify" in told.value.hint


def test_tokens_are_the_encoders_and_lie_in_the_file(tmp_path: Path, model: Path) -> None:
    paths = [clips.clip(tmp_path / f"{k}.mp4", seconds, seed=k) for k, seconds in enumerate((2.0, 1.0))]
    out = tmp_path / "tokens.npz"
    arrays = embed(paths, out=out, model=model, device="cpu", every=0.5)
    with np.load(out) as file:
        saved = {name: file[name] for name in file.files}
    assert saved.keys() == arrays.keys()
    assert all((saved[name] == arrays[name]).all() for name in saved)
    assert saved["files"].tolist() == list(map(str, paths))
    assert saved["clip"].tolist() == [0, 0, 0, 1]
    shapes = {name: value.shape for name, value in saved.items() if name not in ("files", "clip", "lacks")}
    assert shapes == {
        "times": (4, 2),
        "image_tokens": (4, 4, 24),
        "audio_tokens": (4, 8, 24),
        "fusion_tokens": (4, 6, 24),
        "image": (4, 24),
        "audio": (4, 24),
        "fusion": (4, 24),
    }
    assert {saved[name].dtype for name in shapes} == {np.dtype("float32")}
    classifier, log_mel, config = load_model(model)
    windows = views(paths[0], config, every=0.5)
    with torch.no_grad():
        image = normalize_frames(torch.tensor(np.stack([view.image for view in windows])))
        sound = torch.tensor(np.stack([view.waveform for view in windows]))
        tokens = classifier.encoder(image, log_mel(to_float_waveform(sound)))
    for name in ("image", "audio", "fusion"):
        np.testing.assert_allclose(saved[f"{name}_tokens"][:3], getattr(tokens, name), atol=1e-5)
        np.testing.assert_allclose(saved[name][:3], getattr(pool(tokens), name), atol=1e-5)
    np.testing.assert_allclose(saved["times"][:3], [view.times for view in windows], atol=1e-5)


def test_one_window_of_each_clip_and_nothing_half_written(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = clips.clip(tmp_path / "x.mp4", 3.0), tmp_path / "tokens.npz"
    assert embed([path], out=out, model=model, device="cpu")["times"].tolist() == [
        pytest.approx([1.0, 2.0], abs=0.05)
    ]
    with pytest.raises(UsageError, match="exists"):
        embed([path], out=out, model=model, device="cpu")
    before = out.read_bytes()

    def full(*_args):
        raise OSError(28, "no space left")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        embed([path], out=out, model=model, device="cpu", force=True)
    assert out.read_bytes() == before
    assert sorted(found.name for found in tmp_path.iterdir()) == ["model", "tokens.npz", "x.mp4"]
    with pytest.raises(UsageError, match=r"not named \.npz"):
        embed([path], out=tmp_path / "tokens.pt", model=model, device="cpu")
