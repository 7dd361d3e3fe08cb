"""The model's shortcuts against naive computations, and properties that hold by construction."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from avtool.bench.measure import peak_bytes
from avtool.bench.pairs import BuiltPairs
from avtool.errors import NotFinite
from avtool.features import LogMel, mel_filters, triangles
from avtool.losses import normalize_patches, reconstruction_loss
from avtool.metrics.embeddings import nearest_neighbour_hits
from avtool.model.attention import attend, attend_pairs, attention_weights, split_heads
from avtool.model.bilinear import LARGEST_PRODUCT, BilinearAttention, pair_weights
from avtool.model.build import build_empty_model, build_model, compile_blocks, count_parameters
from avtool.model.encoder import AudioVisualEncoder
from avtool.model.fusion import DenseAttention, PairAttention
from avtool.model.mae import MaskedAutoencoder, mask_from_noise, sample_noise
from avtool.model.transformer import Block, DropPath, patchify, unpatchify
from avtool.optim import backbone_warmup, cosine_schedule, parameter_groups
from tests.models import decoded_everywhere

SMALL = {
    "image_size": (64, 48),
    "audio_size": (32, 96),
    "dim": 24,
    "depth": 3,
    "heads": 3,
    "fusion_tokens": (4, 2, 3),
    "fusion_attn_ratio": 0.5,
    "decoder_dim": 16,
    "decoder_depth": 2,
    "decoder_heads": 2,
}
FUSIONS = ("token", "dense", "factorized", "bilinear")


def small(**changes):
    torch.manual_seed(0)
    model = build_model("autoencoder", {**SMALL, **changes})
    model.reset_parameters()
    return model


def inputs(batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(batch, 3, 64, 48, generator=generator),
        torch.randn(batch, 1, 32, 96, generator=generator),
    )


def noise(model, batch: int = 2) -> dict[str, Tensor]:
    sizes = [rows * columns for rows, columns in (model.encoder.image_grid, model.encoder.audio_grid)]
    image, audio = sample_noise(torch.arange(batch), seed=0, epoch=0, count=sum(sizes)).split(sizes, dim=1)
    return {"image_noise": image, "audio_noise": audio}


@pytest.mark.parametrize(("ratio", "value_width"), [(1.0, 48), (0.25, 12), (0.5, 48)])
def test_pair_attention_equals_built_pairs(ratio: float, value_width: int) -> None:
    torch.manual_seed(0)
    module = PairAttention(48, heads=3, attn_ratio=ratio, value_width=value_width).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    tensors = [torch.randn(2, count, 48, dtype=torch.double, requires_grad=True) for count in (5, 7, 4)]
    leaves = [*tensors, *module.parameters()]
    results = []
    for compute in (module, BuiltPairs(module)):
        out = compute(*tensors)
        gradients = torch.autograd.grad(out.square().sum(), leaves)
        results.append((out, *gradients))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_attend_agrees_with_its_weights_with_and_without_gradients() -> None:
    query, key, value = (torch.randn(2, 3, count, 8) for count in (5, 7, 7))
    value = torch.randn(2, 3, 7, 4)
    want = attention_weights(query, key, scale=0.3) @ value
    torch.testing.assert_close(attend(query, key, value, scale=0.3), want)
    with torch.no_grad():
        torch.testing.assert_close(attend(query, key, value, scale=0.3), want)


def test_pair_softmax_is_a_product_of_two() -> None:
    query, image, audio = (torch.randn(1, 1, count, 8) for count in (2, 5, 3))
    values = torch.eye(15).view(1, 1, 15, 15)
    pairs = (image.unsqueeze(3) + audio.unsqueeze(2)).flatten(2, 3)
    want = attention_weights(query, pairs, scale=1.0)
    p, r = attention_weights(query, image, scale=1.0), attention_weights(query, audio, scale=1.0)
    torch.testing.assert_close((p.unsqueeze(-1) * r.unsqueeze(-2)).flatten(3) @ values, want)
    got = attend_pairs(query, image, audio, image, audio, scale=1.0)
    torch.testing.assert_close(got, want @ pairs)


def bilinear(**changes) -> BilinearAttention:
    torch.manual_seed(0)
    module = BilinearAttention(48, heads=3, attn_ratio=0.5, tokens=(5, 0, 0), **changes).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return module


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_bilinear_attention_equals_built_pairs(rank: int) -> None:
    module = bilinear(rank=rank)
    tensors = [torch.randn(2, count, 48, dtype=torch.double, requires_grad=True) for count in (5, 7, 4)]
    leaves = [*tensors, *module.parameters()]
    results = []
    for compute in (module, BuiltPairs(module)):
        out = compute(*tensors)
        results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_bilinear_without_its_products_is_dense() -> None:
    ours, dense = bilinear(), DenseAttention(48, heads=3, attn_ratio=0.5, tokens=(5, 0, 0)).double()
    for factor in (ours.a, ours.b):
        torch.nn.init.zeros_(factor.weight)
        torch.nn.init.zeros_(factor.bias)
    for name in ("q", "k", "v"):
        getattr(dense, name).load_state_dict(getattr(ours, name).state_dict())
    values = ours.proj.weight.unflatten(1, (3, 9))[..., :8]  # of each head, before its log Z
    dense.proj.load_state_dict({"weight": values.flatten(1), "bias": ours.proj.bias})
    x, image, audio = (torch.randn(2, count, 48, dtype=torch.double) for count in (5, 7, 4))
    torch.testing.assert_close(ours(x, image, audio), dense(x, image, audio), rtol=0, atol=1e-6)


def test_the_softmax_over_pairs_of_bilinear_does_not_split() -> None:
    torch.manual_seed(0)
    query, image, audio = (torch.randn(1, 1, count, 8) for count in (2, 5, 3))
    products = 3 * torch.randn(1, 1, 5, 3)
    logits = query @ image.mT, query @ audio.mT
    pairs = logits[0].unsqueeze(4) + logits[1].unsqueeze(3) + products.unsqueeze(2)
    want = pairs.flatten(3).softmax(dim=-1).unflatten(3, (5, 3))
    got = pair_weights(query, image, audio, products, scale=1.0)
    torch.testing.assert_close(got.image / got.total, want.sum(dim=4))
    torch.testing.assert_close(got.audio / got.total, want.sum(dim=3))
    split = logits[0].softmax(-1).unsqueeze(4) * logits[1].softmax(-1).unsqueeze(3)
    torch.testing.assert_close(got.total.squeeze(-1), (split * products.exp().unsqueeze(2)).sum(dim=(3, 4)))
    assert (want - want.sum(dim=4, keepdim=True) * want.sum(dim=3, keepdim=True)).abs().max() > 0.05


def test_products_of_pairs_are_bounded_however_large_the_tokens() -> None:
    module = bilinear().float()
    image, audio = 1e4 * torch.randn(2, 7, 48), 1e4 * torch.randn(2, 4, 48)
    a, b = module.factors(image, audio)
    assert 1 < (a @ b.mT).abs().max() <= LARGEST_PRODUCT * (1 + 1e-6)
    assert module(torch.randn(2, 5, 48), image, audio).isfinite().all()
    small, other = module.factors(1e-3 * image / 1e4, 1e-3 * audio / 1e4)
    maps = (split_heads(part, 3) for part in (module.a(1e-3 * image / 1e4), module.b(1e-3 * audio / 1e4)))
    want = torch.einsum("bhir,bhjr->bhij", *maps) / 4
    torch.testing.assert_close(small @ other.mT, want, rtol=0.1, atol=1e-2)


def test_block_with_context_equals_rows_of_the_whole_block() -> None:
    torch.manual_seed(0)
    block = Block(24, heads=3)
    context, x = torch.randn(2, 4, 24), torch.randn(2, 6, 24)
    torch.testing.assert_close(block(x, context), block(torch.cat([context, x], dim=1))[:, 4:])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_removed_predictions_are_those_of_all_patches(fusion: str) -> None:
    model = small(fusion=fusion)
    image, audio = inputs()
    masks = model.masks(*noise(model).values())
    tokens = model.encode_visible(image, audio, *masks)
    removed = model.image_decoder(tokens.image, tokens.fusion, masks[0])
    everything = decoded_everywhere(model.image_decoder, tokens.image, tokens.fusion, masks[0])
    rows = masks[0].removed.unsqueeze(-1).expand(-1, -1, everything.shape[-1])
    torch.testing.assert_close(removed, everything.gather(1, rows))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_encoder_never_sees_a_removed_patch(fusion: str) -> None:
    model = small(fusion=fusion)
    image, audio = (x.requires_grad_() for x in inputs())
    masks = model.masks(*noise(model).values())
    tokens = model.encode_visible(image, audio, *masks)
    # Not the plain sum: a LayerNorm makes that a constant.
    sum((part * torch.arange(part.shape[-1])).sum() for part in tokens).backward()
    for x, mask in zip((image, audio), masks, strict=True):
        seen = patchify(x.grad, 16).abs().sum(-1) > 0
        assert torch.equal(seen, mask.dense() == 0)


@pytest.mark.parametrize("layers", ["all", "none", [0, 1], [2]])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_streams_hear_each_other_only_through_fusion(fusion: str, layers) -> None:
    model = small(fusion=fusion, fusion_layers=layers).eval()
    image, audio = inputs()
    with torch.no_grad():
        one, other = model.encoder(image, audio), model.encoder(image, audio + 1)
    # What the fusion tokens gather in one fused layer reaches the image tokens in the next fused layer.
    assert torch.equal(one.image, other.image) == (layers in ("none", [2]))


def test_fusion_layers_outside_the_depth_are_refused() -> None:
    with pytest.raises(ValueError, match=r"do not lie within 0 .. 2"):
        small(fusion_layers=[0, 3])


def test_other_input_sizes_get_positions_of_their_own() -> None:
    encoder = small().encoder.eval()
    image, audio = inputs()
    tokens = encoder(image.repeat(1, 1, 2, 2), audio.repeat(1, 1, 1, 3))
    assert tokens.image.shape == (2, 48, 24)
    assert tokens.audio.shape == (2, 36, 24)
    with pytest.raises(ValueError, match="40x48"):
        encoder(image[:, :, :40], audio)


def loss_and_gradients(model: MaskedAutoencoder) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Of the masked model, and of its encoder on all patches."""
    parts = model(*inputs(), **noise(model))
    loss = sum(reconstruction_loss(part.prediction, part.target) for part in parts)
    loss = loss + sum(tokens.square().mean() for tokens in model.encoder(*inputs()))
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_activation_checkpointing_changes_memory_and_nothing_else(fusion: str) -> None:
    plain, switched = (
        small(fusion=fusion, depth=6, decoder_depth=6, activation_checkpointing=switch)
        for switch in (False, True)
    )
    assert (
        switched.image_decoder.activation_checkpointing and not plain.image_decoder.activation_checkpointing
    )
    torch.testing.assert_close(loss_and_gradients(plain), loss_and_gradients(switched))
    for part in ("encoder", "image_decoder"):
        kept = [
            peak_bytes(lambda model=model, part=part: activations(model, part), torch.device("cpu"))
            for model in (plain, switched)
        ]
        assert kept[1] < 0.7 * kept[0]


def activations(model: MaskedAutoencoder, part: str) -> None:
    """A pass through one part, whose activations live until it ends."""
    if part == "encoder":
        sum(tokens.mean() for tokens in model.encoder(*inputs()))
        return
    image_mask, _ = model.masks(*noise(model).values())
    visible, fusion = torch.randn(2, image_mask.keep.shape[1], 24), torch.randn(2, 9, 24)
    model.image_decoder(visible, fusion, image_mask)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.proof)])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_compiling_changes_nothing(fusion: str, backend: str) -> None:
    torch.compiler.reset()
    plain, compiled = small(fusion=fusion), small(fusion=fusion)
    compile_blocks(compiled, backend=backend)
    assert list(plain.state_dict()) == list(compiled.state_dict())
    torch.testing.assert_close(loss_and_gradients(plain), loss_and_gradients(compiled), rtol=1e-4, atol=1e-6)
    assert sum(module._compiled_call_impl is not None for module in compiled.modules()) == 13


@pytest.mark.parametrize("fusion", FUSIONS)
def test_bf16_gives_the_loss_of_float32(fusion: str) -> None:
    model = small(fusion=fusion)
    losses = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            parts = model(*inputs(), **noise(model))
        losses.append(sum(reconstruction_loss(part.prediction, part.target) for part in parts).detach())
    assert losses[1].dtype == torch.float32 and losses[0] != losses[1]
    torch.testing.assert_close(losses[1], losses[0], rtol=0.01, atol=0)


def test_patches_go_there_and_back() -> None:
    image = torch.randn(2, 3, 32, 48)
    patches = patchify(image, 16)
    assert patches.shape == (2, 6, 768)
    torch.testing.assert_close(patches[0, 4, :3], image[0, :, 16, 16])  # the channel is fastest
    torch.testing.assert_close(unpatchify(patches, 16, (2, 3)), image)


@pytest.mark.parametrize(
    ("attn_ratio", "mlp_ratio", "count"), [(0.25, 1.0, 320_563_712), (1.0, 4.0, 378_997_760)]
)
def test_full_size_has_the_published_number_of_values(
    attn_ratio: float, mlp_ratio: float, count: int
) -> None:
    model = build_empty_model("autoencoder", {"fusion_attn_ratio": attn_ratio, "fusion_mlp_ratio": mlp_ratio})
    positions = sum(rows * columns * 768 for rows, columns in ((14, 14), (8, 12)))
    assert count_parameters(model) + positions == count


def test_every_parameter_is_in_one_group() -> None:
    model = small()
    groups = parameter_groups(model, weight_decay=0.05, pretrained=["encoder.image"])
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(parameter) for parameter in model.parameters())
    by_id = {id(parameter): group for group in groups for parameter in group["params"]}
    group = {name: by_id[id(parameter)] for name, parameter in model.named_parameters()}
    assert group["encoder.image.blocks.0.mlp.fc1.weight"]["pretrained"]
    assert not group["encoder.audio.blocks.0.mlp.fc1.weight"]["pretrained"]
    for name in (
        "encoder.fusion_tokens",
        "image_decoder.mask_token",
        "audio_decoder.pos_embed",
        "encoder.image.norm.weight",
    ):
        assert group[name]["weight_decay"] == 0
    assert group["image_decoder.pred.weight"]["weight_decay"] == 0.05


def test_schedule_warms_up_and_falls_to_zero() -> None:
    rates = [cosine_schedule(step, max_steps=100, warmup_steps=20) for step in range(101)]
    assert rates[0] == 1 / 20
    assert rates[19] == rates[20] == 1.0
    assert rates[60] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0)
    ramp = [backbone_warmup(step, ramp_steps=50) for step in (0, 25, 50, 99)]
    assert ramp == pytest.approx([0, 0.5, 1, 1])


def test_sample_noise_depends_on_seed_epoch_and_index_alone() -> None:
    whole = sample_noise(torch.arange(4000), seed=3, epoch=5, count=16)
    assert torch.equal(sample_noise(torch.tensor([7, 3]), seed=3, epoch=5, count=16), whole[[7, 3]])
    for other in ({"seed": 4, "epoch": 5}, {"seed": 3, "epoch": 6}, {"seed": 5, "epoch": 3}):
        again = sample_noise(torch.arange(4000), count=16, **other)
        assert (again == whole).float().mean() < 1e-3
    assert whole.min() >= 0 and whole.max() < 1
    assert whole.mean() == pytest.approx(0.5, abs=0.005)
    assert torch.corrcoef(whole.T).fill_diagonal_(0).abs().max() < 0.08
    kept = mask_from_noise(whole, 0.75).keep
    assert kept.shape == (4000, 4)
    share = kept.flatten().bincount(minlength=16) / 4000
    assert (share - 0.25).abs().max() < 0.03


def test_reconstruction_loss_on_a_case_by_hand() -> None:
    target = torch.tensor([[[1.0, 3.0]]])  # mean 2, unbiased variance 2
    want = 1 / (2 + 1e-6) ** 0.5
    torch.testing.assert_close(normalize_patches(target), torch.tensor([[[-want, want]]]))
    assert reconstruction_loss(torch.zeros(1, 1, 2), target).item() == pytest.approx(want**2)
    assert reconstruction_loss(target, target, normalize=False) == 0


def test_what_is_no_number_has_no_neighbour() -> None:
    queries, broken = torch.ones(2, 3), torch.full((2, 3), torch.nan)
    for query, reference in ((broken, queries), (queries, broken)):
        with pytest.raises(NotFinite, match="not finite"):
            nearest_neighbour_hits(query, torch.zeros(2), reference, torch.zeros(2))


def test_nearest_neighbours_by_hand() -> None:
    points = torch.tensor([[1.0, 0.0], [10.0, 1.0], [0.0, 1.0], [0.1, 2.0]])
    queries, labels = torch.tensor([[9.0, 1.0], [0.2, 7.0], [1.0, 1.1]]), torch.tensor([0, 0, 1, 1])
    hits = nearest_neighbour_hits(queries, torch.tensor([0, 1, 0]), points, labels)
    assert hits.tolist() == [True, True, False]  # the last is nearest to label 1
    assert nearest_neighbour_hits(points[:1] * 5, labels[2:3], points, labels).tolist() == [False]


def test_log_mel_of_a_tone_and_of_silence() -> None:
    log_mel = LogMel(mels=64)
    time = torch.arange(48000) / 16000
    out = log_mel(torch.stack([torch.sin(2 * torch.pi * 1000 * time), torch.zeros(48000)]))
    assert out.shape == (2, 1, 64, 192)
    assert torch.allclose(out[1], torch.tensor(-7.0))
    loudest = out[0, 0].mean(1).argmax().item()
    centres = log_mel.filters.argmax(0) * 16000 / 800
    assert abs(centres[loudest] - 1000) < 80


def test_log_mel_equals_torchaudio() -> None:
    torchaudio = pytest.importorskip("torchaudio")
    sound = torch.randn(20, 12000) * 0.1
    reference = torchaudio.transforms.MelSpectrogram(16000, n_fft=800, hop_length=250, n_mels=32)
    want = (reference(sound)[..., :-1] + 1e-7).log10()
    torch.testing.assert_close(LogMel(mels=32)(sound)[:, 0], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("n_fft", "mels", "rate"), [(800, 128, 16000), (800, 64, 16000), (1024, 128, 44100), (400, 64, 11025)]
)
@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
def test_mel_filters_without_torchaudio_are_torchaudios(
    n_fft: int, mels: int, rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchaudio.functional import melscale_fbanks

    want = melscale_fbanks(n_fft // 2 + 1, 0.0, rate / 2, mels, rate)
    torch.testing.assert_close(triangles(n_fft // 2 + 1, mels, rate), want, rtol=0, atol=1e-7)
    monkeypatch.setitem(sys.modules, "torchaudio.functional", None)  # its import fails
    assert torch.equal(mel_filters(n_fft // 2 + 1, mels, rate), triangles(n_fft // 2 + 1, mels, rate))


def test_encoder_refuses_an_unknown_fusion() -> None:
    with pytest.raises(ValueError, match="token, dense, factorized, bilinear"):
        AudioVisualEncoder(fusion="late")


def test_drop_path_drops_whole_samples_in_training_alone() -> None:
    x, drop = torch.ones(4000, 3, 2), DropPath(0.25)
    torch.manual_seed(0)
    dropped = drop.train()(x)
    assert set(dropped.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert (dropped.flatten(1).amax(1) == dropped.flatten(1).amin(1)).all()
    assert dropped.mean().item() == pytest.approx(1, abs=0.03)
    assert drop.eval()(x) is x
    with pytest.raises(ValueError, match="rate of 1 does not lie"):
        DropPath(1.0)
