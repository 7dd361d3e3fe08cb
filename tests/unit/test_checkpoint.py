"""Checkpoints: what is written is what is read, and whatever else a file may be is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from avtool import checkpoint
from avtool.checkpoint import Config, load_model, read_pickled_weights, save_checkpoint
from avtool.errors import CheckpointError
from avtool.model.build import build_autoencoder, complete_settings
from avtool.weights import find_starting_weights, load_vit

SETTINGS = {
    "image_size": [32, 32],
    "audio_size": [32, 32],
    "dim": 24,
    "depth": 2,
    "heads": 3,
    "fusion_tokens": [2, 1, 1],
    "decoder_dim": 16,
    "decoder_depth": 1,
    "decoder_heads": 2,
}
WHOLE = complete_settings("autoencoder", SETTINGS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = build_autoencoder(SETTINGS)
    model.reset_parameters()
    config = Config(model=SETTINGS, spectrogram={"mels": 32}, origin="a test")
    save_checkpoint(tmp_path / "model", model=model, config=config)
    return tmp_path / "model"


def test_what_is_written_is_what_is_read(folder: Path, tmp_path: Path) -> None:
    model, log_mel, config = load_model(folder)
    assert config.model == {**config.model, **SETTINGS}
    assert log_mel.mels == 32
    save_checkpoint(tmp_path / "again", model=model, config=config)
    names = ("model.safetensors", "config.json")
    assert all((folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert len(modes) == 1  # weights can be read by whoever can read their config
    assert not model.training
    assert all(not parameter.is_meta for parameter in model.parameters())


def test_a_failed_save_leaves_nothing_and_the_old_checkpoint_as_it_was(folder: Path) -> None:
    before = (folder / "config.json").read_bytes()
    model = build_autoencoder(SETTINGS)
    config = Config(model={"not": object()}, spectrogram={}, origin="")
    with pytest.raises(TypeError):
        save_checkpoint(folder, model=model, config=config)
    assert (folder / "config.json").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("part", ["model.safetensors", "trainer.pt"])
def test_a_disk_that_takes_no_more_is_an_error_with_a_way_out(
    folder: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(content, path):
        Path(path).write_bytes(b"half of it")
        raise (
            SafetensorError("No space left on device")
            if part.endswith("safetensors")
            else RuntimeError("write")
        )

    if part == "trainer.pt":
        monkeypatch.setattr(checkpoint.torch, "save", refuse)
    else:
        monkeypatch.setattr(checkpoint, "save_file", refuse)
    model, _, config = load_model(folder)
    with pytest.raises(CheckpointError, match="MB are free"):
        save_checkpoint(folder.parent / "next", model=model, config=config, trainer={"step": 1})
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>not found</html>", "HTML page"),
        (b"", "is empty"),
        (b"\x00" * 4000, "truncated or"),
        (None, "truncated or"),  # the file's first half
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "weights.pth"])
def test_files_that_are_no_weights_are_named(
    folder: Path, name: str, content: bytes | None, words: str
) -> None:
    path = folder / name
    if name.endswith(".pth"):
        torch.save({"model": {"a": torch.zeros(10_000)}}, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)
    with pytest.raises(CheckpointError) as caught:
        read_pickled_weights(path) if name.endswith(".pth") else load_model(folder)
    assert str(path) in caught.value.message
    assert words in caught.value.message or "cannot be read safely" in caught.value.message
    assert caught.value.hint


class Innocent:
    """A class of its own: a pickle of it asks for code."""


def test_a_pickle_that_asks_for_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {}, "args": Innocent()}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="cannot be read safely"):
        read_pickled_weights(tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": 1}, "unknown keys \\['colour'\\]"),
        ({"format": 99}, "format 99"),
        ({"kind": "poet"}, "unknown kind 'poet'"),
        ({"model": []}, "model is no table"),
        ({"model": {**WHOLE, "wings": 2}}, "unknown keys wings"),
        ({"model": {**WHOLE, "headz": 2}}, "headz \\(did you mean heads\\?\\)"),
        ({"model": SETTINGS}, "missing keys patch_size, mlp_ratio, fusion, fusion_layers"),
        ({"model": {**WHOLE, "heads": 5}}, "dim = 24 is not divided by heads = 5"),
        ({"model": {**WHOLE, "dim": 36}}, "is \\(24,\\), not \\(36,\\)"),
        ({"model": {**WHOLE, "fusion_layers": "none"}}, "unexpected encoder.fusion_blocks.0"),
        ({"model": {**WHOLE, "depth": 3}}, "missing encoder.image.blocks.2"),
        ({"spectrogram": {"bels": 32}}, "bels"),
    ],
)
def test_a_config_that_does_not_fit_is_named(folder: Path, change: dict, words: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=words):
        load_model(folder)


def test_starting_weights_missing_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVTOOL_CACHE", str(tmp_path))
    assert find_starting_weights("init.image", "none") is None
    with pytest.raises(CheckpointError) as caught:
        find_starting_weights("init.image", "mae-vitb")
    assert "init.image=mae-vitb" in caught.value.message
    assert (
        "(1) avtool pull mae-vitb (licence: CC BY-NC" in caught.value.hint
        and "(2) start from random weights with init.image=none" in caught.value.hint
    )
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "mae-vitb.pth").write_bytes(b"weights")
    assert find_starting_weights("init.image", "mae-vitb") == tmp_path / "weights" / "mae-vitb.pth"


def test_an_encoder_starts_from_a_plain_vit(tmp_path: Path) -> None:
    source, target = (build_autoencoder(SETTINGS).encoder for _ in range(2))
    source.reset_parameters()
    target.reset_parameters()
    state = source.image.state_dict()
    extra = {"cls_token": torch.zeros(1), "pos_embed": torch.zeros(1), "decoder_embed.weight": torch.zeros(1)}
    torch.save({"model": {**state, **extra}}, tmp_path / "vit.pth")
    load_vit(target.image, tmp_path / "vit.pth")
    assert all(torch.equal(target.image.state_dict()[key], state[key]) for key in state)
    with pytest.raises(
        CheckpointError, match=r"patch_embed.proj.weight is \(24, 3, 16, 16\), not \(24, 1, 16, 16\)"
    ):
        load_vit(target.audio, tmp_path / "vit.pth")
