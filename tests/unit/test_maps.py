"""Maps from an encoder, held against computations that build everything, and the command's function on
files.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from typer.testing import CliRunner

from avtool.checkpoint import save_checkpoint
from avtool.cli import app
from avtool.errors import AvtoolError, CheckpointError, MediaError, UsageError
from avtool.features import LogMel, upsampled
from avtool.inputs import shown, whole_crop
from avtool.media import describe_container, read_frame, read_waveform, write_clip
from avtool.model.build import build_model
from avtool.model.encoder import AudioVisualEncoder
from avtool.model.mae import MaskedAutoencoder
from avtool.predict import clips_in
from avtool.registry import FUSIONS
from avtool.report.heatmap import overlay
from avtool.tasks.localize.controls import controls_of
from avtool.tasks.localize.maps import (
    MAPS,
    attention_layers,
    choose_map,
    cosine_map,
    difference_map,
    localization_map,
)
from avtool.tasks.localize.predict import localize
from tests import clips, timed
from tests.models import described

HEADS, RATE = 2, 16000
SPECTROGRAM = {"sample_rate": RATE, "n_fft": 400, "hop": 250}
WINDOW = 64 * 250


def settings(fusion: str, **changes: object) -> dict[str, object]:
    size = {"image_size": [32, 32], "audio_size": [32, 64], "patch_size": 8, "dim": 32, "depth": 2}
    decoder = {"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2}
    return {**size, "heads": HEADS, "fusion": fusion, "fusion_tokens": [3, 2, 2], **decoder, **changes}


def tiny(fusion: str = "factorized", **changes: object) -> MaskedAutoencoder:
    """A tiny model whose every parameter is random, biases and norms too."""
    model = build_model("autoencoder", settings(fusion, **changes))
    torch.manual_seed(3)
    model.reset_parameters()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def inputs(rows: int = 32, columns: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(2, 3, rows, columns, generator=generator)
    return image, torch.randn(2, 1, 32, 64, generator=generator) - 3


def heads_of(x: Tensor) -> Tensor:
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def pair_weights(
    pairs: torch.nn.Module, query: Tensor, image: Tensor, audio: Tensor, products: Tensor | float = 0.0
) -> Tensor:
    """Attention over pairs that are built, summed over the audio token of each pair: (B, H, T, Ni)."""
    count = image.shape[1], audio.shape[1]
    every = torch.cat(
        [image.repeat_interleave(count[1], dim=1), audio.repeat(1, count[0], 1)], dim=-1
    )  # pair i * Na + j
    key = heads_of(F.linear(every, pairs.k.weight, pairs.k.bias))
    logits = heads_of(pairs.q(query)) @ key.mT * pairs.scale + products
    return logits.softmax(-1).unflatten(-1, count).sum(-1)


def naive_weights(kind: str, block: torch.nn.Module, fusion: Tensor, image: Tensor, audio: Tensor) -> Tensor:
    x, image, audio = block.norm_fusion(fusion), block.norm_image(image), block.norm_audio(audio)
    attn = block.attn
    if kind == "dense":
        return pair_weights(attn, x, image, audio)
    if kind == "bilinear":
        products = torch.einsum("bhir,bhjr->bhij", *attn.factors(image, audio))
        return pair_weights(attn, x, image, audio, products.flatten(2).unsqueeze(2))
    if kind == "token":
        key = heads_of(F.linear(torch.cat([image, audio], 1), *_key_half(attn.kv)))
        both = (heads_of(attn.q(x)) @ key.mT * attn.scale).softmax(-1)[..., : image.shape[1]]
        return both / both.sum(-1, keepdim=True)
    tokens, image_query, audio_query = x[:, :3], x[:, 3:5], x[:, 5:]
    gathered_image, seen = _gather(attn.aggregate_image, image_query, image)
    gathered_audio, _ = _gather(attn.aggregate_audio, audio_query, audio)
    return pair_weights(attn.pairs, tokens, gathered_image, gathered_audio) @ seen


def _key_half(kv: torch.nn.Linear) -> tuple[Tensor, Tensor]:
    half = kv.out_features // 2
    return kv.weight[:half], kv.bias[:half]


def _gather(cross: torch.nn.Module, query: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    key, value = cross.kv(source).chunk(2, dim=-1)
    weights = (heads_of(cross.q(query)) @ heads_of(key).mT * cross.scale).softmax(-1)
    return cross.proj((weights @ heads_of(value)).transpose(1, 2).flatten(2)), weights


@pytest.mark.parametrize("kind", FUSIONS)
def test_attention_equals_building_the_pairs_and_marginalising(kind: str) -> None:
    encoder = tiny(kind, depth=6).encoder
    image, audio = inputs()
    with torch.no_grad():
        steps = list(encoder.layers(image, audio))
        parts = [
            naive_weights(
                kind, encoder.fusion_blocks[str(k)], steps[k].fusion, steps[k].image, steps[k].audio
            )
            for k in (4, 5)
        ]
    wanted = torch.stack([part.mean(dim=(1, 2)) for part in parts]).mean(0).reshape(2, 4, 4)
    found = localization_map(encoder, image, audio, kind="attention")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.sum(dim=(1, 2)), torch.ones(2))


def test_difference_is_the_distance_of_tokens_from_those_under_real_silence() -> None:
    encoder, log_mel = tiny().encoder, LogMel(**SPECTROGRAM, mels=32)
    image, audio = inputs()
    silence = log_mel(torch.zeros(2, WINDOW))
    with torch.no_grad():
        heard, unheard = encoder(image, audio).image, encoder(image, silence).image
        found = difference_map(encoder, image, audio)
    wanted = ((heard - unheard) ** 2).sum(-1).sqrt().reshape(2, 4, 4)
    torch.testing.assert_close(found, wanted)
    assert difference_map(encoder, image, silence).abs().max() < 1e-5


def test_cosine_is_that_of_each_token_with_the_mean_audio_token() -> None:
    encoder = tiny().encoder
    image, audio = inputs(16, 48)
    with torch.no_grad():
        tokens = encoder(image, audio)
        found = cosine_map(encoder, image, audio)
    mean = tokens.audio.mean(1)
    assert found.shape == (2, 2, 6)
    for row, column in ((0, 0), (0, 5), (1, 3)):
        token = tokens.image[1, 6 * row + column]
        wanted = (token @ mean[1]) / (token.norm() * mean[1].norm())
        assert math.isclose(found[1, row, column], wanted, rel_tol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("kind", MAPS)
def test_maps_hear_the_sound(fusion: str, kind: str) -> None:
    encoder = tiny(fusion).encoder
    image, audio = inputs()
    found = localization_map(encoder, image, audio, kind=kind)
    other = localization_map(encoder, image, audio.flip(0), kind=kind)
    assert (found - other).abs().max() > 1e-4 * found.abs().max()


@pytest.mark.parametrize("kind", ["attention", "difference"])
def test_a_map_of_a_wide_frame_has_its_rows_and_columns(kind: str) -> None:
    """An odd patch in row 1, column 4 of 2 x 6 must change the map most right there."""
    encoder = tiny("dense", depth=2 if kind == "difference" else 1).encoder
    image, audio = inputs(16, 48)
    plain = torch.zeros_like(image)
    marked = plain.clone()
    marked[:, :, 8:16, 32:40] = 4 * image[:, :, 8:16, 32:40]
    change = localization_map(encoder, marked, audio, kind=kind) - localization_map(
        encoder, plain, audio, kind=kind
    )
    assert change.shape == (2, 2, 6)
    assert change.abs().flatten(1).argmax(1).tolist() == [6 + 4, 6 + 4]


@pytest.mark.parametrize(
    ("fused", "last"), [([0], [0]), ([0, 3], [3]), ([0, 1, 2, 5], [5]), ([0, 1, 2, 3, 4, 5], [4, 5])]
)
def test_the_last_third_of_the_fused_layers_counts(fused: list[int], last: list[int]) -> None:
    assert attention_layers(tiny(depth=6, fusion_layers=fused).encoder) == last


def test_a_model_that_cannot_hear_refuses_and_names_what_is_left() -> None:
    deaf: AudioVisualEncoder = tiny(fusion_layers="none").encoder
    assert choose_map(deaf, None) == "cosine"
    assert choose_map(tiny().encoder, None) == "attention"
    for kind in ("attention", "difference"):
        with pytest.raises(UsageError, match="no fusion blocks") as error:
            choose_map(deaf, kind)
        assert "--map cosine" in error.value.hint
        with pytest.raises(UsageError, match="a single fusion block"):
            choose_map(tiny(fusion_layers=[1]).encoder, kind)
    with pytest.raises(UsageError, match="no map 'heat'") as error:
        choose_map(deaf, "heat")
    assert "attention, difference, cosine" in error.value.hint


@pytest.mark.parametrize("fused", [[0], [1]])
def test_a_single_fusion_block_is_deaf_indeed(fused: list[int]) -> None:
    encoder = tiny(fusion_layers=fused).encoder
    image, audio = inputs()
    for kind in ("attention", "difference"):
        found = localization_map(encoder, image, audio, kind=kind)
        assert torch.equal(found, localization_map(encoder, image, audio.flip(0), kind=kind))


def test_the_whole_frame_is_seen() -> None:
    frame = np.zeros((40, 120, 3), np.uint8)
    frame[:, -4:] = 255
    seen = shown(frame, (32, 32), whole_crop)
    assert seen.shape == (3, 32, 32)
    assert (seen[:, :, -1] > seen[:, :, 0].astype(int) + 100).all()


# From files to files ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "tiny"
    save_checkpoint(
        run / "checkpoints" / "step-00000001",
        model=tiny(),
        config=described("autoencoder", settings("factorized"), SPECTROGRAM),
    )
    return run


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AVTOOL_MODEL", raising=False)
    monkeypatch.setenv("AVTOOL_CACHE", str(tmp_path / "cache"))
    return tmp_path


def sound(seconds: float, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def frames(count: int, size: tuple[int, int] = (48, 80)) -> list[np.ndarray]:
    """Frame k is grey at level 40 + 10 k."""
    return [np.full((*size, 3), 40 + 10 * k, np.uint8) for k in range(count)]


def clip(path: Path, waveform: np.ndarray | None, seconds: int = 4) -> Path:
    write_clip(path, frames(seconds * 4), fps=4, waveform=waveform, sample_rate=RATE)
    return path


def test_a_clip_becomes_a_picture_and_a_raw_map(work: Path, model: Path, capsys) -> None:
    found = localize(
        clip(work / "-x.mp4", sound(4)), out=work / "o.png", raw=work / "o.npy", model=model, at=1.0
    )
    raw = np.load(work / "o.npy")
    assert (raw.dtype, raw.shape) == (np.float32, (48, 80))
    assert np.array_equal(raw, found.map)
    assert (found.kind, found.time, found.warning) == ("attention", 1.0, "")
    assert abs(int(found.frame.mean()) - 80) <= 3  # the frame shown at 1 s
    picture = cv2.imread(str(work / "o.png"))
    assert picture.shape[0] > 48 and picture.shape[1] > 80
    told = capsys.readouterr()
    assert told.out == ""
    assert "step-00000001 (from --model)" in told.err
    assert sorted(path.name for path in work.iterdir()) == ["-x.mp4", "o.npy", "o.png"]


def heard(clip: Path, model: Path, at: float | None, audio: Path | None = None) -> np.ndarray:
    """The map that depends most on the sound."""
    return localize(clip, audio=audio, model=model, at=at, map="difference", force=True).map


def test_the_sound_heard_is_that_around_the_frame(work: Path, model: Path) -> None:
    """Two clips of the same picture that differ in sound only after 2 s give the same map at 0.5 s, not at 3
    s.
    """
    one = clip(work / "one.mp4", sound(4))
    changed = np.concatenate([sound(2), sound(2, 3000)])
    two = clip(work / "two.mp4", changed)
    maps = {(path.stem, at): heard(path, model, at) for path in (one, two) for at in (0.5, 3.0)}
    change = {at: np.abs(maps["one", at] - maps["two", at]).max() for at in (0.5, 3.0)}
    assert change[3.0] > 0.05 * np.ptp(maps["one", 3.0])
    assert change[0.5] < 0.02 * change[3.0]


def test_the_middle_is_taken_where_no_time_is_given(work: Path, model: Path) -> None:
    path = clip(work / "x.mp4", np.concatenate([sound(2), sound(2, 3000)]))
    middle, given, late = (heard(path, model, at) for at in (None, 2.0, 3.0))
    assert np.abs(middle - given).max() < 0.01 * np.abs(middle - late).max()


def picture_and_sound(work: Path) -> tuple[Path, Path]:
    import soundfile

    photo, wav = work / "photo.jpg", work / "sound.wav"
    cv2.imwrite(str(photo), np.random.default_rng(0).integers(0, 255, (90, 40, 3), np.uint8))
    soundfile.write(wav, np.concatenate([sound(2), sound(2, 3000)]), RATE)
    return photo, wav


def test_a_picture_goes_with_a_sound_file_at_any_of_its_times(work: Path, model: Path) -> None:
    photo, wav = picture_and_sound(work)
    early, late = (heard(photo, model, at, audio=wav) for at in (0.5, 3.5))
    assert early.shape == (90, 40)
    assert np.abs(early - late).max() > 0.05 * np.ptp(early)
    with pytest.raises(MediaError, match=r"4\.00 s long"):
        localize(photo, audio=wav, model=model, at=9.0, force=True)


def test_a_video_may_take_its_sound_from_a_file(work: Path, model: Path) -> None:
    _, wav = picture_and_sound(work)
    mute = clip(work / "mute.mp4", None)
    own = clip(work / "own.mp4", np.concatenate([sound(2), sound(2, 3000)]))
    early, late = heard(own, model, 0.5), heard(own, model, 3.0)
    assert np.abs(late - heard(mute, model, 3.0, audio=wav)).max() < 0.5 * np.abs(late - early).max()


def test_sound_shorter_than_the_window_is_reflected(work: Path, model: Path) -> None:
    photo, _ = picture_and_sound(work)
    short = clip(work / "short.mp4", sound(0.4), seconds=1)
    assert np.isfinite(localize(photo, audio=short, model=model).map).all()


def test_where_the_sound_ends_first_the_last_of_it_is_heard_and_that_is_said(
    work: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, _ = picture_and_sound(work)
    cut = clip(work / "cut.mp4", np.concatenate([sound(1), sound(1, 3000)]))
    early, last = (heard(photo, model, at, audio=cut) for at in (0.5, 1.5))
    assert "warning" not in capsys.readouterr().err
    later = heard(photo, model, 3.5, audio=cut)
    assert np.abs(later - last).max() < 0.2 * np.abs(last - early).max()
    assert (
        "cut.mp4 has sound up to 2.0 s: the frame at 3.5 s is judged by the last of it"
        in capsys.readouterr().err
    )


def test_where_the_picture_ends_first_the_frame_that_is_shown_is_named(
    work: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = clip(work / "x.mp4", sound(4), seconds=2)
    localize(path, model=model, at=1.9)
    assert "warning" not in capsys.readouterr().err
    localize(path, model=model, at=3.5, force=True)
    assert re.search(
        r"x\.mp4 has no new frame after 1\.\d\d s: what is seen at 3\.50 s is that one",
        capsys.readouterr().err,
    )


def test_where_the_picture_begins_late_the_frame_that_is_shown_is_named(
    work: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = timed.make(work / "late.mp4", picture_begins=2.0)
    localize(path, model=model, at=2.5)
    assert "warning" not in capsys.readouterr().err
    localize(path, model=model, at=1.5, force=True)
    said = "late.mp4 has no new frame before 2.00 s: what is seen at 1.50 s is that one"
    assert said in capsys.readouterr().err


@pytest.fixture
def bad(work: Path) -> dict[str, tuple[Path, dict[str, object]]]:
    """A clip that cannot be used for each of the reasons, with what it is called with."""
    photo, wav = picture_and_sound(work)
    (work / "text.mp4").write_text("no clip at all\n" * 20)
    (work / "empty.mp4").touch()
    good = clip(work / "good.mp4", sound(4))
    still = work / "still.png"
    cv2.imwrite(str(still), np.zeros((8, 8, 3), np.uint8))
    return {
        "no_such.mp4 does not exist": (work / "no_such.mp4", {}),
        "text.mp4 is a text file": (work / "text.mp4", {}),
        "empty.mp4 is empty": (work / "empty.mp4", {}),
        "mute.mp4 has no sound track": (clip(work / "mute.mp4", None), {}),
        "photo.jpg is a picture": (photo, {}),
        "sound.wav has no video": (wav, {}),
        "photo.jpg has no sound track": (good, {"audio": photo}),
        r"good.mp4 is 4\.\d\d s long": (good, {"at": 60.0}),
        "there is no map 'heat'": (good, {"map": "heat"}),
        "is named neither .png": (good, {"out": Path("o.jpg")}),
        "is not named .npy": (good, {"raw": Path("o.txt")}),
        "would replace the clip": (still, {"audio": wav, "out": still, "force": True}),
    }


def test_what_is_wrong_with_a_clip_is_said_before_a_model_is_looked_for(bad: dict, work: Path) -> None:
    """There is no model here: any other complaint would come first only where the clip was not looked at."""
    before = sorted(work.iterdir())
    for message, (path, options) in bad.items():
        with pytest.raises(AvtoolError, match=message) as error:
            localize(path, **options)
        assert error.value.hint or "text file" in message
    assert sorted(work.iterdir()) == before
    with pytest.raises(UsageError, match="no model given"):
        localize(work / "good.mp4")


def test_digital_silence_is_refused_where_it_would_be_heard(work: Path, model: Path) -> None:
    path = clip(work / "part.mp4", np.concatenate([sound(2), np.zeros(RATE * 2, np.float32)]))
    localize(path, model=model, at=0.5)
    with pytest.raises(MediaError, match=r"1\.0 s of digital silence around 3\.40 s") as error:
        localize(path, model=model, at=3.4, force=True)
    assert "--audio WAV" in error.value.hint


def test_weights_are_loaded_last_and_nothing_is_written_where_they_are_broken(
    work: Path, model: Path
) -> None:
    broken = work / "broken"
    broken.mkdir()
    source = model / "checkpoints" / "step-00000001"
    (broken / "config.json").write_bytes((source / "config.json").read_bytes())
    (broken / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:5000])
    good = clip(work / "good.mp4", sound(4))
    with pytest.raises(CheckpointError, match="truncated"):
        localize(good, model=broken, out=Path("o.png"), raw=Path("o.npy"))
    with pytest.raises(MediaError, match="no sound track"):
        localize(clip(work / "mute.mp4", None), model=broken)
    with pytest.raises(UsageError, match=r"o\.png exists"):
        Path("o.png").touch()
        localize(good, model=broken, out=Path("o.png"))
    assert not Path("o.npy").exists() and Path("o.png").stat().st_size == 0


# Whole clips, several of them, and controls ---------------------------------------------------------------


def test_a_whole_clip_under_its_maps_keeps_its_length_and_sound(
    work: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = clip(work / "a.mp4", np.concatenate([sound(2), sound(2, 3000)]))
    found = localize(path, out=work / "o.mp4", model=model, map="difference")
    assert np.array_equal(found.times, np.arange(8) / 2)
    assert found.maps["own sound"].shape == (8, *next(iter(found.maps.values())).shape[1:])
    assert "warning" not in capsys.readouterr().err
    facts = describe_container(work / "o.mp4")
    assert facts["duration"] == pytest.approx(4, abs=0.15)
    video = clips.streams_of(work / "o.mp4")["video"]
    assert (video["width"], video["height"], video["fps"]) == (80, 48, 4)
    own, written = (read_waveform(one, sample_rate=RATE)[2000:60000] for one in (path, work / "o.mp4"))
    assert np.corrcoef(own, written)[0, 1] > 0.99
    # one scale for all of it: the frame under the clip's highest value is the only one with the brightest colour
    scale = found.maps["own sound"].min(), found.maps["own sound"].max()
    for at in (0.5, 1.5, 3.0):
        heat = upsampled(found.maps["own sound"][[round(2 * at)]], (48, 80))[0]
        shown = overlay(read_frame(path, at)[0], heat, scale)
        assert np.abs(shown.astype(int) - read_frame(work / "o.mp4", at)[0]).mean() < 4


def test_maps_of_a_whole_clip_are_those_of_its_frames(work: Path, model: Path) -> None:
    path = clip(work / "a.mp4", np.concatenate([sound(2), sound(2, 3000)]))
    localize(path, out=work / "o.npz", model=model, map="difference", every=1.0)
    with np.load(work / "o.npz") as arrays:
        assert sorted(arrays) == ["clip", "map", "model", "own sound", "sound", "times", "warning"]
        assert (arrays["clip"], arrays["sound"], arrays["map"]) == (str(path), str(path), "difference")
        assert np.array_equal(arrays["times"], np.arange(4))
        for at, maps in zip(arrays["times"], arrays["own sound"], strict=True):
            alone = localize(path, out=work / "o.png", model=model, map="difference", at=at, force=True)
            assert np.allclose(maps, alone.maps["own sound"][0], atol=1e-5)


def test_controls_say_whether_it_is_the_sound(work: Path, model: Path) -> None:
    path, other = clip(work / "a.mp4", sound(4)), clip(work / "b.mp4", sound(1, 3000), seconds=1)
    still = localize(path, out=work / "o.png", model=model, map="difference", controls=True)
    assert list(still.maps) == list(still.controls) == ["own sound", "silence", "white noise"]
    assert np.abs(still.maps["silence"]).max() < 1e-5 < still.maps["own sound"].min()
    assert still.controls["own sound"].moved == 0 < still.controls["white noise"].moved
    assert still.controls["silence"] == (0, 1)
    width = cv2.imread(str(work / "o.png")).shape[1]
    localize(path, out=work / "one.png", model=model, map="difference")
    assert width == 3 * cv2.imread(str(work / "one.png")).shape[1]
    whole = localize(path, out=work / "o.mp4", model=model, map="difference", other=other)
    assert list(whole.controls) == ["own sound", "silence", "sound of b.mp4"]
    assert clips.streams_of(work / "o.mp4")["video"]["width"] == 3 * 80
    itself = localize(path, out=work / "p.npz", model=model, map="difference", other=path)
    assert itself.controls["sound of a.mp4"].moved == pytest.approx(0, abs=1e-6)
    assert itself.controls["sound of a.mp4"].marked == itself.controls["own sound"].marked > 0


def test_what_a_control_measures() -> None:
    own = np.array([[[0, 0], [1, 4]], [[0, 4], [0, 0]]], np.float32)
    maps = {"own sound": own, "same": own * 0.25, "opposite": -own, "flat": np.full_like(own, 3)}
    found = controls_of(maps)
    assert [found[name].marked for name in maps] == [0.25, 0, 0, 1]  # from 2 on
    assert [found[name].moved for name in maps] == pytest.approx([0, 0, 2, 1])


def test_several_clips_go_into_a_folder_and_a_bad_one_stops_none(work: Path, model: Path) -> None:
    (work / "in").mkdir()
    for name in ("a", "c"):
        clip(work / "in" / f"{name}.mp4", sound(2), seconds=2)
    (work / "in" / "b.mp4").write_text("no video")
    (work / "in" / "notes.txt").write_text("no clip")
    assert [path.name for path in clips_in([work / "in"])] == ["a.mp4", "b.mp4", "c.mp4"]
    done = CliRunner().invoke(app, ["localize", "in", "--model", str(model), "--out", "maps"])
    assert done.exit_code == 1, done.output
    assert done.stdout.split() == ["maps/a.mp4", "maps/c.mp4"]
    assert "in/b.mp4" in done.stderr and "1 of 3 clips failed" in done.stderr
    assert sorted(path.name for path in (work / "maps").iterdir()) == ["a.mp4", "c.mp4"]
    done = CliRunner().invoke(
        app, ["localize", "in/a.mp4", "in/c.mp4", "--model", str(model), "--at", "1", "--out", "maps"]
    )
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (work / "maps").glob("*.png")) == ["a.png", "c.png"]


def test_what_says_nothing_together_is_refused(work: Path, model: Path) -> None:
    path = clip(work / "a.mp4", sound(2), seconds=2)
    (work / "other").mkdir()
    twin = clip(work / "other" / "a.mp4", sound(2), seconds=2)
    for words, said in (
        (["a.mp4", "--every", "1"], "--every says nothing where --out heatmap.png shows one frame"),
        (
            ["a.mp4", "--at", "1", "--out", "o.mp4"],
            "--at says nothing where --out o.mp4 is of the whole clip",
        ),
        (["a.mp4", "--raw", "o.npy", "--out", "o.mp4"], "--raw says nothing"),
        (["a.mp4", str(twin), "--out", "o.mp4"], "--out o.mp4 is one file, and there are 2 clips"),
        (["a.mp4", str(twin), "--out", "o"], "would both become o/a.mp4"),
        (["a.mp4", "a.mp4", "--raw", "o.npy", "--out", "o"], "--raw goes with one clip, not with 2"),
        (["empty", "--out", "o"], "empty holds no video"),
        (["a.mp4", "--other-sound", "none.wav", "--out", "o.png"], "none.wav does not exist"),
        (["a.mp4", "--other-sound", "a.mp4", "--out", "a.mp4", "--force"], "would replace the clip"),
    ):
        (work / "empty").mkdir(exist_ok=True)
        done = CliRunner().invoke(app, ["localize", *words, "--model", str(model)])
        assert done.exit_code in (1, 2) and said in " ".join(done.stderr.split()), done.stderr
    assert path.exists() and not list(work.glob("o*"))[1:]
