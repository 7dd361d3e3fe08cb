"""The downstream heads on sizes of their own, and their losses on cases with known answers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from avtool.losses import (
    binary_masks,
    magnitude_weights,
    overlap_loss,
    published_ratio_mask,
    ratio_masks,
    separation_loss,
)
from avtool.model.encoder import AudioVisualEncoder
from avtool.model.heads import AudioVisualClassifier, LinearProbe, start_at_log_odds
from avtool.model.published import from_published, to_published
from avtool.model.unet import DoubleConv, SegmentationModel, SeparationModel, convolved_double, depth_ids
from avtool.optim import layer_id

UNREAD = ("encoder.image.norm.", "encoder.audio.norm.", "encoder.fusion_norm.")
"""What the decoders of raw block outputs do not read."""


def encoder(**changes) -> AudioVisualEncoder:
    settings = {
        "image_size": (64, 48),
        "audio_size": (32, 96),
        "dim": 24,
        "depth": 3,
        "heads": 3,
        "fusion_layers": [0],
        "fusion_tokens": (3, 1, 2),
    }
    torch.manual_seed(0)
    model = AudioVisualEncoder(**{**settings, **changes})
    model.reset_parameters()
    return model


def inputs(image: tuple[int, int] = (64, 48), audio: tuple[int, int] = (32, 96)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(2, 3, *image, generator=generator),
        torch.randn(2, 1, *audio, generator=generator) - 2,
    )


def without_gradient(model: nn.Module, output: Tensor) -> set[str]:
    (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    assert all(value.grad is None or value.grad.isfinite().all() for value in model.parameters())
    return {
        name
        for name, value in model.named_parameters()
        if value.grad is None or not value.grad.count_nonzero()
    }


@pytest.mark.parametrize("fusion", ["token", "dense", "factorized", "bilinear"])
def test_classifier_of_71_classes_reaches_every_parameter(fusion: str) -> None:
    model = AudioVisualClassifier(encoder(fusion=fusion), classes=71)
    logits = model(*inputs())
    assert {part.shape for part in logits} == {(2, 71)}
    torch.testing.assert_close(logits.mean, torch.stack(logits[:3]).mean(dim=0))
    missed = without_gradient(model, logits.mean)
    # Keys shift a query's logits alike, so that their bias changes nothing; its gradient may be zero.
    assert {name for name in missed if not name.endswith(("k.bias", "norm1.bias"))} == set()


def test_classifier_pools_normed_tokens_of_each_stream() -> None:
    model = AudioVisualClassifier(encoder(), classes=5).eval()
    image, audio = inputs()
    logits, tokens = model(image, audio), model.encoder(image, audio)
    for name in ("image", "audio", "fusion"):
        head = getattr(model, f"{name}_head")
        torch.testing.assert_close(getattr(logits, name), head(getattr(tokens, name).mean(dim=1)))


def test_linear_probe_trains_heads_alone_behind_a_batch_norm() -> None:
    model = LinearProbe(encoder(drop_path=0.5), classes=5).train()
    assert not any(part.training for part in model.encoder.modules()) and model.image_norm.training
    heads = {f"{name}_head.{part}" for name in ("image", "audio", "fusion") for part in ("weight", "bias")}
    assert {name for name, value in model.named_parameters() if value.requires_grad} == heads
    logits = model(*inputs())
    assert without_gradient(model, logits.mean) == {
        name for name, _ in model.named_parameters() if name.startswith("encoder.")
    }
    pooled = model.encoder(*inputs()).image.mean(dim=1)
    variance, mean = torch.var_mean(pooled, dim=0, correction=0)
    torch.testing.assert_close(logits.image, model.image_head((pooled - mean) / (variance + 1e-6).sqrt()))
    model.eval()
    assert model.image_norm.running_mean.count_nonzero()
    assert not torch.equal(model(*inputs()).image, logits.image)


def test_heads_begin_at_the_log_odds() -> None:
    model = AudioVisualClassifier(encoder(), classes=3)
    model.reset_head()
    start_at_log_odds(model, torch.tensor([0.5, 0.2, 0.01]))
    for head in (model.image_head, model.audio_head, model.fusion_head):
        torch.testing.assert_close(head.bias.detach(), torch.tensor([0.0, -math.log(4), -math.log(99)]))
    with pytest.raises(ValueError, match="3 classes need as many shares"):
        start_at_log_odds(model, torch.tensor([0.5]))
    with pytest.raises(ValueError, match="share of class 1 is 0"):
        start_at_log_odds(model, torch.tensor([0.5, 0.0, 0.5]))


@pytest.mark.parametrize(("depth", "width"), [(1, None), (3, 2), (6, None)])
def test_separation_has_the_spectrogram_size_and_reaches_its_decoder(depth: int, width: int | None) -> None:
    model = SeparationModel(encoder(depth=depth), decoder_width=width)
    widths = [conv.conv.conv2.out_channels for conv in model.separation_decoder.ups]
    wide = 16 * width if width else model.encoder.dim
    assert widths == [wide // 2, wide // 4, wide // 8, wide // 16]
    logits = model(*inputs())
    assert logits.shape == (2, 1, 32, 96)
    missed = without_gradient(model, logits)
    assert not [name for name in missed if name.startswith("separation_decoder.")]
    assert all(name in missed for name, _ in model.named_parameters() if name.startswith(UNREAD))
    assert not [name for name in missed if name.endswith("qkv.weight")]


def test_segmentation_of_71_classes_has_the_frame_size_and_reaches_its_decoder() -> None:
    model = SegmentationModel(encoder(dim=132, depth=5, fusion="dense"), classes=71)
    logits = model(*inputs())
    assert logits.shape == (2, 71, 64, 48)
    missed = without_gradient(model, logits)
    assert not [name for name in missed if name.startswith("segmentation_decoder.")]
    assert all(name in missed for name, _ in model.named_parameters() if name.startswith(UNREAD))
    assert not [name for name in missed if name.endswith("qkv.weight")]


@torch.no_grad()
def test_decoders_take_other_sizes_than_the_model_was_made_for() -> None:
    separation = SeparationModel(encoder()).eval()
    assert separation(*inputs(image=(32, 80), audio=(64, 16))).shape == (2, 1, 64, 16)
    segmentation = SegmentationModel(encoder(dim=128, heads=4), classes=1).eval()
    assert segmentation(*inputs(image=(32, 80), audio=(64, 16))).shape == (2, 1, 32, 80)


@torch.no_grad()
def test_decoders_are_conditioned_on_the_other_modality() -> None:
    """Without fusion blocks the condition is the only way from one modality to the other one's output."""
    image, audio = inputs()
    separation = SeparationModel(encoder(fusion_layers="none")).eval()
    assert not torch.allclose(separation(image, audio), separation(image.flip(0), audio), atol=1e-5)
    segmentation = SegmentationModel(encoder(dim=128, heads=4, fusion_layers="none"), classes=1).eval()
    assert not torch.allclose(segmentation(image, audio), segmentation(image, audio.flip(0)), atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 5), (3, 3), (4, 12)])
def test_what_is_the_same_everywhere_joins_a_convolution_as_a_map_would(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    conv = DoubleConv(7, 5).double().train()
    x, vector = torch.randn(3, 4, *size).double(), torch.randn(3, 3).double().requires_grad_()
    spread = vector[:, :, None, None].expand(-1, -1, *size)
    found, wanted = conv(x, everywhere=vector), conv(x, spread)
    assert torch.allclose(found, wanted, atol=1e-12)
    weights = torch.randn_like(found)
    leaves = [vector, *conv.parameters()]
    ours, theirs = (torch.autograd.grad((out * weights).sum(), leaves) for out in (found, wanted))
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, atol=1e-10)


@pytest.mark.parametrize("classes", [1, 3, 4], ids=["taps", "all taps", "enlarged first"])
def test_a_convolution_of_an_enlarged_map_is_that_whatever_comes_first(classes: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(28, classes, 3, padding=1).double()
    x = torch.randn(2, 28, 5, 3).double()
    enlarged = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    assert torch.allclose(convolved_double(x, conv), conv(enlarged), atol=1e-12)


@torch.no_grad()
def test_separation_masks_lie_where_their_tokens_are() -> None:
    """A change in one time patch, without attention between tokens, changes no far-off column of the mask."""
    model = SeparationModel(encoder(fusion_layers="none", dim=48)).eval()
    image, audio = inputs(audio=(32, 256))
    for block in model.encoder.audio.blocks:
        block.attn.proj.weight.zero_()
    changed = audio.clone()
    changed[..., 240:] += 1
    difference = (model(image, audio) - model(image, changed)).abs().amax(dim=(0, 1, 2))
    assert difference[:128].max() == 0 and difference[240:].min() > 0


def test_epsilons_of_norms() -> None:
    """Too small a difference for logits of usual tokens to show."""
    small = encoder(dim=128, heads=4, depth=1)
    probe = LinearProbe(small, classes=2)
    assert {norm.eps for norm in (probe.image_norm, probe.audio_norm, probe.fusion_norm)} == {1e-6}
    for decoder in (
        SeparationModel(small).separation_decoder,
        SegmentationModel(small, classes=2).segmentation_decoder,
    ):
        norms = [part for part in decoder.modules() if isinstance(part, nn.LayerNorm | nn.BatchNorm2d)]
        assert len(norms) > 8 and {norm.eps for norm in norms} == {1e-5}


def test_depths_are_spread_over_the_encoder() -> None:
    assert depth_ids(12, 5) == [0, 2, 5, 8, 11]
    assert depth_ids(12, 4) == [0, 3, 7, 11]
    assert depth_ids(3, 5) == [0, 0, 1, 1, 2]
    assert depth_ids(1, 4) == [0, 0, 0, 0]


def test_sizes_that_a_head_cannot_have_are_refused() -> None:
    with pytest.raises(ValueError, match="128 wide, its encoder 96"):
        SegmentationModel(encoder(dim=96), classes=1)
    assert (
        SegmentationModel(
            encoder(dim=96), classes=1, decoder_width=64
        ).segmentation_decoder.predict.in_channels
        == 64
    )
    with pytest.raises(ValueError, match=r"needs 16 or more, not 12: set separate\.decoder_width=1"):
        SeparationModel(encoder(dim=12))
    assert SeparationModel(encoder(dim=12), decoder_width=2)(*inputs()).shape == (2, 1, 32, 96)
    for kind in (SeparationModel, lambda small: SegmentationModel(small, classes=1)):
        with pytest.raises(ValueError, match="needs patches of 16x16, not 8x8"):
            kind(encoder(patch_size=8))
    for kind in (AudioVisualClassifier, LinearProbe):
        with pytest.raises(ValueError, match="this encoder has none"):
            kind(encoder(fusion_layers="none", fusion_tokens=(0, 0, 0)), classes=2)


@pytest.mark.parametrize("fusion", ["token", "dense", "factorized", "bilinear"])
def test_published_names_of_the_decoders_and_back(fusion: str) -> None:
    small = encoder(dim=128, heads=4, depth=1, fusion=fusion)
    for model in (SeparationModel(small), SegmentationModel(small, classes=2), LinearProbe(small, classes=2)):
        ours = model.state_dict()
        published = to_published(ours, fusion=fusion)
        assert not [key for key in published if "_decoder." in key.removeprefix("avss_decoder.")]
        again = from_published(published, fusion=fusion)
        assert again.keys() == ours.keys()
        assert all(torch.equal(again[key], ours[key]) for key in ours)


def test_reset_head_gives_a_model_without_weights_finite_ones() -> None:
    for build in (
        lambda small: AudioVisualClassifier(small, classes=3),
        lambda small: LinearProbe(small, classes=3),
        SeparationModel,
        lambda small: SegmentationModel(small, classes=3),
    ):
        with torch.device("meta"):
            model = build(AudioVisualEncoder(dim=128, depth=1, heads=2, fusion_tokens=(2, 1, 1)))
        model.to_empty(device="cpu")
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data.fill_(float("nan") if tensor.is_floating_point() else -1)
        model.reset_head()
        head = {key: value for key, value in model.state_dict().items() if not key.startswith("encoder.")}
        assert all(value.isfinite().all() for value in head.values())
        assert all(not value.any() for key, value in head.items() if key.endswith("num_batches_tracked"))


def test_layer_ids() -> None:
    expected = {
        "encoder.image.patch_embed.proj.weight": 0,
        "encoder.audio.patch_embed.proj.bias": 0,
        "encoder.fusion_tokens": 0,
        "encoder.image.blocks.0.norm1.weight": 1,
        "encoder.audio.blocks.11.mlp.fc2.bias": 12,
        "encoder.fusion_blocks.10.attn.pairs.k.weight": 11,
        "encoder.image.norm.weight": 13,
        "encoder.fusion_norm.bias": 13,
        "image_head.weight": 13,
        "separation_decoder.laterals.1.up.weight": 13,
        "segmentation_decoder.audio_norms.0.bias": 13,
        "image_decoder.blocks.3.norm1.weight": 13,
    }
    assert {name: layer_id(name, depth=12) for name in expected} == expected


def test_separation_targets() -> None:
    powers = torch.tensor([[4.0, 1.0, 2.0], [1.0, 3.0, 2.0]])  # two sources, three bins
    sources = powers.log10().reshape(1, 2, 1, 3)
    mixture = powers.sum(dim=0).log10().reshape(1, 1, 3)
    flat = {"ratio": ratio_masks(sources)[0, :, 0], "binary": binary_masks(sources)[0, :, 0]}
    torch.testing.assert_close(flat["ratio"], torch.tensor([[0.8, 0.25, 0.5], [0.2, 0.75, 0.5]]))
    assert flat["binary"].tolist() == [[1, 0, 0], [0, 1, 0]]
    torch.testing.assert_close(
        published_ratio_mask(sources[:, 0], mixture).flatten(), torch.tensor([4 / 9, 1 / 5, 2 / 6])
    )
    three = torch.tensor([3.0, 2.0, 2.0]).log10().reshape(1, 3, 1, 1)
    assert binary_masks(three).flatten().tolist() == [
        1,
        0,
        0,
    ]  # louder than each other one, not than both together
    silent = torch.tensor(1e-7).log10()
    assert published_ratio_mask(silent, silent).item() == pytest.approx(1e-7 / (2e-7 + 1e-5), rel=1e-4)


def test_separation_loss_is_not_divided_by_its_weights() -> None:
    mixture = torch.tensor([-7.0, 0.0, 1.0, 9.0])
    weights = magnitude_weights(mixture)
    torch.testing.assert_close(weights, torch.tensor([1e-3, math.log(2), math.log(11), 10.0]))
    logits, target = torch.tensor([0.0, 2.0, -1.0, 0.5]), torch.tensor([1.0, 0.25, 0.0, 1.0])
    each = [
        -t * math.log(p) - (1 - t) * math.log(1 - p)
        for p, t in zip(logits.sigmoid().tolist(), target.tolist(), strict=True)
    ]
    plain = sum(each) / 4
    weighted = sum(w * value for w, value in zip(weights.tolist(), each, strict=True)) / 4
    assert separation_loss(logits, target).item() == pytest.approx(plain, rel=1e-5)
    assert separation_loss(logits, target, weights).item() == pytest.approx(weighted, rel=1e-5)
    assert separation_loss(logits.bfloat16(), target).dtype == torch.float32


def test_overlap_loss_is_one_less_soft_intersection_over_union() -> None:
    sure = 40.0
    truth = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 0, 0]]], dtype=torch.uint8)
    exact = (truth[:, None].float() * 2 - 1) * sure
    assert overlap_loss(exact, truth).item() == pytest.approx(0)
    assert overlap_loss(-exact, truth).item() == pytest.approx(
        0.5
    )  # nothing shared; a frame without an object is 0
    halves = torch.zeros(1, 1, 1, 4)
    assert overlap_loss(halves, truth[:1]).item() == pytest.approx(
        1 - 1 / 3
    )  # 2 * 0.5 over 4 * 0.5 + 2 - 2 * 0.5
    unknown = torch.tensor([[[1, 1, 0, 255]]], dtype=torch.uint8)
    assert overlap_loss(halves, unknown).item() == pytest.approx(1 - 1 / 2.5)


def test_overlap_loss_of_classes_is_a_mean_over_those_in_the_truth() -> None:
    truth = torch.tensor([[[0, 0, 2, 255]]], dtype=torch.uint8)
    of_place = torch.tensor([0, 1, 2, 1])  # the background once right, once taken for class 1; class 2 right
    logits = 40.0 * nn.functional.one_hot(of_place, 3).t()[None, :, None].float()
    assert overlap_loss(logits, truth).item() == pytest.approx((1 / 2 + 0) / 2)
    assert overlap_loss(logits, torch.full_like(truth, 255)).item() == 0
