"""Protocol ``recall``: does a clip's sound find its picture among all clips, and its picture its sound?"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from avtool.errors import DataError
from avtool.features import LogMel, blank_frames, inputs_of, silence
from avtool.metrics.embeddings import RANKS, recall
from avtool.model.encoder import encoder_of
from avtool.model.heads import pool
from avtool.model.localization import UNIMODAL, LocalizationModel
from avtool.tasks import Evaluation
from avtool.tasks.context import Context
from avtool.tasks.table import CONTROL, FLOOR, MODEL, UNTRAINED, Measure, Row, Table

WORDS = (
    "the clip's own partner is among the k nearest of all by cosine; pictures are encoded with silence and sounds "
    "with a blank frame, because tokens that were encoded together know each other"
)


def evaluate_retrieval(context: Context, protocols: Sequence[str]) -> list[Table]:
    """The table of ``recall``, the only protocol there is: of a model's embeddings in both directions, beside untrained
    weights and a draw by lot (k / N).

    Embeddings are the mean normed tokens of either modality, those of the fusion tokens beside it, and where a model
    was trained to compare patches and sounds, their projections; means over the windows of a clip. DataError where
    there are fewer than two clips.
    """
    clips = context.chosen
    if len(clips) < 2:
        raise DataError(
            f"{context.dataset.folder} has {len(clips)} clips of split {context.dataset.split}: there is nothing to "
            "find one among",
            hint="choose another --split or --fold",
        )
    trained, log_mel = context.load()
    embeddings = [
        (role, prefix, _embeddings(context, model, log_mel, clips))
        for role, prefix, model in ((MODEL, "", trained), (CONTROL, f"{UNTRAINED}, ", context.untrained()))
    ]
    if not context.world.main:
        return []
    recordings = context.recordings(clips)
    rows = []
    for role, prefix, of_model in embeddings:
        for name, (pictures, sounds) in of_model.items():
            if role == MODEL:
                of = name.replace(" ", "_")
                context.predictions |= {f"picture_{of}": pictures, f"sound_{of}": sounds}
            for direction, found in zip(
                ("picture to sound", "sound to picture"), recall(pictures, sounds), strict=True
            ):
                measures = {f"recall@{k}": context.measured(hits, recordings) for k, hits in found.items()}
                rows.append(Row(f"{prefix}{direction}, {name}", role, measures))
    by_lot = {f"recall@{k}": Measure(100 * min(1.0, k / len(clips))) for k in RANKS}
    rows.append(Row("drawn by lot", FLOOR, by_lot))
    context.predictions["clips"] = clips
    notes = []
    if trivial := [f"recall@{k}" for k in RANKS if k >= len(clips)]:
        notes = [f"{' and '.join(trivial)} is 100 % by any embedding: there are {len(clips)} clips."]
    protocol = f"recall@{','.join(map(str, RANKS))}"
    words = f"{WORDS}; {context.in_windows('embeddings')}"
    return [context.table("retrieve", protocol, words, rows, recordings, notes=notes)]


def _embeddings(
    context: Context, model: nn.Module, log_mel: LogMel, clips: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of each kind of embedding those of the pictures and of the sounds, (N, D) both."""

    def compute(batch: dict[str, Tensor]) -> dict[tuple[str, int], Tensor]:
        pairs = _pairs(model, *inputs_of(log_mel, batch))
        return {(name, side): pair[side].float() for name, pair in pairs.items() for side in (0, 1)}

    found = context.each_clip(clips, compute)
    return {name: (found[name, 0], found[name, 1]) for name, side in found if side == 0}


def _pairs(model: nn.Module, image: Tensor, audio: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Embeddings (B, D) of pictures and of sounds, each encoded with the other modality blank."""
    encoder = encoder_of(model)
    seen, heard = pool(encoder(image, silence(audio))), pool(encoder(blank_frames(image), audio))
    pairs = {"own tokens": (seen.image, heard.audio), "fusion tokens": (seen.fusion, heard.fusion)}
    if isinstance(model, LocalizationModel) and model.encoding == UNIMODAL:
        pairs["projections"] = (model.patches(image, audio).mean(dim=1), model.sounds(image, audio))
    return pairs


EVALUATION = Evaluation(("recall",), evaluate_retrieval, windows=True)
