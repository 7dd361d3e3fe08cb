"""Checkpoints: what is written is what is read, and whatever else a file may be is named."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import subprocess
import sys
import warnings
from functools import reduce
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from avtool import __version__, checkpoint
from avtool.checkpoint import load_model, load_trainer, save_checkpoint
from avtool.config.checkpoint import read_config
from avtool.config.recipes import load_recipe
from avtool.errors import CheckpointError
from avtool.model.build import build_model, random_model
from avtool.model.transformer import sincos_positions
from avtool.registry import VIT, kinds
from avtool.tracking import read_run_facts, write_run_facts
from avtool.weight_files import read_pickled_weights
from avtool.weights import find_starting_weights, load_vit
from tests.models import described

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
CONFIG = described("autoencoder", SETTINGS)
WHOLE = CONFIG.model_dump(mode="json")["model"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = build_model("autoencoder", SETTINGS)
    model.reset_parameters()
    save_checkpoint(tmp_path / "model", model=model, config=CONFIG)
    return tmp_path / "model"


def test_the_weights_say_what_they_are(folder: Path, tmp_path: Path) -> None:
    vit = {"channels": 3, "patch_size": 16, "dim": 32, "depth": 1, "heads": 2, "mlp_ratio": 4.0}
    save_checkpoint(tmp_path / "vit", model=build_model(VIT, vit), config=described(VIT, vit))
    said = {"format": "pt", "avtool": __version__}
    for found, more in (
        (folder, {"kind": "autoencoder", "task": "pretrain"}),
        (tmp_path / "vit", {"kind": VIT}),
    ):
        with safe_open(found / "model.safetensors", "pt") as file:
            assert file.metadata() == said | more


def test_what_is_written_is_what_is_read(folder: Path, tmp_path: Path) -> None:
    model, log_mel, config = load_model(folder)
    assert config == CONFIG
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
    model = build_model("autoencoder", SETTINGS)
    config = CONFIG.model_copy(update={"origin": object()})
    with pytest.raises(TypeError):
        save_checkpoint(folder, model=model, config=config)
    assert (folder / "config.json").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("part", ["model.safetensors", "trainer.pt"])
def test_a_disk_that_takes_no_more_is_an_error_with_a_way_out(
    folder: Path, part: str, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(content: object, path: Path, *more: object) -> None:
        path.touch()
        raise SafetensorError("unexpected") if part == "model.safetensors" else RuntimeError("unexpected")

    def refuse_bytes(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    owner, name = (checkpoint, "save_file") if part == "model.safetensors" else (checkpoint.torch, "save")
    monkeypatch.setattr(owner, name, refuse)
    if full:
        monkeypatch.setattr(Path, "write_bytes", refuse_bytes)
    model, _, config = load_model(folder)
    words = r"No space left on device \([\d.]+ \w+ are free, it takes about" if full else "unexpected"
    with pytest.raises(CheckpointError, match=f"next is not written: {words}") as caught:
        save_checkpoint(folder.parent / "next", model=model, config=config, trainer={"step": 1})
    assert "what was saved before, which is whole" in caught.value.hint
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
    assert words in caught.value.message or "it is no file of weights" in caught.value.message
    assert caught.value.hint


class Innocent:
    """A class of its own: a pickle of it asks for code."""


def test_a_pickle_that_asks_for_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {}, "args": Innocent()}, tmp_path / "weights.pth")
    with pytest.raises(
        CheckpointError, match=r"is refused: it holds [\w.]*Innocent, and nothing is read but"
    ):
        read_pickled_weights(tmp_path / "weights.pth")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_refused_pickle_is_told_without_torchs_advice(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    for protocol in (2, 4):
        path.write_bytes(pickle.dumps({"args": Innocent()}, protocol=protocol))
        with warnings.catch_warnings(), pytest.raises(CheckpointError, match="is refused") as caught:
            warnings.simplefilter("error")
            read_pickled_weights(path)
        assert "weights_only" not in caught.value.message + caught.value.hint
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    with pytest.raises(CheckpointError, match="is refused: it holds TorchScript"):
        read_pickled_weights(path)


@pytest.fixture
def of_a_run(folder: Path) -> Path:
    """A checkpoint with a trainer's state."""
    model, _, config = load_model(folder)
    moments = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = {"step": 3, "pretrained": ["a"], "optimizer": {"state": moments}}
    save_checkpoint(folder, model=model, config=config, trainer=trainer)
    return folder


def test_a_trainers_state_comes_back_as_it_was_given(of_a_run: Path) -> None:
    trainer = load_trainer(of_a_run)
    assert trainer.keys() == {"step", "pretrained", "optimizer"} and trainer["step"] == 3


@pytest.mark.parametrize("name", ["trainer.pt", "model.safetensors"])
def test_no_flipped_bit_is_gone_on_with(of_a_run: Path, name: str) -> None:
    path = of_a_run / name
    data, whole = path.read_bytes(), load_trainer(of_a_run)
    rng = random.Random(0)
    places = [rng.randrange(len(data)) for _ in range(150)] + list(range(len(data) - 100, len(data)))
    noticed = 0
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            found = load_trainer(of_a_run)
        except CheckpointError as error:
            noticed += 1
            assert str(path) in error.message and error.hint
        else:  # a zip has bytes of no meaning
            assert name == "trainer.pt"
            assert found["step"] == 3 and found["pretrained"] == ["a"]
            torch.testing.assert_close(found["optimizer"], whole["optimizer"], rtol=0, atol=0)
    assert noticed == len(places) if name == "model.safetensors" else noticed > 0.7 * len(places)


def test_a_damaged_config_is_not_gone_on_from(of_a_run: Path) -> None:
    (of_a_run / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is not JSON"):
        load_trainer(of_a_run)


def test_a_trainers_state_without_a_sum_of_the_weights_is_gone_on_with(of_a_run: Path) -> None:
    torch.save({"step": 7}, of_a_run / "trainer.pt")
    assert load_trainer(of_a_run) == {"step": 7}


@pytest.mark.parametrize("content", ["{", "[1]", "\x00" * 40])
def test_a_damaged_history_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"run\.json is damaged") as caught:
        write_run_facts(tmp_path, recipe_yaml="", command=[])
    subprocess.run(caught.value.hint.partition(": ")[2], shell=True, check=True)
    write_run_facts(tmp_path, recipe_yaml="", command=["avtool"])
    assert read_run_facts(tmp_path)["command"] == ["avtool"]


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8 are refused by other systems")
def test_a_folder_whose_name_is_not_utf_8(of_a_run: Path) -> None:
    odd = of_a_run.parent / os.fsdecode(b"caf\xe9")
    model, _, config = load_model(of_a_run)
    save_checkpoint(odd, model=model, config=config, trainer={"step": 1})
    assert load_trainer(odd) == {"step": 1}
    again = load_model(odd)[0].state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": 1}, "unknown key colour"),
        ({"format": 99}, "format is 99"),
        ({"kind": "poet"}, "unknown kind 'poet'"),
        ({"model": []}, "model is \\[\\]: it should be a section"),
        ({"model": {**WHOLE, "wings": 2}}, "unknown key model.wings"),
        ({"model": {**WHOLE, "headz": 2}}, "unknown key model.headz"),
        (
            {"model": {"dim": 24, "fusion": WHOLE["fusion"]}},
            "lacks model.depth, model.heads, model.mlp_ratio, ",
        ),
        ({"model": {**WHOLE, "heads": 5}}, "model.dim: 24 is not divisible by its 5 heads"),
        ({"model": {**WHOLE, "dim": 36}}, "is \\(24,\\), not \\(36,\\)"),
        (
            {"model": {**WHOLE, "fusion": {**WHOLE["fusion"], "layers": "none"}}},
            "unexpected encoder.fusion_blocks.0",
        ),
        ({"model": {**WHOLE, "depth": 3}}, "missing encoder.image.blocks.2"),
        ({"spectrogram": {"bels": 32}}, "bels"),
    ],
)
def test_a_config_that_does_not_fit_is_named(folder: Path, change: dict, words: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=words):
        load_model(folder)


WHOLE_NUMBER = "should be a whole number"
AT_LEAST_1 = "should be greater than or equal to 1"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (None, [1], "is no table of keys and values"),
        (None, None, "is no table of keys and values"),
        ("kind", ["vit"], "unknown kind \\['vit'\\]; there are autoencoder, classifier"),
        ("origin", None, "origin is empty: it should be text"),
        ("format", "1", "format is '1'; this version reads formats 1 and 2"),
        ("model", None, "model is empty: it should be a section"),
        ("spectrogram", 3, "spectrogram is 3: it should be a section"),
        ("model.audio_size", 64, "it should be a list in brackets"),
        ("model.audio_size", [32], "it has too few values"),
        ("model.audio_size", [-32, 32], f"-32 {AT_LEAST_1}"),
        ("model.image_size", [32.5, 32], f"32.5 {WHOLE_NUMBER}"),
        ("model.image_size", [32, 40], "\\[32, 40\\] is not divisible by model.patch_size 16"),
        ("model.patch_size", 0, AT_LEAST_1),
        ("model.dim", True, WHOLE_NUMBER),
        ("model.depth", -1, AT_LEAST_1),
        ("model.heads", 2.5, WHOLE_NUMBER),
        ("model.heads", "three", WHOLE_NUMBER),
        ("head.decoder.heads", None, WHOLE_NUMBER),
        ("model.mlp_ratio", float("inf"), "inf: it should be a finite number"),
        ("model.fusion.kind", {}, "it should be text"),
        ("model.fusion.kind", "sum", "it should be 'token', 'dense', 'factorized' or 'bilinear'"),
        ("model.fusion.layers", 5, "it should be 'all' or 'none', or a list in brackets"),
        ("model.fusion.layers", [0, 2], "layer 2 is not there: model.depth 2 has 0 to 1"),
        ("model.fusion.tokens", [9, -1, -4], "-1 should be greater than or equal to 0"),
        ("head.mask_ratio.image", 1, "it should be less than 1"),
        ("spectrogram.hop", "x", WHOLE_NUMBER),
        ("spectrogram.hop", 0, AT_LEAST_1),
        ("spectrogram.sample_rate", -16000, AT_LEAST_1),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_key(
    folder: Path, key: str | None, value: object, words: str
) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    if key is None:
        content = value
    else:
        *sections, name = key.split(".")
        reduce(dict.__getitem__, sections, content)[name] = value
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=words) as caught:
        load_model(folder)
    assert caught.value.message.startswith(str(path))
    assert "\n" not in caught.value.message
    assert key is None or key in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("section", "changed", "words"),
    [
        ("spectrogram", {"hop": None}, "config.json lacks spectrogram.hop"),
        (
            "spectrogram",
            {"hop": None, "hopp": 3},
            "unknown key spectrogram.hopp\nhint: did you mean spectrogram.hop?",
        ),
        ("model", {"heads": None}, "config.json lacks model.heads"),
        ("model", {"haeds": 3}, "unknown key model.haeds\nhint: did you mean model.heads?"),
        (None, {"origin": None}, "config.json lacks origin"),
        (None, {"kind": None}, "kind is missing; there are autoencoder, classifier"),
        (None, {"head": None}, "config.json lacks head"),
    ],
)
def test_unknown_and_missing_keys_are_named(
    folder: Path, section: str | None, changed: dict, words: str
) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    table = content[section] if section else content
    table |= changed
    for key in [key for key, value in changed.items() if value is None]:
        del table[key]
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    assert str(path) in caught.value.message and words in f"{caught.value.message}\nhint: {caught.value.hint}"


@pytest.mark.parametrize(
    ("key", "value", "weight"),
    [  # of the section model
        ("image_size", [32, 64], "image_decoder.pos_embed is (1, 4, 16), not (1, 8, 16)"),
        ("audio_size", [32, 64], "audio_decoder.pos_embed is (1, 4, 16), not (1, 8, 16)"),
        ("patch_size", 8, "encoder.image.patch_embed.proj.weight is (24, 3, 16, 16), not (24, 3, 8, 8)"),
        ("dim", 36, "encoder.fusion_tokens is (1, 4, 24), not (1, 4, 36)"),
        ("fusion.tokens", [2, 1, 2], "encoder.fusion_tokens is (1, 4, 24), not (1, 5, 24)"),
        ("mlp_ratio", 2.0, "encoder.image.blocks.0.mlp.fc1.weight is (96, 24), not (48, 24)"),
    ],
)
def test_sizes_that_the_weights_contradict_are_named(
    folder: Path, key: str, value: object, weight: str
) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    *sections, name = key.split(".")
    reduce(dict.__getitem__, sections, content["model"])[name] = value
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    assert caught.value.message.startswith(f"the weights of {folder / 'model.safetensors'} do not fit: ")
    assert weight in caught.value.message
    assert caught.value.hint.endswith(f"or correct model.{key} in {path}")


def test_much_that_does_not_fit_is_told_in_few_words(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file({name: value for name, value in weights.items() if "fusion" not in name}, path)
    with pytest.raises(
        CheckpointError, match=r"there is nothing of encoder\.fusion_blocks, .*encoder\.fusion_tokens"
    ):
        load_model(folder)
    save_file({name: value for name, value in weights.items() if ".blocks.1." not in name}, path)
    with pytest.raises(CheckpointError, match=r"(missing [\w.]+; ){3}and \d+ more\n"):
        load_model(folder)


def test_a_config_is_written_with_every_key_as_a_recipe_has_it(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    assert content["spectrogram"] == {"sample_rate": 16000, "n_fft": 800, "hop": 250}
    recipe = load_recipe("tiny").model_dump(mode="json")["model"]
    assert (content["model"] | content["head"]).keys() == recipe.keys()
    assert content["model"]["fusion"].keys() == recipe["fusion"].keys()
    assert (content["format"], content["kind"]) == (2, "autoencoder")


ENCODER = {
    "image_size": [32, 48], "audio_size": [32, 64], "patch_size": 16, "dim": 128, "depth": 2, "heads": 2,
    "mlp_ratio": 4.0, "fusion": "dense", "fusion_layers": [1], "fusion_tokens": [3, 0, 0],
    "fusion_attn_ratio": 0.5, "fusion_mlp_ratio": 1.0,
}  # fmt: skip
FORMAT_1 = {
    "autoencoder": {
        "decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2, "image_mask_ratio": 0.5,
        "audio_mask_ratio": 0.7,
    },
    "classifier": {"classes": 3},
    "linear_probe": {"classes": 3},
    "localization": {"encoding": "unimodal", "width": 8, "blank_share": 0.5},
    "separation": {},
    "segmentation": {"classes": 4},
}  # fmt: skip
"""What stands on the encoder, by kind, as config.json had it before format 2."""


def format_1(kind: str, **changes: object) -> dict:
    return {
        "model": {**ENCODER, **FORMAT_1[kind], **changes},
        "spectrogram": {"sample_rate": 8000, "n_fft": 400, "hop": 200, "mels": 32},
        "origin": "an earlier version",
        "kind": kind,
        "format": 1,
    }


@pytest.mark.parametrize("kind", kinds())
def test_format_1_is_read(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(format_1(kind)))
    config = read_config(tmp_path)
    assert config.format == 2 and config.kind == kind and config.origin == "an earlier version"
    asked = {
        **ENCODER,
        **{{"image_mask_ratio": "mask_ratio_image", "audio_mask_ratio": "mask_ratio_audio"}.get(key, key): value
           for key, value in FORMAT_1[kind].items()},
        "fusion_rank": None,  # which came later
        **({"map_scale": 1, "map_shifts": 1} if kind == "localization" else {}),  # and these
        **({"decoder_width": 128} if kind == "segmentation" else {}),
        **({"decoder_width": None} if kind == "separation" else {}),
    }  # fmt: skip
    assert json.loads(json.dumps(config.settings)) == asked
    assert config.log_mel == {"sample_rate": 8000, "n_fft": 400, "hop": 200, "mels": 32}
    model = random_model(kind, config.settings, seed=3)
    save_checkpoint(tmp_path / "now", model=model, config=config)
    (tmp_path / "now" / "config.json").write_text(json.dumps(format_1(kind, drop_path=0.1)))
    loaded, log_mel, again = load_model(tmp_path / "now")
    assert again == config and log_mel.sample_rate == 8000
    save_checkpoint(tmp_path / "now", model=loaded, config=again)
    assert read_config(tmp_path / "now") == config
    assert json.loads((tmp_path / "now" / "config.json").read_text())["format"] == 2


def test_format_1_of_one_modality_is_read(tmp_path: Path) -> None:
    settings = {"channels": 3, "patch_size": 16, "dim": 32, "depth": 1, "heads": 2, "mlp_ratio": 4.0}
    content = {"model": settings, "spectrogram": {}, "origin": "MAE", "kind": VIT, "format": 1}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert read_config(tmp_path).settings == settings
    model = build_model(VIT, settings)
    save_checkpoint(tmp_path / "now", model=model, config=read_config(tmp_path))
    assert read_config(tmp_path / "now") == read_config(tmp_path)


@pytest.mark.parametrize(("way", "encoding"), [("two-pass", "unimodal"), ("joint", "joint")])
def test_a_config_that_says_way_is_read(way: str, encoding: str, tmp_path: Path) -> None:
    content = format_1("localization", way=way)
    del content["model"]["encoding"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert read_config(tmp_path).head.encoding == encoding


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("model", "fusion", "sum", "model.fusion is 'sum': it should be"),
        ("model", "fusion_tokens", None, "config.json lacks model.fusion_tokens"),
        ("model", "fusion", None, "config.json lacks model.fusion"),
        ("model", "decoder_dim", 33, "model.decoder_dim: 33 is not divisible by its 2 heads"),
        ("model", "image_mask_ratio", 2, "model.image_mask_ratio is 2: it should be less than 1"),
        ("model", "wings", 2, "unknown key model.wings"),
        ("spectrogram", "hop", None, "config.json lacks spectrogram.hop"),
        ("spectrogram", "mels", 16, "spectrogram.mels is 16, model.audio_size has 32 mel bands"),
        (None, "model", 3, "model is 3: it should be a section"),
        (None, "spectrogram", None, "lacks spectrogram.sample_rate, spectrogram.n_fft, spectrogram.hop"),
        (None, "kind", "poet", "unknown kind 'poet'"),
    ],
)
def test_what_is_wrong_in_format_1_is_called_as_it_is_there(
    section: str | None, key: str, value: object, words: str, tmp_path: Path
) -> None:
    content = format_1("autoencoder")
    table = content[section] if section else content
    table[key] = value
    if value is None:
        del table[key]
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError) as caught:
        read_config(tmp_path)
    assert caught.value.message.startswith(str(path)) and words in caught.value.message
    assert caught.value.hint


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
    source, target = (build_model("autoencoder", SETTINGS).encoder for _ in range(2))
    source.reset_parameters()
    target.reset_parameters()
    state = source.image.state_dict()
    fixed = sincos_positions(24, (2, 2))[None]
    extra = {"cls_token": torch.zeros(1), "pos_embed": fixed, "decoder_embed.weight": torch.zeros(1)}
    torch.save({"model": {**state, **extra}}, tmp_path / "vit.pth")
    load_vit(target.image, tmp_path / "vit.pth")
    assert all(torch.equal(target.image.state_dict()[key], state[key]) for key in state)
    with pytest.raises(
        CheckpointError, match=r"patch_embed.proj.weight is \(24, 3, 16, 16\), not \(24, 1, 16, 16\)"
    ):
        load_vit(target.audio, tmp_path / "vit.pth")
