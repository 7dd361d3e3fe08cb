"""A model in somebody else's program: loaded with avtool, or exported and run without it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

import avtool
from avtool.checkpoint import save_checkpoint
from avtool.cli import app
from avtool.errors import CheckpointError, UsageError
from avtool.export import export
from avtool.features import normalize_frames
from avtool.media import write_clip
from avtool.model.build import build_model
from avtool.tasks.localize.predict import localize
from avtool.tasks.names import ClassNames
from tests.models import described

SETTINGS = {
    "image_size": [32, 48],
    "audio_size": [32, 64],
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "fusion_layers": [0],
}
SETTINGS |= {"fusion_tokens": [3, 2, 2]}
SPECTROGRAM = {"sample_rate": 16000, "n_fft": 400, "hop": 250}
HEADS = {
    "autoencoder": {"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2},
    "classifier": {"classes": 5},
    "linear_probe": {"classes": 5},
    "separation": {},
}


def saved(folder: Path, kind: str = "autoencoder", **changes: object) -> Path:
    """A checkpoint whose every weight is random, norms and biases too."""
    settings = {**SETTINGS, **HEADS[kind], **changes}
    torch.manual_seed(0)
    model = build_model(kind, settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    config = described(kind, settings, SPECTROGRAM)
    save_checkpoint(folder, model=model, config=config)
    return folder


def inputs(batch: int = 2, image: tuple[int, int] = (32, 48), frames: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(batch, 3, *image, generator=generator),
        torch.randn(batch, 1, 32, frames, generator=generator) - 2,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("models") / "autoencoder")


SCRIPT = """
import sys
import avtool
assert not {"torch", "numpy", "pydantic", "typer"} & set(sys.modules), "import avtool is not light"
assert "load" in dir(avtool) and avtool.__version__
import torch

model = avtool.load(sys.argv[1])
tokens = model.encode(torch.zeros(2, 3, 32, 48, dtype=torch.uint8), torch.zeros(2, 64 * 250))
print([list(getattr(tokens, name).shape) for name in ("image", "audio", "fusion")])
assert "timm" not in sys.modules and "torchvision" not in sys.modules
"""


def test_three_lines_in_a_script_outside_the_package(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SCRIPT)
    command = [sys.executable, "mine.py", str(folder)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[[2, 6, 32], [2, 8, 32], [2, 7, 32]]\n"
    assert done.stderr == ""


@pytest.mark.parametrize("kind", HEADS)
def test_any_kind_encodes_and_in_any_form_of_input(kind: str, tmp_path: Path) -> None:
    model = avtool.load(str(saved(tmp_path / "model", kind)))
    assert model.config.kind == kind
    image, audio = inputs()
    tokens = model.encode(image, audio)
    with torch.no_grad():
        want = model.encoder(image, audio)
    assert isinstance(tokens, avtool.Tokens)
    assert all(torch.equal(got, expected) for got, expected in zip(tokens, want, strict=True))
    assert not tokens.image.requires_grad
    frames = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    sound = torch.randint(-3000, 3000, (2, 64 * 250), dtype=torch.int16)
    heard = model.log_mel(sound / 32768)
    prepared = model.encode(normalize_frames(frames), heard)
    for given in (
        model.encode(frames, sound),
        model.encode(frames, sound / 32768),
        model.encode(frames, heard),
    ):
        assert all(torch.equal(got, expected) for got, expected in zip(given, prepared, strict=True))


def test_localize_takes_any_kind_and_the_pulled_model_where_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AVTOOL_MODEL", raising=False)
    monkeypatch.setenv("AVTOOL_CACHE", str(tmp_path / "cache"))
    folder = saved(tmp_path / "cache" / "models" / "pulled", "classifier")
    frames = [np.full((40, 60, 3), 40 + 10 * k, np.uint8) for k in range(8)]
    sound = np.sin(np.arange(32000) / 8).astype(np.float32) / 2
    write_clip(tmp_path / "clip.mp4", frames, fps=4, waveform=sound, sample_rate=16000)
    found = localize(tmp_path / "clip.mp4", out=tmp_path / "map.png", device="cpu")
    assert (found.model, found.kind) == (folder, "cosine")  # one fusion block: any other map would be deaf
    assert found.map.shape == (40, 60)


@pytest.mark.parametrize(
    "change", [{"audio_size": [32, 16 * 10**9]}, {"image_size": [16 * 10**5, 16 * 10**5]}]
)
def test_a_model_that_asks_for_an_absurd_input_is_refused_before_memory_is(
    change: dict[str, list[int]], tmp_path: Path
) -> None:
    config = saved(tmp_path / "model") / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "model": {**content["model"], **change}}))
    frames = [np.zeros((40, 60, 3), np.uint8)] * 8
    sound = np.sin(np.arange(32000) / 8).astype(np.float32) / 2
    write_clip(tmp_path / "clip.mp4", frames, fps=4, waveform=sound, sample_rate=16000)
    with pytest.raises(CheckpointError, match=r"config\.json asks for an input of [\d,]+ numbers"):
        localize(tmp_path / "clip.mp4", out=tmp_path / "map.png", model=tmp_path / "model", device="cpu")


def test_the_encoder_of_one_modality_localizes_nothing(tmp_path: Path) -> None:
    vit = {"channels": 3, "patch_size": 16, "dim": 32, "depth": 1, "heads": 2, "mlp_ratio": 4.0}
    model = build_model("vit", vit)
    config = described("vit", vit)
    save_checkpoint(tmp_path / "vit", model=model, config=config)
    sound = np.sin(np.arange(32000) / 8).astype(np.float32) / 2
    frames = [np.zeros((40, 60, 3), np.uint8)] * 8
    write_clip(tmp_path / "clip.mp4", frames, fps=4, waveform=sound, sample_rate=16000)
    with pytest.raises(CheckpointError, match="holds the encoder of one modality alone"):
        localize(tmp_path / "clip.mp4", model=tmp_path / "vit", out=tmp_path / "map.png", device="cpu")


def test_other_sizes_and_lengths_are_encoded(folder: Path) -> None:
    tokens = avtool.load(folder).encode(*inputs(1, image=(64, 16), frames=320))
    assert [part.shape[1] for part in tokens] == [4, 40, 7]


def test_weights_are_mapped_and_not_copied(folder: Path) -> None:
    parameter = next(avtool.load(folder).module.parameters())
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system has no /proc")
    mapped = [line.split()[0].split("-") for line in maps.read_text().splitlines() if str(folder) in line]
    assert any(int(first, 16) <= parameter.data_ptr() < int(last, 16) for first, last in mapped)


IMAGE, AUDIO = inputs()


@pytest.mark.parametrize(
    ("image", "audio", "words", "hint"),
    [
        (
            IMAGE[..., :40],
            AUDIO,
            "image is 32x40, which patches of 16x16 do not divide",
            "resize it to 32x48",
        ),
        (IMAGE[:, :1], AUDIO, r"image is of shape \(2, 1, 32, 48\)", "(B, 3, H, W)"),
        (IMAGE[0], AUDIO, r"image is of shape \(3, 32, 48\)", "(B, 3, H, W)"),
        (IMAGE.permute(0, 2, 3, 1), AUDIO, "image is of shape", "image.permute(0, 3, 1, 2)"),
        (IMAGE.long(), AUDIO, "image is of torch.int64", "uint8"),
        (IMAGE.to("meta"), AUDIO, "image is on meta, the model on cpu", "image.to('cpu')"),
        (IMAGE, AUDIO.to("meta"), "audio is on meta, the model on cpu", "device='meta'"),
        (
            IMAGE,
            AUDIO[..., :60],
            "a log-mel of 60 frames, which patches of 16 frames",
            "64 frames (16000 samples)",
        ),
        (IMAGE, torch.zeros(2, 16000 + 300 * 16), "20800 samples of 83 frames", "16 frames (4000 samples)"),
        (IMAGE, torch.zeros(2, 10), "10 samples of 0 frames", "64 frames"),
        (IMAGE, AUDIO[:, :, :16], r"shape \(2, 1, 16, 64\), neither a waveform", "model.log_mel"),
        (IMAGE, torch.zeros(2, 16000, dtype=torch.long), "audio is of torch.int64", "int16"),
        (IMAGE[:0], AUDIO, r"image is of shape \(0, 3, 32, 48\): there is nothing in it", "at least one"),
        (IMAGE, AUDIO[:1], "image has 2 frames and audio 1 sounds", "as many"),
        (IMAGE.numpy(), AUDIO, "image is a ndarray", "torch.as_tensor"),
        (IMAGE.to_sparse(), AUDIO, "image is a tensor of torch.sparse_coo", "a dense one"),
        (IMAGE, AUDIO.to(torch.complex64), "audio is a tensor of torch.complex64", "real numbers"),
        (IMAGE.abs() * 80, AUDIO, "image is floating point and has values up to", "give uint8, or normalise"),
        (IMAGE * torch.nan, AUDIO, "image is floating point and has values that are not finite", "uint8"),
        (IMAGE, torch.full((2, 16000), torch.inf), "audio is floating point and has values that", "int16"),
        (IMAGE, torch.full((2, 16000), 3e4), "audio is floating point and has values up to 30000", "[-1, 1]"),
        (IMAGE, AUDIO * torch.nan, "audio is floating point and has values that", "model.log_mel"),
    ],
    ids=lambda value: None if isinstance(value, Tensor) or not isinstance(value, str) else value[:20],
)
def test_inputs_that_do_not_fit_are_named(
    image: Tensor, audio: Tensor, words: str, hint: str, folder: Path
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        avtool.load(folder).encode(image, audio)
    assert hint in caught.value.hint


def test_folders_that_do_not_fit_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model at deepavfusion-vggsoud") as caught:
        avtool.load("deepavfusion-vggsoud")
    assert "avtool pull --list" in caught.value.hint
    for model in (None, 5, b"model"):
        with pytest.raises(UsageError, match=f"is a {type(model).__name__}, neither a path nor a name"):
            avtool.load(model)
    with pytest.raises(UsageError, match="cuda:99"):
        avtool.load(folder, device="cuda:99")
    broken = saved(tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text())
    del config["model"]["heads"]
    (broken / "config.json").write_text(json.dumps({**config, "model": {**config["model"], "haeds": 2}}))
    with pytest.raises(CheckpointError, match=r"unknown key model\.haeds\n.*did you mean model\.heads\?"):
        avtool.load(broken)
    (broken / "config.json").write_text(json.dumps({**config, "spectrogram": {"mels": 16}}))
    with pytest.raises(CheckpointError, match=r"unknown key spectrogram\.mels"):
        avtool.load(broken)


def test_public_names_are_lazy_and_closed() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'unload'"):
        avtool.unload  # noqa: B018
    assert {name for name in avtool.__all__ if getattr(avtool, name)} == set(avtool.__all__)


RUN = """
import sys, json
try:
    import avtool
except ImportError:
    pass
else:
    raise SystemExit("avtool can be imported here")
import torch
files = {"avtool.json": ""}
program = torch.export.load(sys.argv[1], extra_files=files).module()
given = torch.load(sys.argv[2], weights_only=True)
torch.save([dict(program(*pair)) for pair in given], sys.argv[3])
print(files["avtool.json"])
"""


def without_avtool(
    program: Path, pairs: list[tuple[Tensor, Tensor]], folder: Path
) -> tuple[list[dict], dict]:
    """What ``program`` gives for ``pairs`` in a process that finds torch and not avtool, and what it says of itself."""
    torch.save(pairs, folder / "in.pt")
    hide = (
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'avtool':\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Hide)\n"
    )
    command = [sys.executable, "-I", "-c", hide + RUN, program, folder / "in.pt", folder / "out.pt"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "out.pt", weights_only=True), json.loads(done.stdout)


@pytest.mark.parametrize(
    ("kind", "fusion", "options"),
    [
        ("classifier", "factorized", ["--kind", "encoder"]),
        ("linear_probe", "dense", []),
        ("linear_probe", "bilinear", []),
    ],
)
def test_an_export_computes_the_same_where_there_is_no_avtool(
    kind: str, fusion: str, options: list[str], tmp_path: Path
) -> None:
    folder, program = saved(tmp_path / "model", kind, fusion=fusion), tmp_path / "program.pt2"
    command = ["export", str(folder), "--out", str(program), "--json", *options]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.stderr
    described = json.loads(done.stdout)
    assert described.pop("out") == str(program)
    assert described["inputs"] == {"image": ["batch", 3, 32, 48], "audio": ["batch", 1, 32, 64]}
    pairs = [inputs(batch) for batch in (1, 2, 5)]
    got, said = without_avtool(program, pairs, tmp_path)
    assert said == described
    model = avtool.load(folder)
    classifies = not options
    assert said["kind"] == ("classifier" if classifies else "encoder")
    with torch.no_grad():
        for outputs, pair in zip(got, pairs, strict=True):
            want = (model.module if classifies else model.encoder)(*pair)._asdict()
            assert outputs.keys() == want.keys() == said["outputs"].keys()
            for name, value in want.items():
                torch.testing.assert_close(outputs[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("several", [False, True])
def test_a_classifiers_program_holds_the_names_of_its_classes(tmp_path: Path, several: bool) -> None:
    folder, program = saved(tmp_path / "model", "classifier", fusion="token"), tmp_path / "x.pt2"
    assert export(folder, program)["classes"] is None  # as a converted model, which has no names
    names = tuple(f"klasse {number}, ä" for number in range(avtool.load(folder).config.head.classes))
    ClassNames(names, several=several).write(folder)
    described = export(folder, program, force=True)
    files = {"avtool.json": ""}
    outputs = torch.export.load(program, extra_files=files).module()(*inputs(2))
    said = json.loads(files["avtool.json"])
    assert (tuple(said["classes"]), said["several"]) == (names, several)
    assert outputs["mean"].shape == (2, len(names)) and described["classes"] == names
    assert "classes" not in export(folder, program, kind="encoder", force=True)


def test_an_export_of_weights_that_are_not_finite_is_refused(tmp_path: Path) -> None:
    model = saved(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["encoder.fusion_tokens"][0, 0, 0] = torch.nan
    save_file(weights, model / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"encoder.fusion_tokens holds values that are not finite"):
        export(model, tmp_path / "model.pt2", kind="encoder")
    export(model, tmp_path / "vit.safetensors")  # which the fusion tokens are no part of
    weights["encoder.fusion_tokens"][0, 0, 0] = 0
    weights["encoder.image.norm.bias"][0] = torch.inf
    save_file(weights, model / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"norm.bias holds values that are not finite"):
        export(model, tmp_path / "other.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {"model", "vit.safetensors"}


def test_exports_that_cannot_be_had_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "there.pt2").touch()
    for options, words in (
        ({"kind": "classifier"}, "is of kind autoencoder, not classifier"),
        ({"kind": "poem"}, "--kind poem is not known"),
        ({"out": tmp_path / "x.pth"}, r"is named neither \.pt2, \.onnx nor \.safetensors"),
        ({"tolerance": 1e-4}, "--tolerance is for .onnx"),
        ({"out": tmp_path / "x.safetensors", "kind": "encoder"}, "--kind says nothing where"),
        ({"out": tmp_path / "x.safetensors", "tolerance": 1e-4}, "--tolerance is for .onnx"),
        ({"out": tmp_path / "there.pt2"}, "exists"),
    ):
        with pytest.raises(UsageError, match=words):
            export(folder, **{"out": tmp_path / "x.pt2", **options})
    assert [path.name for path in tmp_path.iterdir()] == ["there.pt2"]
