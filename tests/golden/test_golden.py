"""Every golden case of a folder (tests/golden, or $AVTOOL_GOLDEN_DIR) against this package's model."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from avtool.losses import (
    magnitude_weights,
    masked_autoencoding_loss,
    published_ratio_mask,
    reconstruction_loss,
    separation_loss,
)
from avtool.model.build import build_empty_model
from avtool.model.encoder import AudioVisualEncoder
from avtool.model.heads import AudioVisualClassifier, LinearProbe
from avtool.model.mae import MaskedAutoencoder
from avtool.model.published import from_published, to_published
from avtool.model.transformer import sincos_positions
from avtool.model.unet import SegmentationModel, SeparationModel
from avtool.optim import layer_id
from tests.golden import reader
from tests.models import decoded_everywhere

PUBLISHED_FUSION = {"token": "token", "dense_mmi": "dense", "factorized_mmi": "factorized"}
"""Published name of an interaction -> name here."""
LARGE = 400
"""A case of at least this width is built only under the marker ``proof``."""


def _parameters() -> list:
    names = reader.case_names()
    assert names, f"no golden case in {reader.folder()}"
    marked = []
    for name in names:
        large = reader.load(name).config["embed_dim"] >= LARGE
        marked.append(pytest.param(name, marks=pytest.mark.proof if large else (), id=name))
    return marked


def settings_of(config: dict) -> dict:
    layers = config["fusion_layers"]
    return {
        "image_size": tuple(config["image_size"]),
        "audio_size": tuple(config["audio_size"]),
        "dim": config["embed_dim"],
        "depth": config["depth"],
        "heads": config["num_heads"],
        "fusion": PUBLISHED_FUSION[config["fusion"]],
        "fusion_layers": layers
        if layers in ("all", "none")
        else [int(part) for part in re.split(r"\D+", layers)],
        "fusion_tokens": tuple(config["fusion_tokens"]),
        "fusion_attn_ratio": config["fusion_attn_ratio"],
        "fusion_mlp_ratio": config["fusion_mlp_ratio"],
        "decoder_dim": config["decoder_dim"],
        "decoder_depth": config["decoder_depth"],
        "decoder_heads": config["decoder_heads"],
        "mask_ratio_image": config["image_mask_ratio"],
        "mask_ratio_audio": config["audio_mask_ratio"],
    }


@pytest.fixture(scope="module", params=_parameters())
def case(request: pytest.FixtureRequest) -> reader.Case:
    return reader.load(request.param)


@pytest.fixture(scope="module")
def model(case: reader.Case) -> MaskedAutoencoder:
    settings = settings_of(case.config)
    model = build_empty_model("autoencoder", settings)
    state = from_published(case.weights("avmae"), fusion=settings["fusion"])
    for decoder in (model.image_decoder, model.audio_decoder):
        name = "image_decoder" if decoder is model.image_decoder else "audio_decoder"
        state[f"{name}.pos_embed"] = sincos_positions(settings["decoder_dim"], decoder.grid)[None]
    model.load_state_dict(state, assign=True, strict=True)
    return model.eval().requires_grad_()


def assert_close(got: Tensor, want: Tensor, tolerance: float) -> None:
    assert got.shape == want.shape
    torch.testing.assert_close(got.to(want.dtype), want, rtol=0, atol=tolerance)


def masks_of(case: reader.Case, model: MaskedAutoencoder):
    return model.masks(case.array("mask.image.noise"), case.array("mask.audio.noise"))


def test_the_cases_of_this_repository_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AVTOOL_GOLDEN_DIR", raising=False)
    names = reader.case_names()
    assert names == [
        f"small_{name}" for name in ("dense_mmi", "factorized_mmi", "factorized_mmi_layers_0_2", "token")
    ]
    assert all((reader.folder() / f"{name}.npz").is_file() for name in names)


def test_published_keys_round_trip(case: reader.Case) -> None:
    fusion = PUBLISHED_FUSION[case.config["fusion"]]
    published = case.weights("avmae")
    again = to_published(from_published(published, fusion=fusion), fusion=fusion)
    assert again.keys() == published.keys()
    assert all(torch.equal(again[key], published[key]) for key in published)


def test_positions(case: reader.Case, model: MaskedAutoencoder) -> None:
    tables = {
        "positions.image": sincos_positions(model.encoder.dim, model.encoder.image_grid),
        "positions.audio": sincos_positions(model.encoder.dim, model.encoder.audio_grid),
        "positions.decoder_image": sincos_positions(case.config["decoder_dim"], model.image_decoder.grid),
        "positions.decoder_audio": sincos_positions(case.config["decoder_dim"], model.audio_decoder.grid),
    }
    for name in tables.keys() & case.expected.keys():
        assert_close(tables[name], case.array(name), 1e-6)


@torch.no_grad()
def test_encoder_tokens(case: reader.Case, model: MaskedAutoencoder) -> None:
    depths = list(model.encoder.layers(case.image, case.audio()))
    final = model.encoder.normalize(depths[-1])
    checked = 0
    for name in case.expected:
        if match := re.fullmatch(r"encoder\.(?:layer(\d+)\.)?(image|audio|fusion)_tokens", name):
            tokens = final if match[1] is None else depths[int(match[1]) + 1]
            assert_close(case.thin(getattr(tokens, match[2])), case.array(name), 2e-5)
            checked += 1
    assert checked >= 3


def test_masks(case: reader.Case, model: MaskedAutoencoder) -> None:
    for name, mask in zip(("image", "audio"), masks_of(case, model), strict=True):
        assert torch.equal(mask.keep, case.array(f"mask.{name}.ids_keep"))
        assert torch.equal(mask.dense(), case.array(f"mask.{name}.mask"))


@torch.no_grad()
def test_predictions(case: reader.Case, model: MaskedAutoencoder) -> None:
    image_mask, audio_mask = masks_of(case, model)
    tokens = model.encode_visible(case.image, case.audio(), image_mask, audio_mask)
    for name, visible, mask, decoder in (
        ("image", tokens.image, image_mask, model.image_decoder),
        ("audio", tokens.audio, audio_mask, model.audio_decoder),
    ):
        everything = decoded_everywhere(decoder, visible, tokens.fusion, mask)
        assert_close(case.thin(everything), case.array(f"mae.pred_{name}"), 2e-5)


def test_losses_and_gradient_norms(case: reader.Case, model: MaskedAutoencoder) -> None:
    model.zero_grad()
    noise = {name: case.array(f"mask.{name}.noise") for name in ("image", "audio")}
    image, audio = model(case.image, case.audio(), image_noise=noise["image"], audio_noise=noise["audio"])
    parts = masked_autoencoding_loss(
        *(
            reconstruction_loss(part.prediction, part.target, normalize=case.config["norm_target"])
            for part in (image, audio)
        )
    )
    for name in ("image", "audio"):
        assert_close(parts[name].detach(), case.array(f"mae.loss_{name}").float(), 2e-5)
    parts["loss"].backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    gradients = to_published(gradients, fusion=PUBLISHED_FUSION[case.config["fusion"]])
    names = [str(name) for name in case.expected["mae.grad_norm.names"]]
    assert set(names) == set(gradients)
    got = torch.stack([gradients[name].norm() for name in names])
    torch.testing.assert_close(got, case.array("mae.grad_norm.values").float(), rtol=1e-5, atol=1e-5)


def head_factory(name: str, case: reader.Case) -> Callable[[AudioVisualEncoder], nn.Module]:
    """How the published model ``name`` (as in the case's key shapes) is built on an encoder here."""
    if name == "separation":
        return SeparationModel
    if name.startswith("segmentation."):
        return lambda encoder: SegmentationModel(encoder, classes=int(name.removeprefix("segmentation.")))
    kind = {"classifier": AudioVisualClassifier, "linear_probe": LinearProbe}[name]
    return lambda encoder: kind(encoder, classes=case.config["num_classes"])


def empty_head(name: str, case: reader.Case) -> nn.Module:
    with torch.device("meta"):
        return head_factory(name, case)(build_empty_model("autoencoder", settings_of(case.config)).encoder)


def build_head(name: str, case: reader.Case, model: MaskedAutoencoder) -> nn.Module:
    """The published model ``name`` with its weights; it shares the encoder's with ``model``, which have equal keys."""
    published = {
        key: reader.weight(key, shape)
        for key, shape in case.shapes(name).items()
        if not key.startswith("encoder.")
    }
    state = from_published(published, fusion=PUBLISHED_FUSION[case.config["fusion"]])
    state |= {f"encoder.{key}": tensor for key, tensor in model.encoder.state_dict().items()}
    head = empty_head(name, case)
    head.load_state_dict(state, assign=True, strict=True)
    return head.eval()


def recorded(case: reader.Case, pattern: str) -> list[re.Match]:
    """The case's arrays of this name; skips where it has none."""
    found = [match for name in case.expected if (match := re.fullmatch(pattern, name))]
    if not found:
        pytest.skip(f"{case.name} holds no {pattern}")
    return found


def test_published_keys_of_heads(case: reader.Case) -> None:
    models = {
        name.removesuffix("_state_dict"): shapes for name, shapes in case.meta.items() if "_state" in name
    }
    models |= case.meta.get("shapes_only", {})
    for name in models.keys() - {"avmae"}:
        fusion = PUBLISHED_FUSION[case.config["fusion"]]
        state = empty_head(name, case).state_dict()
        published = to_published(state, fusion=fusion)
        got = {key: list(tensor.shape) for key, tensor in published.items()}
        assert got == {key: shape for key, shape in models[name].items() if not key.endswith("pos_embed")}
        again = from_published(published, fusion=fusion)
        assert {key: tensor.shape for key, tensor in again.items()} == {
            key: tensor.shape for key, tensor in state.items()
        }


@pytest.mark.parametrize("name", ["classifier", "linear_probe"])
@torch.no_grad()
def test_classification_logits(name: str, case: reader.Case, model: MaskedAutoencoder) -> None:
    matches = recorded(case, rf"{name}\.logits_(\w+)")
    logits = build_head(name, case, model)(case.image, case.audio())
    for match in matches:
        assert_close(getattr(logits, match[1]), case.array(match[0]), 5e-6)
    torch.testing.assert_close(logits.mean, torch.stack(logits[:3]).mean(dim=0))


@torch.no_grad()
def test_separation(case: reader.Case, model: MaskedAutoencoder) -> None:
    kinds = [match[1] for match in recorded(case, r"separation\.(\w+)\.logits")]
    mixture, source = case.audio(), case.audio("input.audio_target")
    logits = build_head("separation", case, model)(case.image, mixture)
    stored = logits[..., ::8, ::8] if case.config.get("subsample") else logits
    masks = {
        "binary": lambda source, mixture: (10**source > 10**mixture).float(),  # not an ideal one
        "ratio": published_ratio_mask,
    }
    for kind in kinds:
        target_name, _, weighted = kind.partition("_")
        target = masks[target_name](source, mixture)
        loss = separation_loss(logits, target, magnitude_weights(mixture) if weighted else None)
        assert_close(stored, case.array(f"separation.{kind}.logits"), 5e-6)
        assert_close(target[..., ::4, ::4], case.array(f"separation.{kind}.target"), 1e-6)
        assert_close(loss, case.array(f"separation.{kind}.loss").float(), 2e-5)


@torch.no_grad()
def test_segmentation_logits(case: reader.Case, model: MaskedAutoencoder) -> None:
    for match in recorded(case, r"(segmentation\.\d+)\.logits"):
        logits = build_head(match[1], case, model)(case.image, case.audio())
        assert logits.shape[2:] == case.image.shape[2:]
        assert_close(logits[..., ::8, ::8], case.array(match[0]), 5e-6)


def test_layer_ids(case: reader.Case) -> None:
    classifier, depth = empty_head("classifier", case), case.config["depth"]
    ids = {
        name: torch.tensor(layer_id(name, depth=depth)).expand(parameter.shape)
        for name, parameter in classifier.named_parameters()
    }
    published = to_published(ids, fusion=PUBLISHED_FUSION[case.config["fusion"]])
    assert all((values == values.flatten()[0]).all() for values in published.values())
    got = {name: int(values.flatten()[0]) for name, values in published.items()}
    assert got == case.meta["classifier_layer_ids"]
