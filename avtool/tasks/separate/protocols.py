"""Protocol ``bss-eval``: fixed mixtures of held-out clips, taken apart again by their pictures."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from avtool.data.dataset import PreparedDataset
from avtool.data.parts import labelled
from avtool.data.views import EvaluationViews, MixtureViews
from avtool.errors import DataError
from avtool.features import LogMel
from avtool.losses import binary_masks, ratio_masks
from avtool.metrics.separation import bss_eval, silent
from avtool.tasks import Evaluation
from avtool.tasks.context import Context
from avtool.tasks.given import GivenViews
from avtool.tasks.separate import TASK
from avtool.tasks.separate.train import Mixtures, fixed_mixtures, mask_logits, mix
from avtool.tasks.table import CEILING, CONTROL, FLOOR, MODEL, UNTRAINED, Measure, Row, Table

PROTOCOL = "bss-eval"
MODEL_ROW, EXCHANGED, MIXTURE = "model", "pictures exchanged", "the mixture itself"
RATIO, BINARY = "ideal ratio mask", "ideal binary mask"
ROLES = {
    MODEL_ROW: MODEL,
    EXCHANGED: CONTROL,
    UNTRAINED: CONTROL,
    MIXTURE: FLOOR,
    RATIO: CEILING,
    BINARY: CEILING,
}
MEASURES = ("SDR", "SIR", "SAR")
SILENT, KEPT = "as silent sources", "kept"
NO_ESTIMATE = "as sources that some row gives nothing for"

Scores = dict[str, dict[str, np.ndarray]]
"""By row and measure the scores of all sources, float64 (M * S,), NaN where there is none."""


class Pairs(NamedTuple):
    """``mixtures`` int64 (M, 2), clip numbers; what ``words`` call them, and how many clips are ``left_out``."""

    mixtures: np.ndarray
    words: str
    left_out: dict[str, int]


def evaluate_separation(context: Context, protocols: Sequence[str] = (PROTOCOL,)) -> list[Table]:
    """The table of protocol ``bss-eval``: SDR, SIR, SAR and SDR over the mixture's, in dB, means over the sources of
    all mixtures; intervals resample the recordings of their first clips.

    UsageError for a model of another kind, DataError where the clips make no mixtures, before weights are loaded.
    """
    TASK.check_kind(context.config, context.checkpoint)
    pairs = find_pairs(context.dataset, context.chosen, seed=context.seed)
    scores, no_source, kept = _scores(context, pairs.mixtures)
    if not context.world.main:
        return []
    context.predictions["ids"] = np.array(pair_names(context.dataset, pairs.mixtures))
    return _tables_of(context, pairs, scores, no_source, kept)


def score_sounds(context: Context, protocols: Sequence[str] = (PROTOCOL,)) -> list[Table]:
    """The table of the sounds that are ``given``: of each mixture "A+B" (``find_pairs``) the sound of A and that of B,
    as many samples of all around the middles of the clips. DataError where they are of another length."""
    dataset, pairs = context.dataset, find_pairs(context.dataset, context.chosen, seed=context.seed)
    names = pair_names(dataset, pairs.mixtures)
    given = context.read_given("sounds", "waveforms_model", names=names)
    has = given.there(names)
    kept, mixtures = [name for name, there in zip(names, has, strict=True) if there], pairs.mixtures[has]
    first, _ = given.of(kept[0])
    length = first[0].shape[-1]

    def prediction(number: int) -> np.ndarray:
        sounds, where = given.of(kept[number])
        sounds = list(sounds[0]) if sounds[0].ndim == 2 else sounds
        if [sound.shape for sound in sounds] != [(length,)] * mixtures.shape[1]:
            shapes = ", ".join(str(sound.shape) for sound in sounds)
            raise DataError(
                f"{where}: the sounds of {kept[number]} are of shapes {shapes}, not {mixtures.shape[1]} of "
                f"({length},), as the first",
                hint="give the sound of each clip of a mixture, A+B_1 and A+B_2, all of one length",
            )
        stacked = np.stack(sounds)
        return stacked / np.float32(32768) if stacked.dtype == np.int16 else stacked.astype(np.float32)

    log_mel = LogMel(sample_rate=dataset.sample_rate)

    def compute(batch: dict[str, Tensor]) -> dict[tuple[str, str], Tensor]:
        mixed = mix(log_mel, batch)
        return _judge(mixed, {MODEL_ROW: batch["given"], **_bounds(log_mel, mixed)})

    views = EvaluationViews(dataset, image_size=16, window_samples=length)
    found = context.each(
        GivenViews(MixtureViews(views, mixtures), prediction), np.arange(len(mixtures)), compute
    )
    left_out = pairs.left_out | {"as mixtures without a prediction": int((~has).sum())}
    return _tables_of(context, Pairs(mixtures, pairs.words, left_out), *_by_row(found))


def pair_names(dataset: PreparedDataset, mixtures: np.ndarray) -> list[str]:
    """What ``mixtures`` (M, S) are called: the ids of their clips, joined by +."""
    return ["+".join(dataset.record(int(i)).id for i in clips) for clips in mixtures]


def _tables_of(
    context: Context, pairs: Pairs, scores: Scores, no_source: np.ndarray, kept: dict[str, np.ndarray]
) -> list[Table]:
    """The table of what ``_by_row`` gives."""
    found = np.isfinite(np.stack([of_row["SDR"] for of_row in scores.values()])).all(axis=0)
    of_sources = np.repeat(context.recordings(pairs.mixtures[:, 0]), pairs.mixtures.shape[1])
    if not found.any():
        raise DataError(
            f"every source in {context.dataset.folder} is silent", hint="prepare clips that sound"
        )
    recordings = of_sources[found].tolist()
    rows = [Row(name, ROLES[name], _measures(context, scores, name, found, recordings)) for name in scores]
    left_out = pairs.left_out | {
        SILENT: int(no_source.sum()),
        NO_ESTIMATE: int((~found & ~no_source).sum()),
    }
    context.predictions |= {
        "mixtures": pairs.mixtures,
        **kept,
        **{
            f"{measure}_{name}": values
            for name, of_row in scores.items()
            for measure, values in of_row.items()
        },
    }
    words = (
        f"distortion, interference and artifacts of the sources in {len(pairs.mixtures)} mixtures of {pairs.words}, "
        "summed as they are"
    )
    return [context.table("separate", PROTOCOL, words, rows, recordings, unit="dB", left_out=left_out)]


def find_pairs(dataset: PreparedDataset, chosen: np.ndarray, *, seed: int) -> Pairs:
    """The pairs that the data names, where it does; else each clip with one label and another of another class, drawn
    from ``seed``. DataError where there are none."""
    if named := {int(i): name for i in chosen if (name := dataset.facts(int(i)).get("partner"))}:
        number = {dataset.record(i).id: i for i in range(len(dataset))}
        found = [(i, number[name]) for i, name in named.items() if name in number]
        if not found:
            raise DataError(
                f"{dataset.folder}: no partner that a clip of split {dataset.split} names is there",
                hint="choose another --split, or --split all",
            )
        missing = {"whose partner is not there": len(named) - len(found)}
        return Pairs(np.array(found, np.int64), "two clips, the pairs that the data names", missing)
    clips, left_out = labelled(dataset, chosen)
    return Pairs(fixed_mixtures(dataset, clips, 2, seed=seed), "two clips of different classes", left_out)


def _scores(context: Context, mixtures: np.ndarray) -> tuple[Scores, np.ndarray, dict[str, np.ndarray]]:
    """The scores of all sources, which sources are silent, and where they are kept the model's masks float16
    (M, S, mel, frames), its sounds and the true ones, int16 (M, S, N); on rank 0, elsewhere there are none."""
    model, log_mel = context.load()
    untrained = context.untrained()

    def compute(batch: dict[str, Tensor]) -> dict[tuple[str, str], Tensor]:
        mixed = mix(log_mel, batch)
        masks = {
            MODEL_ROW: mask_logits(model, mixed).sigmoid(),
            UNTRAINED: mask_logits(untrained, mixed).sigmoid(),
        }
        estimates = {name: log_mel.masked(mixed.mixture, mask) for name, mask in masks.items()}
        estimates[EXCHANGED] = estimates[MODEL_ROW].roll(1, dims=1)
        found = _judge(mixed, estimates | _bounds(log_mel, mixed))
        if context.keep:
            found[KEPT, "masks_model"] = masks[MODEL_ROW].half()
            for name, sounds in (("model", estimates[MODEL_ROW]), ("sources", mixed.waveforms)):
                found[KEPT, f"waveforms_{name}"] = (32768 * sounds).round().clamp(-32768, 32767).short()
        return found

    found = context.each(MixtureViews(context.views(), mixtures), np.arange(len(mixtures)), compute)
    return _by_row(found)


def _bounds(log_mel: LogMel, mixed: Mixtures) -> dict[str, Tensor]:
    """The floor and the ceilings as estimates (B, S, N), by row."""
    ideal = {RATIO: ratio_masks(mixed.sources), BINARY: binary_masks(mixed.sources)}
    itself = mixed.mixture.unsqueeze(1).expand_as(mixed.waveforms)
    return {MIXTURE: itself} | {name: log_mel.masked(mixed.mixture, mask) for name, mask in ideal.items()}


def _judge(mixed: Mixtures, estimates: dict[str, Tensor]) -> dict[tuple[str, str], Tensor]:
    """Scores (B, S) of ``estimates`` (B, S, N) by row and measure, and which sources are silent."""
    rows = [name for name in ROLES if name in estimates]
    scores = bss_eval(mixed.waveforms, torch.stack([estimates[name] for name in rows], dim=1))
    quiet = silent(mixed.waveforms).any(dim=1, keepdim=True).expand(mixed.waveforms.shape[:2])
    return {(SILENT, ""): quiet} | {
        (name, measure): values
        for measure in MEASURES
        for name, values in zip(rows, getattr(scores, measure.lower()).unbind(dim=1), strict=True)
    }


def _by_row(found: dict[tuple[str, str], np.ndarray]) -> tuple[Scores, np.ndarray, dict[str, np.ndarray]]:
    """The scores of all sources by row, which are silent, and what is kept; nothing of nothing."""
    rows = [name for name in ROLES if (name, MEASURES[0]) in found]
    scores = {name: {measure: found[name, measure].ravel() for measure in MEASURES} for name in rows}
    kept = {name: values for (kind, name), values in found.items() if kind == KEPT}
    return scores, found.get((SILENT, ""), np.zeros(0, bool)).ravel(), kept


def _measures(
    context: Context, scores: Scores, name: str, found: np.ndarray, recordings: Sequence[str]
) -> dict[str, Measure]:
    """A row's measures over the sources ``found``, which are of ``recordings``. The mixture has no artifacts but
    rounding, so no SAR."""
    own = {measure: values for measure, values in scores[name].items() if (name, measure) != (MIXTURE, "SAR")}
    own["SDR improvement"] = own["SDR"] - scores[MIXTURE]["SDR"]
    return {
        measure: context.measured(np.where(np.isfinite(values), values, np.nan)[found], recordings, scale=1)
        for measure, values in own.items()
    }


EVALUATION = Evaluation((PROTOCOL,), evaluate_separation, score=score_sounds, scored=(PROTOCOL,))
