"""The image encoder's start from a ViT of timm's: what it computes, what is refused, where weights come from."""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from timm.models.vision_transformer import ResPostBlock
from torch import Tensor, nn
from typer.testing import CliRunner

import avtool
from avtool import engine
from avtool.cli import app
from avtool.config.recipes import load_recipe
from avtool.data.prepare import prepare
from avtool.errors import CheckpointError, RecipeError
from avtool.export import export
from avtool.features import normalize_frames
from avtool.model.encoder import VisionTransformer
from avtool.model.transformer import VIT_EPS, Block, sincos_positions
from avtool.places import checkpoints_of
from avtool.timm_vit import TimmViT, _compute_the_same, arguments_for_timm, weights_for_timm
from avtool.weight_files import read_safetensors
from avtool.weights import find_starting_weights, load_vit
from tests.processes import run
from tests.unit.test_load_export import saved

SIZES = {"dim": 64, "depth": 6, "heads": 2, "mlp_ratio": 3.0, "patch_size": 16}
"""Of timm's test_vit, which sees frames of 160 pixels."""


def vit(**sizes: float) -> VisionTransformer:
    sizes = SIZES | sizes
    return VisionTransformer(channels=3, drop_path=[0.0] * sizes["depth"], **sizes).eval()


def theirs(*, fixed: bool = False, **settings: object) -> nn.Module:
    """timm's test_vit with every weight drawn at random; ``fixed``: with the fixed table of positions."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit", **settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        if fixed:
            model.pos_embed.zero_()
            model.pos_embed[:, -100:] = sincos_positions(64, (10, 10))
    return model


def start(file: Path | str, encoder: VisionTransformer, name: str = "test_vit") -> str:
    return load_vit(encoder, find_starting_weights("init.image", f"timm:{name}@{file}"))


def features(encoder: VisionTransformer, frames: Tensor) -> Tensor:
    tokens = encoder.embed(normalize_frames(frames), None)
    for block in encoder.blocks:
        tokens = block(tokens)
    return encoder.norm(tokens)


def test_tokens_are_those_of_timms_own_model_on_the_same_pixels(tmp_path: Path) -> None:
    # without a class token, which the encoder does not have either
    model = theirs(fixed=True, class_token=False, global_pool="avg", fc_norm=False)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    encoder = vit()
    note = start(tmp_path / "model.safetensors", encoder)
    assert note == (
        "without its head; its pixels' mean (0.5, 0.5, 0.5) and deviation (0.5, 0.5, 0.5) folded into the "
        "patch embedding"
    )
    frames = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8)
    with torch.no_grad():
        wanted = model.forward_features((frames / 255 - 0.5) / 0.5)
        found = features(encoder, frames)
    assert wanted.shape == found.shape == (2, 100, 64) and wanted.std() > 0.5
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layers", ["none", [0]])
def test_the_image_encoder_alone_is_a_vit_of_timms_and_comes_back(layers: object, tmp_path: Path) -> None:
    folder, file = saved(tmp_path / "model", fusion_layers=layers), tmp_path / "vit.safetensors"
    done = CliRunner().invoke(app, ["export", str(folder), "--out", str(file), "--json"])
    assert done.exit_code == 0, done.stderr
    with safe_open(file, "pt") as content:
        facts = json.loads(content.metadata()["avtool.json"])
    assert facts == {name: value for name, value in json.loads(done.stdout).items() if name != "out"}
    assert facts["inputs"] == {"image": ["batch", 3, 32, 48]} and "log_mel" not in facts
    assert facts["outputs"] == {"tokens": ["batch", 6, 32]} and facts["kind"] == "image"
    model = timm.create_model(**facts["timm"]).eval()
    model.load_state_dict(load_file(file), strict=True)
    read = timm.create_model(**facts["timm"], checkpoint_path=str(file)).eval()
    frames = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    pixels = timm.data.resolve_model_data_config(model)
    mean, std = (torch.tensor(pixels[name]).view(3, 1, 1) for name in ("mean", "std"))
    ours = avtool.load(folder)
    with torch.no_grad():
        found = model.forward_features((frames / 255 - mean) / std)
        assert torch.equal(read.forward_features((frames / 255 - mean) / std), found)
        alone = features(ours.encoder.image, frames)
        fused = ours.encode(frames, torch.zeros(2, 16000)).image
    assert found.shape == (2, 6, 32) and found.std() > 0.1
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)
    assert torch.allclose(found, fused, atol=1e-5) == (layers == "none")  # fusion is what is lost
    encoder = vit(dim=32, depth=2, mlp_ratio=4)
    assert load_vit(encoder, find_starting_weights("init.image", str(file))) == ""
    assert all(
        torch.equal(value, encoder.state_dict()[key])
        for key, value in ours.encoder.image.state_dict().items()
    )
    before = file.read_bytes()
    export(folder, file, force=True)
    assert file.read_bytes() == before


def test_an_image_encoder_of_the_published_sizes_is_timms_base() -> None:
    with torch.device("meta"):
        encoder = vit(dim=768, depth=12, heads=12, mlp_ratio=4.0)
        base = timm.create_model(
            "vit_base_patch16_224", num_classes=0, class_token=False, global_pool="avg", fc_norm=False
        )
        told = timm.create_model(**arguments_for_timm(encoder, (224, 224)))
    shapes = [{key: value.shape for key, value in one.state_dict().items()} for one in (base, told, encoder)]
    assert shapes[0] == shapes[1] == {"pos_embed": (1, 196, 768), **shapes[2]}
    odd = vit(dim=44, depth=1, heads=1, mlp_ratio=49.5 / 44)  # 49 / 44 * 44 is less than 49
    args = arguments_for_timm(odd, (32, 32))
    timm.create_model(**args).load_state_dict(weights_for_timm(odd, (32, 32)))


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    for model, words in (
        (theirs(), "without its class token, positions (the fixed table takes their place), head"),
        (theirs(fixed=True), "without its class token, head"),
        (theirs(fixed=True, num_classes=0), "without its class token"),
        (theirs(global_pool="map"), "attention pooling"),
    ):
        save_file(model.state_dict(), tmp_path / "model.safetensors")
        assert words in start(tmp_path / "model.safetensors", vit()).split("; ")[0]


def test_a_norm_behind_the_pooling_is_left_out_and_the_encoders_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(theirs(global_pool="avg").state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="there is nothing of norm"):
        start(tmp_path / "model.safetensors", vit())
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name: create(name, global_pool="avg"))
    encoder = vit()
    note = start(tmp_path / "model.safetensors", encoder)
    assert "norm of the pooled features, head; with a new final norm" in note
    assert torch.equal(encoder.norm.weight, torch.ones(64))


def test_checkpoints_of_timms_training_are_read_its_averaged_weights_first(tmp_path: Path) -> None:
    state = theirs().state_dict()
    averaged = {f"module.{key}": value + 1 for key, value in state.items()}
    arguments = argparse.Namespace(model="test_vit", lr=0.1)
    torch.save({"epoch": 3, "args": arguments, "state_dict": state}, tmp_path / "last.pth.tar")
    torch.save({"args": arguments, "state_dict": state, "state_dict_ema": averaged}, tmp_path / "ema.pth.tar")
    for name, difference in (("last", 0.0), ("ema", 1.0)):
        encoder = vit()
        start(tmp_path / f"{name}.pth.tar", encoder)
        key = "blocks.3.mlp.fc1.weight"
        assert torch.equal(encoder.state_dict()[key], state[key] + difference)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet18", "it is a ResNet, not a plain VisionTransformer"),
        ("swin_tiny_patch4_window7_224", "it is a SwinTransformer, not a plain"),
        ("deit3_small_patch16_224", "it has LayerScale$"),
        ("vit_small_patch14_reg4_dinov2", "LayerScale, register tokens$"),
        ("vit_base_patch16_clip_224", "it has a norm before the first block; .*eps of 1e-05, not 1e-06"),
        ("vit_base_patch16_clip_quickgelu_224", "activation is QuickGELU"),
        ("vit_base_patch16_rope_reg1_gap_256", "it is a Eva, not a plain"),
        ("vit_small_r26_s32_224", "it has convolutions before its patches"),
        ("vit_base_patch16_rpn_224", r"it lacks blocks\.attn\.qkv\.bias"),
        ("vit_dlittle_patch16_reg1_gap_256", r"it has blocks\.attn\.lambda_k1, .*, \d more"),
        (
            "vit_tiny_patch16_224",
            "its dim is 192, the recipe's 64; its depth is 12, the recipe's 6; its heads is 3",
        ),
        ("vit_base_patch32_224", "patch_size is 32, the recipe's 16"),
    ],
)
def test_what_computes_something_else_is_refused_by_name(name: str, words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        TimmViT.find("init.image", f"timm:{name}").check(vit())
    assert caught.value.message.startswith(f"timm's {name} cannot start the image encoder: ")
    assert re.search(words, caught.value.message)


def test_other_sizes_say_which_settings_fit() -> None:
    with pytest.raises(CheckpointError) as caught:
        TimmViT.find("init.image", "timm:vit_tiny_patch16_224").check(vit())
    assert caught.value.hint.startswith(
        "set model.dim=192 model.depth=12 model.heads=3 model.mlp_ratio=4, or"
    )
    with pytest.raises(CheckpointError) as caught:
        TimmViT.find("init.image", "timm:vit_base_patch32_224").check(vit())
    assert "model.patch_size=32 and image_size and audio_size of whole patches, or" in caught.value.hint
    TimmViT.find("init.image", "timm:vit_tiny_patch16_224").check(
        vit(dim=192, depth=12, heads=3, mlp_ratio=4)
    )


def test_blocks_with_the_same_weights_that_compute_something_else_are_seen() -> None:
    block = Block(64, heads=2, eps=VIT_EPS)
    norm = {"qkv_bias": True, "norm_layer": partial(nn.LayerNorm, eps=VIT_EPS)}
    assert _compute_the_same(timm.models.vision_transformer.Block(64, 2, **norm), block)
    assert not _compute_the_same(timm.models.vision_transformer.Block(64, 4, **norm), block)
    assert not _compute_the_same(ResPostBlock(64, 2, **norm), block)
    norm["act_layer"] = partial(nn.GELU, approximate="tanh")
    assert not _compute_the_same(timm.models.vision_transformer.Block(64, 2, **norm), block)


def test_wrong_names_and_files_are_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"timm knows no model 'vit_base_patch16_224\.mea'") as caught:
        find_starting_weights("init.image", "timm:vit_base_patch16_224.mea")
    assert caught.value.hint.startswith("did you mean vit_base_patch16_224.mae, ")
    with pytest.raises(CheckpointError, match=r"there is no file 'nowhere\.pth'"):
        find_starting_weights("init.image", "timm:test_vit@nowhere.pth")
    with pytest.raises(CheckpointError, match="nor one of audiomae-vitb, mae-vitb, timm:NAME, none"):
        find_starting_weights("init.image", "test_vit")
    state = theirs().state_dict()
    state["blocks.0.ls1.gamma"] = torch.ones(64)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"unexpected blocks\.0\.ls1\.gamma") as caught:
        start(tmp_path / "other.safetensors", vit())
    assert caught.value.hint == f"name the architecture of {tmp_path / 'other.safetensors'}"
    with torch.device("meta"):
        encoder = vit(dim=1024, depth=24, heads=16, mlp_ratio=4, patch_size=14)
    with pytest.raises(CheckpointError, match="timm has no weights for vit_large_patch14_224") as caught:
        load_vit(encoder, find_starting_weights("init.image", "timm:vit_large_patch14_224"))
    assert caught.value.hint == "name weights of your own, init.image=timm:vit_large_patch14_224@FILE"


def test_weights_that_are_no_numbers_start_nothing(tmp_path: Path) -> None:
    file = tmp_path / "broken.safetensors"
    save_file({**theirs().state_dict(), "norm.bias": torch.full((64,), torch.nan)}, file)
    with pytest.raises(
        CheckpointError, match=r"broken\.safetensors: norm\.bias holds values that are not finite"
    ):
        start(file, vit())
    torch.save({**vit().state_dict(), "norm.bias": torch.full((64,), torch.nan)}, tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match=r"vit\.pth: norm\.bias holds values that are not finite"):
        load_vit(vit(), tmp_path / "vit.pth")
    save_file({key: value.to(torch.int8) for key, value in theirs().state_dict().items()}, file)
    with pytest.raises(CheckpointError, match="is int8, not floating point"):
        start(file, vit())
    save_file({**theirs().state_dict(), "pos_embed": torch.zeros(5)}, file)
    assert "positions" in start(file, vit())  # are left out, whatever they are


def test_sound_does_not_start_from_pictures() -> None:
    with pytest.raises(RecipeError, match=r"init\.audio.*timm's ViTs read pictures"):
        load_recipe("tiny", ["init.audio=timm:vit_base_patch16_224.mae"])


class Hub(BaseHTTPRequestHandler):
    """As much of a model hub as a download asks for: one file of one repository."""

    content = b""
    asked: list[str]

    def do_HEAD(self) -> None:
        self.answer(with_content=False)

    def do_GET(self) -> None:
        self.answer(with_content=True)

    def answer(self, *, with_content: bool) -> None:
        if self.path != "/timm/test_vit.r160_in1k/resolve/main/model.safetensors":
            self.send_error(404)
            return
        type(self).asked.append(self.command)
        self.send_response(200)
        self.send_header("X-Repo-Commit", "0123456789abcdef0123456789abcdef01234567")
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        if with_content:
            self.wfile.write(self.content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.content, Hub.asked = save(theirs().state_dict()), []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


START = """
import sys, torch
from avtool.errors import AvtoolError
from avtool.model.encoder import VisionTransformer
from avtool.weights import find_starting_weights, load_vit
encoder = VisionTransformer(channels=3, patch_size=16, dim=64, depth=6, heads=2, mlp_ratio=3.0, drop_path=[0.0] * 6)
torch.manual_seed(7)
try:
    load_vit(encoder, find_starting_weights("init.image", "timm:test_vit"))
except AvtoolError as error:
    print(error.message, error.hint, sep="\\n")
    sys.exit(error.exit_code)
torch.save((encoder.state_dict(), torch.rand(1)), sys.argv[1])
"""


def test_weights_come_from_the_hub_once_and_then_from_its_cache(hub: str, tmp_path: Path) -> None:
    where = {
        "HF_HOME": str(tmp_path / "hub"),
        "HF_ENDPOINT": hub,
        "no_proxy": "*",
    }

    def started(**environment: str) -> subprocess.CompletedProcess[str]:
        return run(["-c", START, tmp_path / "started.pt"], env=os.environ | where | environment)

    nowhere = started(HF_HUB_OFFLINE="1")
    message, hint = nowhere.stdout.splitlines()
    assert nowhere.returncode == 1 and Hub.asked == []
    assert message.startswith("timm cannot get the weights of test_vit (timm/test_vit.r160_in1k): ")
    assert "HF_HUB_OFFLINE" in message
    assert "init.image=timm:test_vit@FILE" in hint and str(tmp_path / "hub" / "hub") in hint
    assert "init.image=none" in hint
    fetched = started()
    assert fetched.returncode == 0, fetched.stderr
    assert Hub.asked == ["HEAD", "GET"]
    state = theirs().state_dict()
    encoder = vit()
    save_file(state, tmp_path / "model.safetensors")
    start(tmp_path / "model.safetensors", encoder)
    for again in (False, True):
        if again:
            (tmp_path / "started.pt").unlink()
            assert started(HF_HUB_OFFLINE="1").returncode == 0
        weights, drawn = torch.load(tmp_path / "started.pt")
        assert all(torch.equal(value, weights[key]) for key, value in encoder.state_dict().items())
        torch.manual_seed(7)
        assert torch.equal(drawn, torch.rand(1))  # the start draws nothing from what a run draws from
    assert Hub.asked == ["HEAD", "GET"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four pictures of noise, each with a second of it."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), generator.integers(0, 255, (40, 48, 3), np.uint8))
        soundfile.write(tmp_path / f"{number}.wav", generator.normal(0, 0.1, 16000), 16000)
        rows.append((f"clip{number}", "train", "a", f"{number}.png", f"{number}.wav"))
    with (tmp_path / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "split", "label", "image", "audio"), *rows])
    return prepare("manifest", tmp_path / "table.csv", out=tmp_path / "prepared").out


def test_pretraining_starts_from_it_and_its_run_says_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(theirs().state_dict(), tmp_path / "vit.safetensors")
    init = f"timm:test_vit@{tmp_path / 'vit.safetensors'}"
    settings = [
        *(
            "max_steps=1",
            "train.batch_size=2",
            "train.accumulate=1",
            "train.precision=float32",
            "optim.base_lr=1e-9",
        ),
        *(
            "model.image_size=[32,32]",
            "model.audio_size=[32,64]",
            "model.dim=64",
            "model.depth=6",
            "model.heads=2",
        ),
        *("model.mlp_ratio=3", "model.decoder={dim: 16, depth: 1, heads: 2}", "data.workers=0"),
        f"init.image={init}",
    ]
    recipe = load_recipe("tiny", settings)
    out = engine.train(recipe, data=data, out=tmp_path / "run", device="cpu")
    assert (
        f"the image encoder starts from timm's test_vit in {tmp_path / 'vit.safetensors'}, without its class "
        in (capsys.readouterr().err)
    )
    assert json.loads((out / "run.json").read_text())["init"] == {"image": init, "audio": "none"}
    weights = read_safetensors(checkpoints_of(out)[-1] / "model.safetensors")
    found = weights["encoder.image.blocks.5.mlp.fc2.weight"]
    torch.testing.assert_close(found, theirs().state_dict()["blocks.5.mlp.fc2.weight"], atol=1e-5, rtol=0)
    other = load_recipe("tiny", [*settings, "model.heads=4"])
    with pytest.raises(CheckpointError, match="its heads is 2, the recipe's 4"):
        engine.dry_run(other, data=data, device="cpu")
