"""A model as an ONNX file: in ONNX Runtime it computes what it does in torch, and it says how it is to be fed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import avtool
from avtool import export as exporting
from avtool.checkpoint import save_checkpoint
from avtool.cli import app
from avtool.errors import UsageError
from avtool.export import export
from avtool.model.build import random_model
from avtool.tasks.names import ClassNames
from tests.models import described
from tests.unit.test_load_export import SETTINGS, SPECTROGRAM, inputs

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

MAPS = {"width": 16, "map_shifts": 2}
MODELS: dict[str, tuple[str, dict[str, object]]] = {
    "token": ("autoencoder", {"fusion": "token"}),
    "dense": ("autoencoder", {"fusion": "dense"}),
    "factorized": ("autoencoder", {"fusion": "factorized"}),
    "bilinear": ("autoencoder", {"fusion": "bilinear"}),
    "classifier": ("classifier", {"classes": 5}),
    "linear_probe": ("linear_probe", {"classes": 5}),
    "unimodal": ("localization", {"encoding": "unimodal", "blank_share": 0.5, "map_scale": 1.5, **MAPS}),
    "joint": ("localization", {"encoding": "joint", "map_scale": 0.75, **MAPS}),
    "separation": ("separation", {}),
    "masks": ("segmentation", {"classes": 1, "dim": 128}),
    "semantic": ("segmentation", {"classes": 7, "dim": 128}),
}
FULL = {"image_size": (224, 224), "audio_size": (128, 192), "dim": 768, "depth": 12, "heads": 12}
FULL |= {"fusion_layers": "all", "fusion_tokens": (16, 8, 8)}


def saved(folder: Path, name: str, **changes: object) -> Path:
    """A checkpoint of one of ``MODELS`` with random weights in every norm, bias and running statistic as well."""
    kind, own = MODELS[name]
    config = described(kind, {**SETTINGS, **own, **changes}, SPECTROGRAM)
    model = random_model(kind, config.settings, seed=0)
    generator = torch.Generator().manual_seed(1)
    for key, value in model.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            noise = 0.2 * torch.randn(value.shape, generator=generator)
            value.add_(noise.abs() if key.endswith("running_var") else noise)
    save_checkpoint(folder, model=model, config=config)
    return folder


def in_torch(folder: Path, *pair: Tensor) -> list[Tensor]:
    """What the checkpoint gives in avtool itself; of a pretrained one, what its encoder does."""
    model = avtool.load(folder)
    with torch.no_grad():
        found = (model.encoder if model.config.kind == "autoencoder" else model.module)(*pair)
    return [found] if isinstance(found, Tensor) else list(found)


def in_onnxruntime(file: Path, threads: int = 0) -> Callable[..., list[np.ndarray]]:
    """``threads`` 0: the runtime's own choice."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda image, audio: session.run(None, {"image": image.numpy(), "audio": audio.numpy()})


def in_openvino(file: Path, threads: int = 0) -> Callable[..., list[np.ndarray]]:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    model = openvino.Core().compile_model(str(file), "CPU", settings)
    return lambda image, audio: list(model({"image": image.numpy(), "audio": audio.numpy()}).values())


def largest_difference(
    folder: Path, run: Callable[..., list[np.ndarray]], like: tuple[Tensor, Tensor]
) -> float:
    """Between ``run`` and torch, of any output for batches of 1, 2 and 5."""
    generator, found = torch.Generator().manual_seed(3), list[float]()
    for batch in (1, 2, 5):
        pair = tuple(torch.randn(batch, *part.shape[1:], generator=generator) for part in like)
        wanted = in_torch(folder, *pair)
        got = run(*pair)
        assert [part.shape for part in got] == [tuple(part.shape) for part in wanted]
        found += [np.abs(have - want.numpy()).max() for have, want in zip(got, wanted, strict=True)]
    return max(found)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_the_same_in_onnx_runtime(name: str, tmp_path: Path) -> None:
    folder, file = saved(tmp_path / "model", name), tmp_path / "out" / "model.onnx"
    done = CliRunner().invoke(app, ["export", str(folder), "--out", str(file), "--json"])
    assert done.exit_code == 0, done.stderr
    assert "in 3 batches of 1, 2, 5: largest difference" in done.stderr and "tolerance 1e-05" in done.stderr
    assert largest_difference(folder, in_onnxruntime(file), inputs()) <= 1e-5
    said = json.loads(done.stdout)
    assert said.pop("out") == str(file) and said.pop("compared")["largest_difference"] <= 1e-5
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["avtool.json"]) == said
    for told, found in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
        assert {value.name: value.shape for value in found} == said[told]
    assert (said["task"], said["kind"], said["avtool"]) == (
        {"autoencoder": "pretrain", "localization": "localize", "separation": "separate"}.get(
            MODELS[name][0], "segment" if name in ("masks", "semantic") else "classify"
        ),
        {"autoencoder": "encoder", "linear_probe": "classifier"}.get(MODELS[name][0], MODELS[name][0]),
        avtool.__version__,
    )
    heard = {"sample_rate": 16000, "n_fft": 400, "hop": 250, "mels": 32, "samples": 16000, "floor": 1e-7}
    assert said["log_mel"] == heard and said["image_mean"] == [0.485, 0.456, 0.406]
    assert [path.name for path in file.parent.iterdir()] == ["model.onnx"]
    here = Path(avtool.__file__).parent
    assert str(here).encode() not in file.read_bytes()  # nothing of this machine's files


def test_both_programs_say_the_same(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", "classifier")
    ClassNames(tuple("abcdé"), several=True).write(folder)
    onnx, pt2 = (export(folder, tmp_path / f"x{suffix}") for suffix in (".onnx", ".pt2"))
    del onnx["compared"]
    logits = {name: ["batch", 5] for name in ("image", "audio", "fusion", "mean")}
    assert pt2.pop("outputs") == logits
    assert onnx.pop("outputs") == {f"{name}_logits": shape for name, shape in logits.items()}
    assert onnx == pt2 and onnx["classes"] == tuple("abcdé") and onnx["several"] is True


def test_a_file_that_computes_something_else_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, file = saved(tmp_path / "model", "separation"), tmp_path / "model.onnx"
    file.write_text("before")
    found = exporting._compared

    def of_another(path: Path, module: nn.Module, *rest: object) -> dict[str, object]:
        module.module.separation_decoder.predict.bias.add_(2e-5)
        return found(path, module, *rest)

    monkeypatch.setattr(exporting, "_compared", of_another)
    command = ["export", str(folder), "--out", str(file), "--force"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1 and done.stdout == ""
    assert "ONNX Runtime and torch differ by 2" in done.stderr and "more than 1e-05" in done.stderr
    assert file.read_text() == "before" and len(list(tmp_path.iterdir())) == 2
    assert CliRunner().invoke(app, [*command, "--tolerance", "1e-4"]).exit_code == 0
    in_onnxruntime(file)


def test_what_an_onnx_file_needs_is_said_before_a_model_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UsageError, match="needs onnxscript, which does not load") as caught:
        export(tmp_path / "none", tmp_path / "x.onnx")
    assert "pip install 'avtool[onnx]'" in caught.value.hint


def test_more_weights_than_one_file_holds_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "ONNX_LIMIT", 100_000)
    folder = saved(tmp_path / "model", "token")
    with pytest.raises(UsageError, match=r"are \d+ kB, and an .onnx file holds 100 kB") as caught:
        export(folder, tmp_path / "x.onnx")
    assert "x.pt2" in caught.value.hint and not (tmp_path / "x.onnx").exists()
    export(folder, tmp_path / "x.pt2")


@pytest.mark.proof
@pytest.mark.parametrize("size", ["tiny", "full"])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_the_same_in_openvino_too(name: str, size: str, tmp_path: Path) -> None:
    """Run with -s to see the figures."""
    pytest.importorskip("openvino")
    folder, file = (
        saved(tmp_path / "model", name, **(FULL if size == "full" else {})),
        tmp_path / "model.onnx",
    )
    export(folder, file)
    config = avtool.load(folder).config.model
    like = torch.empty(1, 3, *config.image_size), torch.empty(1, 1, *config.audio_size)
    for run in (in_onnxruntime, in_openvino):
        found = largest_difference(folder, run(file), like)
        print(f"{name}, {size}, {run.__name__}: {found:.2g}", flush=True)
        assert found <= 1e-5


@pytest.mark.proof
def test_full_size_latency_beside_torch(tmp_path: Path) -> None:
    """Prints (-s) how long one frame and its sound take, over torch's own time, on one thread: medians and quartiles of
    interleaved passes."""
    pytest.importorskip("openvino")
    folder, file = saved(tmp_path / "model", "factorized", **FULL), tmp_path / "model.onnx"
    export(folder, file)
    for name, ratios in latencies(folder, file).items():
        low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        print(f"{name}: {middle:.2f} ({low:.2f} to {high:.2f}) of torch's time", flush=True)
        assert middle < 2


def latencies(folder: Path, file: Path, rounds: int = 9) -> dict[str, list[float]]:
    """Seconds of each runtime over those of torch in the same round."""
    model = avtool.load(folder)
    config = model.config.model
    pair = torch.randn(1, 3, *config.image_size), torch.randn(1, 1, *config.audio_size)
    runs: dict[str, Callable[..., object]] = {
        "torch": model.encode,
        "onnxruntime": in_onnxruntime(file, threads=1),
        "openvino": in_openvino(file, threads=1),
    }
    for run in runs.values():
        run(*pair)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.process_time()
            run(*pair)
            seconds[name].append(time.process_time() - began)
    own = seconds.pop("torch")
    return {name: [taken / base for taken, base in zip(of, own, strict=True)] for name, of in seconds.items()}
