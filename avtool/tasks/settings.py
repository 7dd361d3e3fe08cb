"""What a recipe says of views, as the flat arguments that these take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from avtool.data.dataset import PreparedDataset
from avtool.data.views import EvaluationViews, TrainingViews
from avtool.progress import say

if TYPE_CHECKING:
    from avtool.config.checkpoint import Config
    from avtool.config.schema import Recipe


def view_size(described: Recipe | Config) -> dict[str, Any]:
    """The frame's size and the length of sound of a view, which a recipe or a checkpoint's config.json says."""
    model, spectrogram = described.model, described.spectrogram
    return {"image_size": model.image_size, "window_samples": spectrogram.window(model.audio_size[1])}


def say_filled_up(described: Recipe | Config, dataset: PreparedDataset) -> None:
    """Say how many clips have less sound than the window, which is filled up by reflection."""
    window = view_size(described)["window_samples"]
    if short := dataset.shorter_than(window):
        seconds = window / described.spectrogram.sample_rate
        say(
            f"{short} of {len(dataset)} clips of {dataset.folder} have less sound than the window of {seconds:.2f} s: "
            "it is filled up by reflection"
        )


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
