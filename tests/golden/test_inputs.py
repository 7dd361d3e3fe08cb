"""What every path shows a model of one clip, pixel by pixel and sample by sample, held to ``inputs.npz``.

To the bit with the PyAV and OpenCV that wrote it, within a level or so with others. ``python -m
tests.golden.test_inputs`` writes it anew, which is right only where a change of what models see is meant.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import avtool
from avtool.checkpoint import save_checkpoint
from avtool.data.dataset import PreparedDataset
from avtool.data.prepare import prepare
from avtool.data.views import (
    EvaluationViews,
    MaskViews,
    MixtureViews,
    PartnerViews,
    TrainingViews,
    WindowViews,
    masked_frames,
)
from avtool.evaluate import evaluate
from avtool.features import IMAGE_MEAN, IMAGE_STD, LogMel
from avtool.media import container, write_clip
from avtool.model.build import random_model
from avtool.model.localization import UNIMODAL
from avtool.model.transformer import PatchEmbed, unpatchify
from tests.models import described

PINS = Path(__file__).parent / "inputs.npz"
VERSIONS = f"av {av.__version__}, opencv {cv2.__version__}"
RATE, FPS, SECONDS, COUNT = 16000, 10, 8.0, 3
HEIGHT, WIDTH = 288, 384
AAC_BLOCK = 1024
VIEW: dict[str, Any] = {"image_size": (32, 48), "window_samples": RATE}
SETTINGS = {
    "image_size": [32, 48], "audio_size": [32, 64], "dim": 128, "depth": 2, "heads": 2, "fusion_tokens": [3, 1, 2],
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "classifier": {"classes": 3},
    "segmentation": {"classes": 1},
    "localization": {"encoding": UNIMODAL, "width": 16},
}
View = dict[str, np.ndarray]


def frame(second: float, number: int) -> np.ndarray:
    """Waves that move, of another pitch in every channel and another angle in every clip."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] / 50
    waves = [np.sin(rows * (1 + number) + columns * (1 + k) + 3 * second + k) for k in range(3)]
    return np.round(128 + 100 * np.stack(waves, axis=2)).astype(np.uint8)


def write_source(folder: Path) -> list[Path]:
    paths = []
    rows = ["id,split,label,video,mask,boxes"]
    for number in range(COUNT):
        path = folder / f"{number}.mp4"
        blocks = round((SECONDS - 0.1 * number) * RATE) // AAC_BLOCK  # FFmpeg 8 reads a last one's padding
        time = np.arange(blocks * AAC_BLOCK) / RATE
        sound = 0.6 * np.sin(
            2 * np.pi * (100 + 60 * time + 40 * number) * time
        )  # a pitch that rises says when
        frames = (frame(k / FPS, number) for k in range(round(SECONDS * FPS)))
        write_clip(path, frames, fps=FPS, waveform=sound.astype(np.float32), sample_rate=RATE)
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[40 + 20 * number : 200, 100:300] = 255
        cv2.imwrite(str(folder / f"{number}.png"), mask)
        rows.append(f'{number},test,kind {number},{number}.mp4,{number}.png,"[[0.3,0.2,0.7,0.6]]"')
        paths.append(path)
    (folder / "table.csv").write_text("\n".join(rows))
    prepare("manifest", folder / "table.csv", out=folder / "prepared", jobs=1)
    return paths


def write_model(folder: Path, kind: str) -> Path:
    settings = SETTINGS | OWN.get(kind, {})
    config = described(kind, settings)
    save_checkpoint(folder / kind, model=random_model(kind, settings, seed=0), config=config)
    return folder / kind


@contextmanager
def watched() -> Iterator[View]:
    """What an encoder is shown meanwhile, in order: ``image`` uint8 (N, 3, H, W), ``waveform`` int16 (N, samples)."""
    images: list[Tensor] = []
    sounds: list[Tensor] = []
    found: View = {}

    def look(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if isinstance(module, LogMel) and given[0].shape[1] == RATE:  # a picture is drawn of more
            sounds.append(given[0])
        elif isinstance(module, PatchEmbed) and given[0].shape[2] == 3 * 16 * 16:
            images.append(unpatchify(given[0], 16, (2, 3)))

    hook = nn.modules.module.register_module_forward_pre_hook(look)
    try:
        yield found
    finally:
        hook.remove()
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (IMAGE_MEAN, IMAGE_STD))
    pixels = torch.cat(images) * std + mean
    found["image"] = (pixels * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    found["waveform"] = (torch.cat(sounds) * 32768).round().to(torch.int16).numpy()


def stacked(samples: list[dict[str, Any]]) -> View:
    names = [name for name in samples[0] if name.split("_")[-1] in ("image", "waveform", "mask", "db")]
    return {name: np.stack([sample[name] for sample in samples]) for name in names}


def everything(folder: Path) -> dict[str, View]:
    """What each path shows, by its name."""
    paths = write_source(folder)
    dataset = PreparedDataset(folder / "prepared", "test")
    drawn = TrainingViews(dataset, **VIEW, crop_scale=(0.3, 1.0), seed=5)
    masked = TrainingViews(dataset, **VIEW, crop_scale=(0.3, 1.0), seed=5, semantic=False)
    fixed, windows = EvaluationViews(dataset, **VIEW), WindowViews(dataset, **VIEW, windows=4)
    masks = MaskViews(
        dataset, masked_frames(dataset, range(COUNT)), **VIEW, mask_size=(56, 56), semantic=False
    )
    partners = PartnerViews(drawn, np.arange(COUNT), partners=2)
    some = [(0, 0), (1, 1), (7, 2)]
    found = {
        "training": stacked([drawn.sample(*at) for at in some]),
        "partners": stacked([partners.sample(3, 1)]),
        "drawn masks": stacked([masked.sample(*at) for at in some]),
        "evaluation": stacked([fixed.sample(i) for i in range(COUNT)]),
        "whole": stacked([EvaluationViews(dataset, **VIEW, whole=True).sample(i) for i in range(COUNT)]),
        "windows": stacked([windows.sample(k) for k in (0, 1, 3, 6)]),
        "masks": stacked([masks.sample(i) for i in range(COUNT)]),
        "mixtures": stacked([MixtureViews(fixed, np.array([[0, 2], [1, 0]])).sample(i) for i in range(2)]),
    }
    models = {
        kind: write_model(folder, kind)
        for kind in ("classifier", "localization", "segmentation", "separation")
    }
    runs: dict[str, Callable[[], Any]] = {
        "evaluate classify": lambda: evaluate(models["classifier"], folder / "prepared"),
        "evaluate localize": lambda: evaluate(
            models["localization"], folder / "prepared", protocols=["pointing"]
        ),
        "evaluate segment": lambda: evaluate(models["segmentation"], folder / "prepared"),
        "evaluate separate": lambda: evaluate(models["separation"], folder / "prepared"),
        "classify": lambda: list(avtool.classify(paths[:1], model=models["classifier"])),
        "embed": lambda: avtool.embed(paths, model=models["classifier"], out=folder / "t.npz"),
        "localize": lambda: avtool.localize(paths[1], model=models["localization"], out=folder / "h.png"),
        "localize at": lambda: avtool.localize(
            paths[1], model=models["localization"], out=folder / "at.png", at=0.62
        ),
        "segment": lambda: avtool.segment(paths[2], model=models["segmentation"], out=folder / "m.png"),
        "segment at": lambda: avtool.segment(
            paths[2], model=models["segmentation"], out=folder / "m2.png", at=2.3
        ),
        "segment a clip": lambda: avtool.segment(
            paths[0], model=models["segmentation"], out=folder / "m.mp4"
        ),
        "separate": lambda: avtool.separate(paths[0], model=models["separation"], out=folder / "s"),
        "separate a box": lambda: avtool.separate(
            paths[0], model=models["separation"], out=folder / "b", box=(0.1, 0.2, 0.7, 0.8)
        ),
    }
    for name, run in runs.items():
        with watched() as seen:
            run()
        found[name] = seen
    return found


def pinned(found: dict[str, View]) -> dict[str, np.ndarray]:
    """What is kept of it: pictures whole, every 40th sample of sounds, and the checksums of both."""
    kept = {"versions": np.array(VERSIONS)}
    for path, view in found.items():
        for name, values in view.items():
            digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
            kept[f"{path}: {name}, sha256"] = np.array(digest)
            few = values[:8, ..., ::40] if name.endswith("waveform") else values[:4]
            kept[f"{path}: {name}"] = few
    return kept


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, View]:
    return everything(tmp_path_factory.mktemp("inputs"))


def test_every_path_shows_what_it_did(shown: dict[str, View]) -> None:
    found = pinned(shown)
    with np.load(PINS) as file:
        pins = {name: file[name] for name in file.files}
    assert found.keys() == pins.keys()
    same = str(pins["versions"]) == VERSIONS
    differ = []
    for name, values in found.items():
        if values.dtype.kind == "U":
            if same and values != pins[name]:
                differ.append(name)
            continue
        assert values.shape == pins[name].shape, name
        off = np.abs(values.astype(float) - pins[name]).mean()
        if off > (200 if name.endswith("waveform") else 2):
            differ.append(f"{name} by {off:g}")
    assert not differ


@pytest.mark.parametrize(
    ("own", "evaluated", "pairs"),
    [
        ("classify", "evaluate classify", [(7, 0)]),  # of fifteen windows the one in the clip's middle
        ("embed", "evaluate classify", [(0, 0)]),
        ("localize", "evaluate localize", [(0, 1)]),
        ("segment", "evaluate segment", [(0, 2)]),
        ("separate", "evaluate separate", [(7, 0)]),
    ],
)
def test_ones_own_clip_is_shown_as_evaluation_shows_it(
    shown: dict[str, View], own: str, evaluated: str, pairs: list[tuple[int, int]]
) -> None:
    for mine, theirs in pairs:
        for name in ("image", "waveform"):
            found = shown[evaluated][name]
            if own == "separate" and name == "waveform":
                continue  # evaluation hears two clips mixed
            assert np.array_equal(shown[own][name][mine], found[theirs]), (own, name, mine)
    others = shown[evaluated]["image"][:COUNT]
    assert len({picture.tobytes() for picture in others}) > 1


@pytest.mark.parametrize(
    ("name", "times"),
    [("classify", 1), ("localize", 1), ("segment", 1), ("separate", 1), ("segment a clip", 2)],
)
def test_a_clip_is_opened_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, times: int
) -> None:
    """A whole clip under its masks is gone through twice, for its sound and for its frames."""
    path = tmp_path / "clip.mp4"
    sound = 0.3 * np.sin(np.arange(6 * RATE) / 9).astype(np.float32)
    write_clip(path, (frame(k / 2, 0) for k in range(12)), fps=2, waveform=sound, sample_rate=RATE)
    kind = {"localize": "localization", "separate": "separation"}.get(name, "segmentation")
    model = write_model(tmp_path, "classifier" if name == "classify" else kind)
    opened = []
    real = container._opened
    monkeypatch.setattr(container, "_opened", lambda path: opened.append(path) or real(path))
    runs: dict[str, Callable[[], Any]] = {
        "classify": lambda: list(avtool.classify([path], model=model, every=1.0)),
        "localize": lambda: avtool.localize(path, model=model, out=tmp_path / "o.png"),
        "segment": lambda: avtool.segment(path, model=model, out=tmp_path / "o.png"),
        "segment a clip": lambda: avtool.segment(path, model=model, out=tmp_path / "o.mp4"),
        "separate": lambda: avtool.separate(path, model=model, out=tmp_path / "o"),
    }
    runs[name]()
    assert opened == [path] * times


def write_pins() -> None:
    with tempfile.TemporaryDirectory() as folder:
        np.savez_compressed(PINS, **pinned(everything(Path(folder))))


if __name__ == "__main__":
    write_pins()
