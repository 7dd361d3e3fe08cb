"""Protocol ``negative-audio`` of localization: the samples and the maps."""

import numpy as np
from torch import Tensor

from avtool.data.dataset import PreparedDataset
from avtool.data.views import EvaluationViews
from avtool.tasks.context import Context
from avtool.tasks.localize.maps import choose_map, localization_map
from avtool.tasks.negatives import Samples, negative_table, validation_clips
from avtool.tasks.table import UNTRAINED, Table


def negative_audio(
    context: Context, truth: np.ndarray, clips: np.ndarray, left_out: dict[str, int]
) -> list[Table]:
    """The table of the context's ``maps`` of ``clips`` (N,), whose ``truth`` is (N, H, W)."""
    other, held_out, which = validation_clips(context)
    boxed = [i for i in held_out if len(other.record(int(i)).boxes)]
    model, log_mel = context.load()
    ways = {"": model, f", {UNTRAINED}": context.untrained()}
    kinds = [choose_map(model, kind) for kind in context.maps] or [choose_map(model, None)]

    def maps(image: Tensor, audio: Tensor) -> dict[str, Tensor]:
        return {
            f"{kind}{control}": localization_map(used, image, audio, kind=kind)
            for kind in kinds
            for control, used in ways.items()
        }

    def samples(dataset: PreparedDataset, of: np.ndarray) -> Samples:
        return Samples(dataset, EvaluationViews(dataset, **context.view_size(), whole=True), of, of)

    return negative_table(
        context,
        maps,
        log_mel,
        samples(context.dataset, clips),
        samples(other, np.array(boxed) if boxed else held_out),
        which=which,
        task="localize",
        truth=(truth > 0).mean(axis=(1, 2)),
        left_out=left_out,
    )
