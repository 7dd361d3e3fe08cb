"""Published checkpoints, written in their own layout from the golden weights, converted, loaded and held against
the golden numbers; and what is said where a file does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from avtool.checkpoint import load_model
from avtool.cli import app
from avtool.config.checkpoint import read_config
from avtool.convert import convert, infer, read_published
from avtool.errors import AvtoolError, CheckpointError, UsageError
from avtool.model.build import build_empty_model
from avtool.model.transformer import sincos_positions
from tests.golden import reader
from tests.golden.test_golden import LARGE, settings_of
from tests.models import decoded_everywhere, described

SMALL = [name for name in reader.case_names() if reader.load(name).config["embed_dim"] < LARGE]


def published(case: reader.Case, model: str) -> dict[str, Tensor]:
    """All keys of a published model, positions too: the decoders' as sin-cos, the encoders' as junk that none may
    take."""
    state = case.weights(model)
    grids = {part: [side // 16 for side in case.config[f"{part}_size"]] for part in ("image", "audio")}
    for key, shape in case.shapes(model).items():
        if key.endswith("pos_embed"):
            part = "image" if "image" in key else "audio"
            fixed = key.startswith("encoder.")
            state[key] = (
                torch.full(shape, 7.0) if fixed else sincos_positions(shape[-1], tuple(grids[part]))[None]
            )
    return state


def assumptions(case: reader.Case, **changes: object) -> dict[str, object]:
    config = case.config
    told = {
        "heads": config["num_heads"],
        "decoder_heads": config["decoder_heads"],
        "fusion_tokens": config["fusion_tokens"],
        "image_size": config["image_size"],
        "audio_size": config["audio_size"],
    }
    return {key: value for key, value in (told | changes).items() if value is not None}


def converted(case: reader.Case, model: str, folder: Path, *, under: str | None = "state_dict") -> Path:
    state = published(case, model)
    torch.save(state if under is None else {under: state, "epoch": 3}, folder / "published.pth")
    without = {} if model == "avmae" else {"decoder_heads": None}  # refused of what has no such decoder
    convert(folder / "published.pth", folder / "out", assume=assumptions(case, **without))
    return folder / "out"


@pytest.fixture(scope="module", params=SMALL)
def case(request: pytest.FixtureRequest) -> reader.Case:
    return reader.load(request.param)


def assert_close(got: Tensor, want: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(got, want.to(got.dtype), rtol=0, atol=tolerance)


@torch.no_grad()
def test_a_converted_autoencoder_gives_the_golden_tokens_and_predictions(
    case: reader.Case, tmp_path: Path
) -> None:
    folder = converted(case, "avmae", tmp_path)
    model, log_mel, config = load_model(folder)
    want = {**settings_of(case.config), "patch_size": 16, "mlp_ratio": 4.0, "fusion_rank": None}
    assert config.kind == "autoencoder"
    assert json.loads(json.dumps(config.settings)) == json.loads(json.dumps(want))  # tuples are lists there
    assert log_mel.mels == case.config["audio_size"][0]
    tokens = model.encoder(case.image, case.audio())
    for name in ("image", "audio", "fusion"):
        assert_close(getattr(tokens, name), case.array(f"encoder.{name}_tokens"), 2e-5)
    masks = model.masks(case.array("mask.image.noise"), case.array("mask.audio.noise"))
    visible = model.encode_visible(case.image, case.audio(), *masks)
    predicted = decoded_everywhere(model.image_decoder, visible.image, visible.fusion, masks[0])
    assert_close(predicted, case.array("mae.pred_image"), 2e-5)


@pytest.mark.parametrize("name", ["classifier", "linear_probe"])
@torch.no_grad()
def test_converted_heads_give_the_golden_logits(name: str, case: reader.Case, tmp_path: Path) -> None:
    folder = converted(case, name, tmp_path, under="model")
    model, _, config = load_model(folder)
    assert (config.kind, config.head.classes) == (name, case.config["num_classes"])
    logits = model(case.image, case.audio())
    assert_close(logits.image, case.array(f"{name}.logits_image"), 5e-6)
    assert_close(logits.fusion, case.array(f"{name}.logits_fusion"), 5e-6)


@torch.no_grad()
def test_converted_decoders_give_the_golden_logits(case: reader.Case, tmp_path: Path) -> None:
    folder = converted(case, "separation", tmp_path, under=None)
    model, _, config = load_model(folder)
    assert config.kind == "separation"
    assert_close(model(case.image, case.audio()), case.array("separation.binary.logits"), 5e-6)
    for classes in case.config["segmentation_classes"]:
        (tmp_path / str(classes)).mkdir()
        folder = converted(case, f"segmentation.{classes}", tmp_path / str(classes))
        model, _, config = load_model(folder)
        assert (config.kind, config.head.classes) == ("segmentation", classes)
        logits = model(case.image, case.audio())[..., ::8, ::8]
        assert_close(logits, case.array(f"segmentation.{classes}.logits"), 5e-6)


def full_size(attn_ratio: float, mlp_ratio: float) -> dict[str, Tensor]:
    """The published model's state dict at full size, shapes alone."""
    from avtool.model.published import to_published

    settings = {"fusion_attn_ratio": attn_ratio, "fusion_mlp_ratio": mlp_ratio}
    state = to_published(build_empty_model("autoencoder", settings).state_dict(), fusion="factorized")
    positions = {"image": (1, 196, 768), "audio": (1, 96, 768)}
    return state | {
        f"encoder.{part}.pos_embed": torch.empty(shape, device="meta") for part, shape in positions.items()
    }


@pytest.mark.parametrize(
    ("attn_ratio", "mlp_ratio", "count"), [(0.25, 1.0, 320_563_712), (1.0, 4.0, 378_997_760)]
)
def test_the_released_models_need_no_options(attn_ratio: float, mlp_ratio: float, count: int) -> None:
    state = full_size(attn_ratio, mlp_ratio)
    assert sum(value.numel() for value in state.values()) == count
    config = infer(state, {}, source=Path("x.pth"), origin="a test")
    assert config == described(
        "autoencoder", {"fusion_attn_ratio": attn_ratio, "fusion_mlp_ratio": mlp_ratio}
    )


@pytest.mark.parametrize(
    ("changes", "words", "hint"),
    [
        ({"heads": None}, "48 wide, which heads of 64 do not divide", "heads=N"),
        ({"heads": 5}, "converted: dim: 48 is not divisible by its 5 heads", "heads"),
        ({"decoder_heads": 5}, "converted: decoder_dim: 32 is not divisible by its 5 heads", "decoder_heads"),
        ({"fusion_tokens": None}, "9 learned tokens, which are not 16 + 8 + 8", "fusion_tokens="),
        ({"fusion_tokens": [4, 4, 4]}, "9 learned tokens, which are not 4 + 4 + 4", "fusion_tokens="),
        ({"fusion_tokens": "4,2,3"}, "fusion_tokens is '4,2,3': it should be a list", "fusion_tokens"),
        ({"image_size": [64, 32]}, "16 image patches, but 64,32 makes 4 x 2", "image_size=[H,W]"),
        ({"audio_size": None}, "24 audio patches, but", None),
        (
            {"audio_size": [60, 96]},
            r"audio_size: \[60, 96\] is not divisible by model.patch_size 16",
            "to fit",
        ),
        ({"patch_size": 8}, "patch_size is 8, .* has 16", "leave patch_size= out"),
        ({"hop": 0}, "converted: hop is 0: it should be greater than or equal to 1", "hop"),
        ({"mask_ratio_audio": 1.5}, "mask_ratio_audio is 1.5: it should be less than 1", "to fit"),
        ({"haeds": 3}, "haeds is no setting of this autoencoder", "did you mean heads"),
    ],
    ids=str,
)
def test_what_is_assumed_has_to_fit_the_file(
    changes: dict, words: str, hint: str | None, tmp_path: Path
) -> None:
    case = reader.load("small_factorized_mmi")
    torch.save(published(case, "avmae"), tmp_path / "x.pth")
    if hint is None:  # 24 patches are 8 x 3 of 128 bands, the published height: that fits, and is printed
        config = convert(tmp_path / "x.pth", tmp_path / "out", assume=assumptions(case, **changes))
        assert config.model.audio_size == (128, 48)
        return
    with pytest.raises(UsageError, match=words.replace("+", r"\+")) as caught:
        convert(tmp_path / "x.pth", tmp_path / "out", assume=assumptions(case, **changes))
    assert hint in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_every_key_that_does_not_fit_is_named(tmp_path: Path) -> None:
    case = reader.load("small_dense_mmi")
    state = published(case, "avmae")
    removed = [key for key in state if "blocks.1.norm" in key or "blocks.2.attn.kv" in key]
    assert len(removed) > 10
    for key in removed:
        del state[key]
    state["encoder.image.wings"] = torch.zeros(3)
    state["image_decoder_pred.weight"] = torch.zeros(5, 32)
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError) as caught:
        convert(tmp_path / "x.pth", tmp_path / "out", assume=assumptions(case))
    for key in removed:
        assert f"missing {key}" in caught.value.message
    assert "unexpected encoder.image.wings" in caught.value.message
    assert "image_decoder_pred.weight is (5, 32), not (768, 32)" in caught.value.message
    assert list(tmp_path.iterdir()) == [tmp_path / "x.pth"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {"state_dict": {"conv1.weight": torch.zeros(1)}},
            "no published model: its keys begin with conv1.weight",
        ),
        ({"epoch": 3, "lr": 0.1}, "holds no state dict"),
        ({}, "holds no state dict"),
        ({1: torch.zeros(2), "a": torch.zeros(2)}, r"holds no state dict \(it holds 1, a\)"),
        ({"a": torch.eye(2).to_sparse()}, "a is sparse"),
        ({"image_decoder_norm.weight": torch.zeros(3)}, "has no encoder.image.patch_embed.proj.weight"),
        (
            {"blocks.0.norm1.weight": torch.zeros(3), "patch_embed.proj.weight": torch.zeros(3)},
            "not of 4 dimensions",
        ),
    ],
)
def test_files_without_a_model_are_named(content: dict, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=words):
        convert(tmp_path / "x.pth", tmp_path / "out")


def test_weights_that_are_not_finite_are_refused(case: reader.Case, tmp_path: Path) -> None:
    state = published(case, "avmae")
    state["encoder.fusion_tokens"][0, 0, 0] = torch.inf
    torch.save({"model": state}, tmp_path / "diverged.pth")
    with pytest.raises(
        CheckpointError, match=r"diverged.pth: encoder.fusion_tokens holds values that are not finite"
    ):
        convert(tmp_path / "diverged.pth", tmp_path / "out", assume=assumptions(case))
    assert not (tmp_path / "out").exists()


def test_a_plain_vit_becomes_a_starting_point(tmp_path: Path) -> None:
    from avtool.model.build import build_model
    from avtool.weights import find_starting_weights, load_vit

    settings = {"dim": 128, "depth": 2, "heads": 2, "image_size": (32, 32), "audio_size": (32, 32)}
    source, target = (build_model("autoencoder", settings).encoder for _ in range(2))
    state = {f"module.{key}": value.half() for key, value in source.image.state_dict().items()}
    extra = {f"module.{key}": torch.zeros(1) for key in ("cls_token", "mask_token", "decoder_pred.weight")}
    extra["module.pos_embed"] = sincos_positions(128, (2, 2))[None]
    torch.save({"model": state | extra}, tmp_path / "x.pth")
    config = convert(tmp_path / "x.pth", tmp_path / "vit")
    assert config.kind == "vit"
    assert config.settings == {
        "channels": 3, "patch_size": 16, "dim": 128, "depth": 2, "heads": 2, "mlp_ratio": 4.0,
    }  # fmt: skip
    assert read_config(tmp_path / "vit") == config
    found = find_starting_weights("init.image", str(tmp_path / "vit"))
    load_vit(target.image, found)
    assert all(
        torch.equal(value, source.image.state_dict()[key].half().float())
        for key, value in target.image.state_dict().items()
    )
    with pytest.raises(CheckpointError, match="encoder of one modality alone"):
        load_model(tmp_path / "vit")


def test_keys_and_types_of_published_files(tmp_path: Path) -> None:
    case = reader.load("small_token")
    state = {f"module.{key}": value.double() for key, value in published(case, "linear_probe").items()}
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    read = read_published(tmp_path / "x.pth")
    assert {value.dtype for value in read.values()} == {torch.float32}
    assert not any(key.startswith("module.") for key in read)


def test_the_command_prints_what_it_assumed_and_keeps_it(tmp_path: Path) -> None:
    case = reader.load("small_factorized_mmi")
    torch.save(published(case, "avmae"), tmp_path / "x.pth")
    out = tmp_path / "out"
    options = ["heads=3", "decoder_heads=4", "fusion_tokens=[4,2,3]", "audio_size=[64,96]"]
    done = CliRunner().invoke(
        app, ["convert", str(tmp_path / "x.pth"), "--out", str(out), "--json", *options]
    )
    assert done.exit_code == 0, done.stderr
    assert "* heads = 3" in done.stderr and "  dim = 48" in done.stderr
    assert "* hop = 250" in done.stderr
    said, kept = json.loads(done.stdout), json.loads((out / "config.json").read_text())
    assert said == {"out": str(out), **kept}
    again = CliRunner().invoke(app, ["convert", str(tmp_path / "x.pth"), "--out", str(out), *options])
    assert again.exit_code == 2 and "--force" in again.stderr
    wrong = CliRunner().invoke(app, ["convert", "x.pth", "--out", str(out), "heads"])
    assert wrong.exit_code == 2 and "'heads' is not of the form key=value" in wrong.stderr
    wrong = CliRunner().invoke(app, ["convert", "x.pth", "--out", str(out), "heads=3", "hop=2", "heads=4"])
    assert wrong.exit_code == 2 and "heads is given twice: heads=3 and heads=4" in wrong.stderr


@pytest.mark.parametrize(
    ("option", "setting"),
    [("--heads", "heads=N"), ("--spectrogram=16000,800,250", "sample_rate=RATE n_fft=")],
)
def test_an_option_of_earlier_versions_is_refused_with_the_setting(option: str, setting: str) -> None:
    done = CliRunner().invoke(app, ["convert", "x.pth", "--out", "out", option, "3"])
    assert done.exit_code == 2
    assert f"{option.partition('=')[0]} is a setting now: {setting}" in " ".join(done.stderr.split())


def test_errors_are_avtools(tmp_path: Path) -> None:
    with pytest.raises(AvtoolError, match="no weights at"):
        convert(Path("nowhere.pth"), Path("out"))
    with pytest.raises(AvtoolError, match="is a folder, a file of weights is needed"):
        convert(tmp_path, tmp_path / "out")
