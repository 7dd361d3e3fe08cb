"""What a recipe says of models and views, as the flat arguments that these take."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from avtool.config.schema import Model, Recipe, Spectrogram
from avtool.data.dataset import PreparedDataset
from avtool.data.views import EvaluationViews, TrainingViews
from avtool.features import LogMel, window_samples
from avtool.model.build import random_model
from avtool.model.config import Config


def encoder_settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe's encoder as the flat keyword arguments that config.json keeps."""
    model, fusion = recipe.model, recipe.model.fusion
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
    }


def spectrogram_settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe's spectrogram as ``LogMel``'s keyword arguments."""
    return {**recipe.spectrogram.model_dump(), "mels": recipe.model.audio_size[0]}


def recipe_like(recipe: Recipe, config: Config) -> Recipe:
    """``recipe`` with the encoder and the spectrogram of the checkpoint that it starts from."""
    given: Mapping[str, Any] = config.model
    fusion = {
        "kind": given["fusion"],
        "layers": given["fusion_layers"]
        if isinstance(given["fusion_layers"], str)
        else tuple(given["fusion_layers"]),
        "tokens": tuple(given["fusion_tokens"]),
        "attn_ratio": given["fusion_attn_ratio"],
        "mlp_ratio": given["fusion_mlp_ratio"],
    }
    sizes = {name: tuple(given[name]) for name in ("image_size", "audio_size")}
    plain = {name: given[name] for name in ("patch_size", "dim", "depth", "heads", "mlp_ratio")}
    model = Model.model_validate({**recipe.model.model_dump(), **sizes, **plain, "fusion": fusion})
    spectrogram = {name: config.spectrogram[name] for name in Spectrogram.model_fields}
    return recipe.model_copy(update={"model": model, "spectrogram": Spectrogram.model_validate(spectrogram)})


def new_model(kind: str, settings: Mapping[str, Any], recipe: Recipe) -> nn.Module:
    """A model of ``kind`` with random starting weights, drawn from the recipe's seed alone."""
    how = {
        "activation_checkpointing": recipe.train.activation_checkpointing,
        "drop_path": recipe.train.drop_path,
    }
    return random_model(kind, {**settings, **how}, seed=recipe.seed)


def new_log_mel(recipe: Recipe) -> LogMel:
    """The recipe's spectrogram."""
    return LogMel(**spectrogram_settings(recipe))


def view_size(recipe: Recipe) -> dict[str, Any]:
    """The frame's size and the length of sound of a view."""
    model = recipe.model
    return {
        "image_size": model.image_size,
        "window_samples": window_samples(model.audio_size[1], recipe.spectrogram.hop),
    }


def drawn_views(
    recipe: Recipe, dataset: PreparedDataset, *, gain_db: float | None = None, semantic: bool | None = None
) -> TrainingViews:
    """The recipe's training views; ``gain_db`` in place of its own, and with ``semantic`` of masks."""
    data = recipe.data
    return TrainingViews(
        dataset,
        **view_size(recipe),
        crop_scale=data.crop_scale,
        flip=data.flip,
        gain_db=data.gain_db if gain_db is None else gain_db,
        seed=recipe.seed,
        semantic=semantic,
    )


def fixed_views(recipe: Recipe, dataset: PreparedDataset) -> EvaluationViews:
    """Evaluation views of the recipe's sizes."""
    return EvaluationViews(dataset, **view_size(recipe))
