"""Pretraining by masked reconstruction: the model, its loss, and what tells whether it learns."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from avtool.config.schema import Recipe
from avtool.features import LogMel, normalize_frames, to_float_waveform
from avtool.losses import masked_autoencoding_loss, reconstruction_loss
from avtool.metrics.neighbours import nearest_neighbour_accuracy
from avtool.model.build import build_autoencoder
from avtool.model.encoder import Tokens
from avtool.model.mae import MaskedAutoencoder, Reconstruction
from avtool.model.noise import sample_noise


def model_settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe's model as the flat keyword arguments that config.json keeps."""
    model, fusion, decoder = recipe.model, recipe.model.fusion, recipe.model.decoder
    return {
        "image_size": list(model.image_size),
        "audio_size": list(model.audio_size),
        "patch_size": model.patch_size,
        "dim": model.dim,
        "depth": model.depth,
        "heads": model.heads,
        "mlp_ratio": model.mlp_ratio,
        "fusion": fusion.kind,
        "fusion_layers": fusion.layers if isinstance(fusion.layers, str) else list(fusion.layers),
        "fusion_tokens": list(fusion.tokens),
        "fusion_attn_ratio": fusion.attn_ratio,
        "fusion_mlp_ratio": fusion.mlp_ratio,
        "decoder_dim": decoder.dim,
        "decoder_depth": decoder.depth,
        "decoder_heads": decoder.heads,
        "image_mask_ratio": model.mask_ratio.image,
        "audio_mask_ratio": model.mask_ratio.audio,
    }


def spectrogram_settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe's spectrogram as ``LogMel``'s keyword arguments."""
    return {**recipe.spectrogram.model_dump(), "mels": recipe.model.audio_size[0]}


class Pretraining(nn.Module):
    """A masked autoencoder and the features before it. ``forward`` gives the loss of a batch and its parts.

    A batch holds image uint8 (B, 3, H, W), waveform int16 (B, N), gain_db float32 (B,), index and epoch int64 (B,).
    """

    def __init__(self, *, model: MaskedAutoencoder, log_mel: LogMel, seed: int) -> None:
        super().__init__()
        self.model, self.log_mel, self.seed = model, log_mel, seed

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Pretraining:
        """Random starting weights, drawn from the recipe's seed alone."""
        how = {"activation_checkpointing": recipe.train.activation_checkpointing}
        model = build_autoencoder({**model_settings(recipe), **how})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            model.reset_parameters()
        return cls(model=model, log_mel=LogMel(**spectrogram_settings(recipe)), seed=recipe.seed)

    def inputs(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The batch as the model takes it: frames (B, 3, H, W) and log-mels (B, 1, mels, frames), float32."""
        waveform = to_float_waveform(batch["waveform"], batch.get("gain_db"))
        return normalize_frames(batch["image"]), self.log_mel(waveform)

    def reconstruct(self, batch: dict[str, Tensor]) -> tuple[Reconstruction, Reconstruction]:
        """Image and audio reconstructions under masks that are a function of (seed, epoch, index)."""
        image, audio = self.inputs(batch)
        sizes = [math.prod(grid) for grid in (self.model.encoder.image_grid, self.model.encoder.audio_grid)]
        noise = sample_noise(batch["index"], seed=self.seed, epoch=batch["epoch"], count=sum(sizes))
        image_noise, audio_noise = noise.split(sizes, dim=1)
        return self.model(image, audio, image_noise=image_noise, audio_noise=audio_noise)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss`` and its parts ``image`` and ``audio``, scalars."""
        parts = self.reconstruct(batch)
        return masked_autoencoding_loss(
            *(reconstruction_loss(part.prediction, part.target) for part in parts)
        )


def mean_tokens(tokens: Tokens) -> dict[str, Tensor]:
    """Each stream's mean token (B, D), and ``all``: the three side by side (B, 3 D), each of length 1."""
    means = {name: getattr(tokens, name).float().mean(dim=1) for name in Tokens._fields}
    means["all"] = torch.cat([nn.functional.normalize(mean, dim=1) for mean in means.values()], dim=1)
    return means


@torch.no_grad()
def mean_features(
    task: Pretraining, batches: Iterable[dict[str, Tensor]]
) -> tuple[dict[str, Tensor], Tensor]:
    """Mean tokens of whole clips, (N, D) for each stream, and their labels (N,), on the CPU."""
    features: dict[str, list[Tensor]] = defaultdict(list)
    labels = []
    for batch in batches:
        for name, mean in mean_tokens(task.model.encoder(*task.inputs(batch))).items():
            features[name].append(mean.cpu())
        labels.append(batch["label"].cpu())
    return {name: torch.cat(parts) for name, parts in features.items()}, torch.cat(labels)


@torch.no_grad()
def evaluate_pretraining(
    task: Pretraining,
    held_out: Callable[[], Iterable[dict[str, Tensor]]],
    reference: Iterable[dict[str, Tensor]],
) -> dict[str, float]:
    """Measures over the clips of ``held_out``; batches also hold label int64 (B,), -1 for none.

    ``loss_image``, ``loss_audio`` and their sum ``loss``: masked reconstruction, masks drawn from (seed, epoch 0,
    index). ``floor``: what predicting each removed patch's mean would get on the same patches; ``share_of_floor``:
    ``loss`` over it. ``knn_STREAM``: share of held-out clips whose nearest clip of ``reference``, by cosine of the mean
    token, has the same label (k = 1); ``knn_floor``: share of the commonest label. ``clips``: how many there were.
    """
    training = task.training
    task.eval()
    sums: dict[str, float] = defaultdict(float)
    for batch in held_out():
        count = len(batch["index"])
        for name, part in zip(
            ("image", "audio"),
            task.reconstruct({**batch, "epoch": torch.zeros_like(batch["index"])}),
            strict=True,
        ):
            sums[f"loss_{name}"] += count * reconstruction_loss(part.prediction, part.target).item()
            mean = torch.zeros_like(part.prediction)
            sums["floor"] += count * reconstruction_loss(mean, part.target).item()
        sums["clips"] += count
    clips = sums.pop("clips")
    result = {name: value / clips for name, value in sums.items()}
    result["loss"] = result["loss_image"] + result["loss_audio"]
    result["share_of_floor"] = result["loss"] / result["floor"]
    queries, labels = mean_features(task, held_out())
    references, reference_labels = mean_features(task, reference)
    task.train(training)
    known, usable = labels >= 0, reference_labels >= 0
    if known.any() and usable.any():
        for name, query in queries.items():
            result[f"knn_{name}"] = nearest_neighbour_accuracy(
                query[known], labels[known], references[name][usable], reference_labels[usable]
            )
        result["knn_floor"] = labels[known].bincount().max().item() / known.sum().item()
    return {**result, "clips": clips}
