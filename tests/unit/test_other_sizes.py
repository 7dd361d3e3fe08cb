"""Fine-tuning in other sizes than the model's: what can be had is used, the rest is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import avtool
from avtool import engine
from avtool.checkpoint import save_checkpoint
from avtool.config.checkpoint import read_config
from avtool.config.model import Encoder
from avtool.config.recipes import load_recipe
from avtool.config.schema import Recipe
from avtool.data.dataset import PreparedDataset
from avtool.errors import RecipeError
from avtool.evaluate import evaluate
from avtool.model.build import random_model
from avtool.places import checkpoints_of, resolve_checkpoint
from tests.clips import clip
from tests.models import described

SETTINGS = {
    "image_size": [32, 32], "audio_size": [32, 64], "patch_size": 16, "dim": 128, "depth": 2, "heads": 2,
    "fusion": "factorized", "fusion_tokens": [3, 2, 2], "fusion_attn_ratio": 1.0,
    "decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2,
}  # fmt: skip
OTHER = (
    "model.image_size=[48,64]",
    "model.audio_size=[64,96]",
    "spectrogram.hop=160",
    "spectrogram.n_fft=512",
)
OWN = "extends: tiny\ntask: classify\nclassify: {}\n"
RUN = ("data.workers=0", "train.batch_size=4", "train.accumulate=1", "train.eval_every=0", "max_steps=2")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small"
    config = described("autoencoder", SETTINGS, {"sample_rate": 16000, "n_fft": 800, "hop": 250})
    save_checkpoint(folder, model=random_model("autoencoder", SETTINGS, seed=3), config=config)
    return folder


def train(task: str, model: Path, data: Path, out: Path, *settings: str, **options: object) -> Path:
    recipe = load_recipe(f"tiny-{task}", [*RUN, f"init.model={model}", *settings])
    return engine.train(recipe, data=data, out=out, device="cpu", **options)


@pytest.mark.parametrize("task", ["classify", "localize", "separate", "segment"])
def test_another_window_and_frame_are_trained_on_evaluated_and_resumed(
    synth: Callable[[int], Path], model: Path, tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = synth(20), tmp_path / "run"
    train(task, model, data, out, *OTHER, stop_after=1)
    said = " ".join(capsys.readouterr().err.split())
    assert f"other sizes than those of {model}, with positions made anew: " in said
    assert "model.audio_size is [64, 96], was [32, 64]; spectrogram.hop is 160, was 250" in said
    recipe = load_recipe(str(out / "recipe.yaml"))  # as a resumed run reads it that is given nothing else
    engine.train(recipe, data=data, out=out, device="cpu", resume=True)
    assert [int(folder.name[-8:]) for folder in checkpoints_of(out)] == [1, 2]
    config = read_config(resolve_checkpoint(out))
    assert config.model.image_size == (48, 64) and config.model.audio_size == (64, 96)
    assert dict(config.spectrogram) == {"sample_rate": 16000, "n_fft": 512, "hop": 160}
    assert config.window == 96 * 160 and config.model.depth == 2
    capsys.readouterr()
    assert evaluate(out, data, device="cpu", batch_size=16)[0].samples
    assert "less sound than the window" not in capsys.readouterr().err


def test_a_window_longer_than_the_clips_is_said_to_be_filled_up(
    synth: Callable[[int], Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = synth(20), tmp_path / "run"
    seconds = 1 + int(PreparedDataset(data).durations().max())
    train("classify", model, data, out, f"model.audio_size=[32,{64 * seconds}]")
    words = f"of {data} have less sound than the window of {seconds:.2f} s: it is filled up by reflection"
    assert words in " ".join(capsys.readouterr().err.split())
    evaluate(out, data, device="cpu")
    assert words in " ".join(capsys.readouterr().err.split())


def test_a_model_of_other_sizes_is_used_on_clips(
    synth: Callable[[int], Path], model: Path, tmp_path: Path
) -> None:
    out = train("classify", model, synth(20), tmp_path / "run", *OTHER)
    (found,) = avtool.classify([clip(tmp_path / "x.mp4", 2)], model=out, device="cpu")
    assert found.times[0].tolist() == pytest.approx([0, 96 * 160 / 16000])
    again = train("separate", out, synth(20), tmp_path / "again", "model.image_size=[32,32]")
    config = read_config(resolve_checkpoint(again))  # a step on, what it does not name stays
    assert config.model.image_size == (32, 32) and config.window == 96 * 160
    assert avtool.load(again).encode(torch.zeros(1, 3, 32, 32), torch.zeros(1, 96 * 160)).image.shape == (
        1, 4, 128,
    )  # fmt: skip


def fitted(recipe: str, model: Path, *settings: str) -> Recipe:
    """What a run would be of."""
    return engine.starting_model(load_recipe(recipe, [*settings, f"init.model={model}"]), allow_random=False)[
        0
    ]


def test_what_a_shipped_recipe_says_of_a_model_is_not_asked_of_another(model: Path) -> None:
    found = fitted("finetune-vggsound", model)
    assert Encoder.of(found.model) == read_config(model).model and found.spectrogram.hop == 250


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.depth=12", "argument 'model.depth=12': .* has model.depth 2"),
        ("model.fusion.kind=dense", "has model.fusion.kind factorized"),
        ("model.fusion={tokens: [4, 2, 2]}", r"has model.fusion.tokens \[3, 2, 2\]"),
        ("model.patch_size=8", "has model.patch_size 16"),
        ("init.image=mae-vitb", "argument 'init.image=mae-vitb': both encoders start from "),
        ("spectrogram.hop=801", "spectrogram.hop: 801 is more than spectrogram.n_fft 800"),
        ("model.audio_size=[64,390]", r"is not divisible by model.patch_size 16; \[64, 384\] is"),
    ],
)
def test_what_a_model_cannot_change_is_refused_by_name(model: Path, setting: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as refused:
        fitted("tiny-classify", model, setting)
    assert refused.value.hint


def test_the_line_of_ones_own_recipe_is_named_and_its_size_used(model: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text(OWN + "model: {audio_size: [32, 128]}\n")
    found = fitted(str(own), model).model
    assert found.audio_size == (32, 128) and found.depth == 2
    own.write_text(OWN + "model:\n  heads: 4\n  depth: 3\n")
    with pytest.raises(
        RecipeError, match=r"mine.yaml:6: .* has model.depth 2; .*mine.yaml:5: .* model.heads 2"
    ):
        fitted(str(own), model)


def test_a_size_that_the_models_own_others_do_not_go_with(model: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text(OWN + "spectrogram: {hop: 900, n_fft: 1000}\n")
    recipe = load_recipe(str(own), [f"init.model={model}"])
    recipe.asked.pop(("spectrogram", "n_fft"))
    with pytest.raises(RecipeError, match=r"spectrogram.hop: 900 is more than spectrogram.n_fft 800"):
        engine.starting_model(recipe, allow_random=False)


def test_settings_of_decoders_are_said_to_be_of_no_use(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted("tiny-classify", model, "model.mask_ratio.image=0.5")
    assert "model.mask_ratio.image: of no use here" in capsys.readouterr().err
