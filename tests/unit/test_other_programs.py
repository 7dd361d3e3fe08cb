"""Weights as other programs leave them: prefixes, averaged weights, what lies beside them, and ViTs of other makes."""

from __future__ import annotations

import argparse
import io
import json
import pickle
import sys
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, _weights_only_unpickler
from typer.testing import CliRunner

from avtool.checkpoint import save_checkpoint
from avtool.cli import app
from avtool.convert import convert
from avtool.errors import AvtoolError, CheckpointError, UsageError
from avtool.export import export
from avtool.model.build import build_model, random_model
from avtool.model.encoder import VisionTransformer
from avtool.model.transformer import sincos_positions
from avtool.vits import is_fixed_table
from avtool.weight_files import _harmless, read_safetensors, read_state_dict
from avtool.weights import load_vit
from tests.models import described

SIZES = {"patch_size": 16, "dim": 64, "depth": 2, "heads": 1, "mlp_ratio": 2.0}
Said = pytest.CaptureFixture[str]


def vit(channels: int = 3, *, seed: int = 0, depth: int = 2) -> VisionTransformer:
    """An encoder of one modality with every weight drawn at random."""
    model = build_model("vit", {**SIZES, "depth": depth, "channels": channels})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def positions(rows: int, columns: int, *, before: int = 0, learned: bool = False) -> Tensor:
    table = sincos_positions(64, (rows, columns))[None]
    return torch.cat([torch.zeros(1, before, 64), table + 0.1 * learned], dim=1)


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def said_in(capsys: Said) -> str:
    return " ".join(capsys.readouterr().err.split())


# Names


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "_orig_mod.",
        "module._orig_mod.",
        "model.",
        "model._orig_mod.",
        "module.",
        "net.backbone.",
        "n.model.vit.",
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_before_all_names_is_taken_off(tmp_path: Path, prefix: str, suffix: str) -> None:
    state, file = vit().state_dict(), tmp_path / f"x{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": under(prefix, state)}, file)
    else:
        save_file(under(prefix, state), file)
    convert(file, tmp_path / "out")
    assert same(read_safetensors(tmp_path / "out" / "model.safetensors"), state)
    encoder = vit(seed=1)
    load_vit(encoder, file)
    assert same(encoder.state_dict(), state)


def test_what_was_compiled_in_parts_is_read(tmp_path: Path) -> None:
    state = vit().state_dict()
    torch.save(
        {key.replace("blocks.1.", "blocks.1._orig_mod."): state[key] for key in state}, tmp_path / "x.pth"
    )
    assert same(read_state_dict(tmp_path / "x.pth"), state)


def test_a_model_beside_other_parts_is_found_and_they_are_named(tmp_path: Path, capsys: Said) -> None:
    state, others = (
        vit().state_dict(),
        {"criterion.weight": torch.ones(3), "head.mlp.0.weight": torch.ones(3)},
    )
    torch.save({"state_dict": {**under("model.", state), **others}}, tmp_path / "x.pth")
    convert(tmp_path / "x.pth", tmp_path / "out")
    assert same(read_safetensors(tmp_path / "out" / "model.safetensors"), state)
    assert "model is read, and not criterion, head" in said_in(capsys)


def test_of_two_models_one_is_to_be_chosen(tmp_path: Path) -> None:
    one, other = vit().state_dict(), vit(seed=1).state_dict()
    torch.save(under("base.", one) | under("momentum.", other), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="under several names: base, momentum") as refused:
        convert(tmp_path / "x.pth", tmp_path / "out")
    assert "--key base" in refused.value.hint
    convert(tmp_path / "x.pth", tmp_path / "out", key="momentum")
    assert same(read_safetensors(tmp_path / "out" / "model.safetensors"), other)
    with pytest.raises(CheckpointError, match="nothing under nowhere") as refused:
        convert(tmp_path / "x.pth", tmp_path / "other", key="nowhere")
    assert refused.value.hint == "it has base, momentum"


# What lies beside


@pytest.mark.parametrize("averaged", ["state_dict_ema", "model_ema", "teacher"])
@pytest.mark.parametrize("usual", ["state_dict", "model", "student"])
def test_which_of_two_is_read_is_said_and_key_chooses(
    tmp_path: Path, capsys: Said, averaged: str, usual: str
) -> None:
    one, other, file = vit().state_dict(), vit(seed=1).state_dict(), tmp_path / "x.pth"
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    torch.save({usual: one, averaged: under("module.", other), "optimizer": optimizer, "epoch": 3}, file)
    convert(file, tmp_path / "out")
    assert same(read_safetensors(tmp_path / "out" / "model.safetensors"), other)
    assert f"{averaged} is read, and not {usual}, optimizer, epoch (avtool convert --key" in said_in(capsys)
    done = CliRunner().invoke(app, ["convert", str(file), "--out", str(tmp_path / "o"), "--key", usual])
    assert done.exit_code == 0, done.stderr
    assert same(read_safetensors(tmp_path / "o" / "model.safetensors"), one)


def test_plain_values_beside_weights_are_no_reason_to_refuse_them(tmp_path: Path) -> None:
    state = vit().state_dict()
    values = {
        "args": argparse.Namespace(
            lr=np.float32(0.1), out=Path("runs/x"), nested=argparse.Namespace(a=[1, None])
        ),
        "best": np.float64(0.5),
        "epoch": np.int64(3),
        "curve": np.arange(4.0),
        "flag": np.bool_(True),
        "name": np.str_("x"),
    }
    torch.save({**values, "model": state}, tmp_path / "x.pth")
    assert same(read_state_dict(tmp_path / "x.pth"), state)
    old = pickle.dumps({"best": np.float64(0.5)}, protocol=2).replace(
        b"numpy._core", b"numpy.core"
    )  # of numpy 1
    with torch.serialization.safe_globals(_harmless()):
        assert _weights_only_unpickler.load(io.BytesIO(old)) == {"best": 0.5}


def test_plain_values_among_the_weights_are_passed_over_and_named(tmp_path: Path, capsys: Said) -> None:
    state = vit().state_dict()
    torch.save({"state_dict": {**state, "blocks.0._extra_state": None, "step": 3}}, tmp_path / "x.pth")
    assert same(read_state_dict(tmp_path / "x.pth"), state)
    assert "every tensor is read, and not blocks.0._extra_state, step" in said_in(capsys)


def test_a_defaultdict_beside_weights_is_read(tmp_path: Path) -> None:
    state = vit().state_dict()
    torch.save({"model": state, "log": defaultdict(list, {"loss": [0.5]})}, tmp_path / "x.pth")
    assert same(read_state_dict(tmp_path / "x.pth"), state)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda value: value.to("meta"), "is on the meta device"),
        (lambda value: value.to_sparse(), "is sparse"),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "is quantized"),
        (lambda value: value.to(torch.int8), "is int8, not floating point"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*quantize")
def test_tensors_that_hold_no_plain_numbers_are_refused_by_name(
    tmp_path: Path, change: Callable[[Tensor], Tensor], what: str
) -> None:
    state, name = vit().state_dict(), "blocks.1.mlp.fc1.weight"
    torch.save({**state, name: change(state[name])}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=f"{name} {what}"):
        convert(tmp_path / "x.pth", tmp_path / "out")


def test_an_index_of_several_files_is_read_and_one_of_them_is_refused(tmp_path: Path) -> None:
    state = vit().state_dict()
    parts = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    where = {name: parts[i % 2] for i, name in enumerate(state)}
    for part in parts:
        save_file({name: state[name] for name in state if where[name] == part}, tmp_path / part)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert same(read_state_dict(index), state)
    with pytest.raises(CheckpointError, match="only a part") as refused:
        read_state_dict(tmp_path / parts[0])
    assert index.name in refused.value.hint
    index.write_text('{"weight_map": {"x": "../../model.safetensors"}}')
    with pytest.raises(CheckpointError, match=f"no weights at {tmp_path / 'model.safetensors'}"):
        read_state_dict(index)
    index.write_text("[]")
    with pytest.raises(CheckpointError, match="no index of weights"):
        read_state_dict(index)


@pytest.fixture
def elsewhere() -> Iterator[Callable[[str, str], type]]:
    """Classes of packages that are there while a file is written, and gone when it is read."""
    made: list[str] = []

    def module_with(module: str, name: str, base: type = object) -> type:
        found = type(name, (base,), {"__module__": module})
        for depth in range(1, module.count(".") + 2):
            part = ".".join(module.split(".")[:depth])
            if part not in sys.modules:
                sys.modules[part] = types.ModuleType(part)
                made.append(part)
        setattr(sys.modules[module], name, found)
        return found

    yield module_with
    for part in made:
        sys.modules.pop(part, None)


def test_objects_of_known_programs_beside_weights_are_passed_over(
    tmp_path: Path, elsewhere: Callable[[str, str], type]
) -> None:
    state, file = vit().state_dict(), tmp_path / "x.ckpt"
    settings = elsewhere("omegaconf.dictconfig", "DictConfig")()
    settings.content = {"lr": 1}
    torch.save({"state_dict": under("model.", state), "hyper_parameters": settings}, file)
    for name in [name for name in sys.modules if name.startswith("omegaconf")]:
        del sys.modules[name]
    assert same(read_state_dict(file), state)
    assert "omegaconf" not in sys.modules


def test_other_objects_are_refused_by_name_and_whole_models_too(
    tmp_path: Path, elsewhere: Callable[[str, str], type]
) -> None:
    own, whole = elsewhere("my_project.config", "Config"), elsewhere("timm.models.odd", "Odd")
    attributes = elsewhere("lightning.utilities", "AttributeDict", dict)
    torch.save({"model": vit().state_dict(), "config": own()}, tmp_path / "own.pth")
    torch.save(whole(), tmp_path / "whole.pth")
    torch.save({"model": vit().state_dict(), "hyper_parameters": attributes(a=1)}, tmp_path / "dict.pth")
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"model": {}, "x": print}, protocol=2))
    for name, words in (
        ("own", r"is refused: it holds my_project\.config\.Config"),
        ("whole", r"holds a timm\.models\.odd\.Odd, not a dict of weights"),
        ("dict", r"is refused: it holds lightning\.utilities\.AttributeDict"),
        ("code", "is refused: it holds print"),
    ):
        with pytest.raises(CheckpointError, match=words) as refused:
            read_state_dict(tmp_path / f"{name}.pth")
        assert "state dict" in refused.value.hint


def test_a_pickle_of_another_protocol_is_told(tmp_path: Path) -> None:
    torch.save(vit().state_dict(), tmp_path / "x.pth", pickle_protocol=4)
    with pytest.raises(CheckpointError, match="it was saved with pickle_protocol 4") as refused:
        read_state_dict(tmp_path / "x.pth")
    assert "without pickle_protocol" in refused.value.hint


def test_a_file_that_holds_nothing_ends(tmp_path: Path) -> None:
    torch.save(None, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="holds a NoneType"):
        read_state_dict(tmp_path / "x.pth")


# ViTs


def test_a_fine_tuned_vit_starts_an_encoder_and_what_is_left_out_is_said(
    tmp_path: Path, capsys: Said
) -> None:
    state = vit().state_dict()
    tuned = {key: value for key, value in state.items() if not key.startswith("norm.")}
    tuned |= {"fc_norm.weight": torch.full((64,), 2.0), "fc_norm.bias": torch.ones(64)}
    tuned |= {
        "head.weight": torch.ones(10, 64),
        "head.bias": torch.ones(10),
        "cls_token": torch.ones(1, 1, 64),
    }
    torch.save({"model": tuned | {"pos_embed": positions(4, 4, before=1)}}, tmp_path / "x.pth")
    words = "without its class token, norm of the pooled features, head; with a new final norm"
    encoder = vit(seed=1)
    assert load_vit(encoder, tmp_path / "x.pth") == words
    wanted = {**state, "norm.weight": torch.ones(64), "norm.bias": torch.zeros(64)}
    assert same(encoder.state_dict(), wanted)
    convert(tmp_path / "x.pth", tmp_path / "out")
    assert words in said_in(capsys)
    assert same(read_safetensors(tmp_path / "out" / "model.safetensors"), wanted)


def test_learned_positions_are_refused_or_dropped_by_name(tmp_path: Path, capsys: Said) -> None:
    state = vit().state_dict()
    learned = under(
        "backbone.",
        state | {"cls_token": torch.ones(1, 1, 64), "pos_embed": positions(4, 4, before=1, learned=True)},
    )
    file = tmp_path / "dino.pth"
    torch.save({"teacher": learned | {"head.mlp.0.weight": torch.ones(3, 64)}}, file)
    for read in (lambda: convert(file, tmp_path / "out"), lambda: load_vit(vit(), file)):
        with pytest.raises(CheckpointError, match=r"dino\.pth has learned positions") as refused:
            read()
        assert refused.value.hint.startswith(f"avtool convert {file} --out DIR --drop-positions")
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(app, ["convert", str(file), "--out", str(tmp_path / "out"), "--drop-positions"])
    assert done.exit_code == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert "backbone is read, and not head" in said
    assert "without its class token, positions (the fixed table takes their place)" in said
    encoder = vit(seed=1)
    load_vit(encoder, tmp_path / "out")
    assert same(encoder.state_dict(), state)


@pytest.mark.parametrize("grid", [(14, 14), (8, 64), (64, 8), (1, 7)])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_the_fixed_table_is_known_in_any_grid(grid: tuple[int, int], before: int) -> None:
    assert is_fixed_table(positions(*grid, before=before).half())
    assert is_fixed_table(positions(*grid, before=before).bfloat16())
    assert not is_fixed_table(positions(*grid, before=before, learned=True))
    assert not is_fixed_table(torch.zeros(1))


def test_an_ast_starts_the_audio_encoder_and_the_image_encoder(tmp_path: Path, capsys: Said) -> None:
    state = vit(1).state_dict()
    of_file = under(
        "module.v.", state | {"cls_token": torch.ones(1, 1, 64), "dist_token": torch.ones(1, 1, 64)}
    )
    of_file["module.v.pos_embed"] = positions(12, 101, before=2, learned=True)
    of_file |= {"module.mlp_head.0.weight": torch.ones(64), "module.mlp_head.1.weight": torch.ones(527, 64)}
    torch.save(of_file, tmp_path / "ast.pth")
    with pytest.raises(CheckpointError, match="learned positions"):
        load_vit(vit(1), tmp_path / "ast.pth")
    config = convert(tmp_path / "ast.pth", tmp_path / "ast", drop_positions=True)
    assert config.model.channels == 1
    said = said_in(capsys)
    assert "v is read, and not mlp_head" in said and "class token, distillation token, positions" in said
    encoder = vit(1, seed=1)
    assert load_vit(encoder, tmp_path / "ast") == ""
    assert same(encoder.state_dict(), state)
    pictures = vit(3, seed=1)
    assert load_vit(pictures, tmp_path / "ast") == "its one channel spread over three colours"
    grey = torch.randn(2, 1, 32, 32)
    coloured = pictures.embed(grey.expand(-1, 3, -1, -1), None)
    torch.testing.assert_close(coloured, encoder.embed(grey, None), atol=1e-3, rtol=1e-4)


def cav_mae() -> dict[str, Tensor]:
    """A CAV-MAE of two blocks a stream and one of both, under its own names, wrapped for several GPUs."""
    generator = torch.Generator().manual_seed(5)
    block = vit(depth=1).blocks[0].state_dict()

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    state = {}
    for part in ("blocks_a.0", "blocks_a.1", "blocks_v.0", "blocks_v.1", "blocks_u.0", "decoder_blocks.0"):
        for key, value in block.items():
            name, _, rest = key.partition(".")
            for stream in ("", "_a", "_v") if name.startswith("norm") else ("",):
                state[f"{part}.{name}{stream}.{rest}"] = drawn(*value.shape)
    for stream, channels, grid in (("a", 1, (8, 64)), ("v", 3, (14, 14))):
        state |= {f"patch_embed_{stream}.proj.weight": drawn(64, channels, 16, 16)}
        state |= {f"patch_embed_{stream}.proj.bias": drawn(64), f"modality_{stream}": drawn(1, 1, 64)}
        state |= {f"pos_embed_{stream}": positions(*grid), f"decoder_pos_embed_{stream}": positions(*grid)}
        state |= {f"norm_{stream}.weight": drawn(64), f"norm_{stream}.bias": drawn(64)}
    state |= {"norm.weight": drawn(64), "norm.bias": drawn(64), "mask_token": drawn(1, 1, 64)}
    return under("module.", state)


@pytest.mark.parametrize(("stream", "letter", "channels"), [("audio", "a", 1), ("image", "v", 3)])
def test_a_stream_of_a_cav_mae_starts_its_encoder(
    tmp_path: Path, stream: str, letter: str, channels: int
) -> None:
    state = cav_mae()
    torch.save(state, tmp_path / "cav.pth")
    encoder = vit(channels, depth=3, seed=1)
    note = load_vit(encoder, tmp_path / "cav.pth")
    assert note == (
        f"of its {stream} stream alone, with the token of that stream in the patches' bias; "
        "without its mask token, decoder"
    )
    with torch.no_grad():  # what CAV-MAE computes of one stream
        x = torch.randn(2, channels, 128, 128)
        tokens = encoder.embed(x, None)
        kernel, bias = (state[f"module.patch_embed_{letter}.proj.{part}"] for part in ("weight", "bias"))
        embedded = torch.nn.functional.conv2d(x, kernel, bias, stride=16).flatten(2).mT
        wanted = embedded + sincos_positions(64, (8, 8)) + state[f"module.modality_{letter}"]
        torch.testing.assert_close(tokens, wanted, atol=1e-3, rtol=1e-4)
    found = encoder.state_dict()
    for key, name in (
        ("blocks.1.norm1.weight", f"blocks_{letter}.1.norm1.weight"),
        ("blocks.1.mlp.fc2.bias", f"blocks_{letter}.1.mlp.fc2.bias"),
        ("blocks.2.norm2.bias", f"blocks_u.0.norm2_{letter}.bias"),
        ("blocks.2.attn.qkv.weight", "blocks_u.0.attn.qkv.weight"),
        ("norm.weight", f"norm_{letter}.weight"),
    ):
        assert torch.equal(found[key], state[f"module.{name}"]), key
    with pytest.raises(UsageError, match="an encoder of pictures and one of sounds") as asked:
        convert(tmp_path / "cav.pth", tmp_path / "out")
    assert asked.value.hint == "add stream=image or stream=audio"
    config = convert(tmp_path / "cav.pth", tmp_path / "out", assume={"stream": stream})
    assert (config.model.channels, config.model.depth) == (channels, 3)
    assert same(read_safetensors(tmp_path / "out" / "model.safetensors"), found)


def test_what_is_unknown_in_a_cav_mae_is_not_dropped(tmp_path: Path) -> None:
    torch.save(
        {**cav_mae(), "module.blocks_v.0.ls1.gamma": torch.ones(64), "module.prompt": torch.ones(1)},
        tmp_path / "x.pth",
    )
    with pytest.raises(CheckpointError, match=r"unexpected blocks_v.0.ls1.gamma; unexpected prompt"):
        convert(tmp_path / "x.pth", tmp_path / "out", assume={"stream": "image"})
    only = {key: value for key, value in cav_mae().items() if "blocks_v." not in key}
    torch.save(only, tmp_path / "y.pth")
    with pytest.raises(CheckpointError):
        convert(tmp_path / "y.pth", tmp_path / "out")


def test_a_stream_is_no_setting_of_other_models(tmp_path: Path) -> None:
    torch.save(vit().state_dict(), tmp_path / "x.pth")
    with pytest.raises(UsageError, match="stream is no setting of this vit"):
        convert(tmp_path / "x.pth", tmp_path / "out", assume={"stream": "image"})


def test_what_a_plain_vit_has_not_is_refused_by_name(tmp_path: Path) -> None:
    for extra in ("blocks.0.ls1.gamma", "reg_token", "blocks.1.attn.relative_position_bias_table"):
        torch.save(OrderedDict(vit().state_dict(), **{extra: torch.ones(64)}), tmp_path / "x.pth")
        with pytest.raises(CheckpointError, match=f"unexpected {extra}"):
            convert(tmp_path / "x.pth", tmp_path / "out")


# Numbers that are none


def test_weights_that_are_no_numbers_are_neither_converted_nor_exported(tmp_path: Path) -> None:
    state = vit().state_dict()
    state["blocks.1.mlp.fc1.bias"][3] = torch.nan
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(
        CheckpointError, match=r"x\.pth: blocks\.1\.mlp\.fc1\.bias holds values that are not finite"
    ):
        convert(tmp_path / "x.pth", tmp_path / "out")
    settings = {
        "image_size": [32, 32],
        "audio_size": [32, 64],
        "dim": 16,
        "depth": 1,
        "heads": 2,
        "classes": 3,
    }
    model = random_model("classifier", settings, seed=0)
    model.audio_head.bias.data[1] = torch.inf
    config = described("classifier", settings, {"sample_rate": 16000, "n_fft": 800, "hop": 250})
    save_checkpoint(tmp_path / "model", model=model, config=config)
    with pytest.raises(AvtoolError, match=r"model: audio_head\.bias holds values that are not finite"):
        export(tmp_path / "model", tmp_path / "x.pt2")
    assert not (tmp_path / "out").exists() and not (tmp_path / "x.pt2").exists()
