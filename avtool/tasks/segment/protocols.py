"""Protocols ``avs-tpavi``, ``avs-jf``, ``avs-published`` and ``avs-semantic``: which pixels of a frame sound.

Every masked frame is seen whole, squeezed to the model's size, with the sound around it. What the model gives is
resized to 224 x 224 and judged there.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from avtool.config.checkpoint import Config
from avtool.data.dataset import PreparedDataset
from avtool.data.names import plain
from avtool.data.views import MaskViews, MixtureViews, class_names, masked_clips, masked_frames
from avtool.errors import DataError, UsageError
from avtool.features import inputs_of, other_sound
from avtool.metrics.localization import ANOTHER_CLASS, ANOTHER_CLIP, Exchange, exchange_sounds
from avtool.metrics.segmentation import (
    ClassScores,
    FrameScores,
    avs_published,
    avs_semantic,
    avs_tpavi,
    class_scores,
    frame_scores,
)
from avtool.tasks import Evaluation
from avtool.tasks.context import Context
from avtool.tasks.given import GivenViews
from avtool.tasks.names import ClassNames
from avtool.tasks.negatives import PROTOCOL as NEGATIVES
from avtool.tasks.segment import TASK
from avtool.tasks.segment.given import class_numbers, masks_of, probabilities
from avtool.tasks.segment.negatives import negative_audio
from avtool.tasks.segment.train import EVALUATION_SIZE, Scores, blind, check_classes, resized, scores_of
from avtool.tasks.table import CONTROL, FLOOR, MODEL, UNTRAINED, Measure, Row, Table

MODEL_ROW, MASK = "model", "mask"
ROLES = {MODEL_ROW: MODEL, ANOTHER_CLASS: CONTROL, ANOTHER_CLIP: CONTROL, UNTRAINED: CONTROL}
DRAWS = 1000


class Frames(NamedTuple):
    """Masked ``frames`` int64 (N, 2), clip and frame, their clips' ``recordings``, and the clips ``left_out``."""

    frames: np.ndarray
    recordings: list[str]
    left_out: dict[str, int]


def evaluate_segmentation(context: Context, protocols: Sequence[str]) -> list[Table]:
    """A table a protocol: the model, the same with the sound of another class and with untrained weights, and masks
    that neither see nor hear; where the data knows what is in view, a second one of frames with two objects or more.

    UsageError for a model of another kind or a protocol of other masks, DataError where masks are missing or do not fit
    the model's classes, before weights are loaded.
    """
    _check_model(context, protocols)
    frames = _frames(context)
    clips = frames.frames[:, 0].tolist()
    labels = [context.dataset.record(i).label_ids for i in clips]
    exchange = exchange_sounds(labels, frames.recordings, clips, seed=context.seed)
    scores, masks = _scores(context, frames.frames, exchange)
    if not context.world.main:
        return []
    context.predictions |= {"frames": frames.frames, **_kept(scores), **masks}
    context.predictions["ids"] = np.array(context.ids(frames.frames[:, 0]))
    return _tables_of(context, protocols, scores, frames, list(exchange.notes))


def _tables_of(
    context: Context, protocols: Sequence[str], scores: dict[str, Scores], frames: Frames, notes: list[str]
) -> list[Table]:
    """A table a protocol of all frames, and one of those with two objects or more."""
    crowded = _crowded(context.dataset, frames.frames)
    if crowded.all():
        notes.append("Every frame has two objects or more in view.")
    tables = [_table(context, protocol, scores, frames, notes) for protocol in protocols]
    if crowded.any() and not crowded.all():
        few = Frames(
            frames.frames[crowded],
            [name for name, inside in zip(frames.recordings, crowded, strict=True) if inside],
            {**frames.left_out, "with frames of fewer objects in view": int((~crowded).sum())},
        )
        kept = torch.from_numpy(crowded)
        part = {name: type(found)(*(column[kept] for column in found)) for name, found in scores.items()}
        note = "Only frames with two objects or more in view."
        tables += [_table(context, protocol, part, few, [note]) for protocol in protocols]
    return tables


def _check_model(context: Context, wanted: Sequence[str]) -> None:
    """UsageError for a model without masks, and for protocols of ``wanted`` that judge others than it gives."""
    config, checkpoint = context.config, context.checkpoint
    TASK.check_kind(config, checkpoint)
    fitting = fitting_protocols(config)
    if other := [name for name in wanted if name not in fitting]:
        masks = "a mask of each class" if PROTOCOLS[fitting[0]].semantic else "one mask of all that sounds"
        raise UsageError(
            f"{checkpoint} gives {masks}: {', '.join(other)} cannot judge it",
            hint=f"--protocol {','.join(fitting)}",
        )


def fitting_protocols(config: Config) -> tuple[str, ...]:
    """Those for the masks that a model gives: one of all that sounds, or one of each class."""
    semantic = getattr(config.head, "classes", 1) > 1
    return tuple(name for name, protocol in PROTOCOLS.items() if protocol.semantic == semantic)


def _frames(context: Context) -> Frames:
    """The frames to judge. DataError where there are none, or the masks do not fit the model's classes."""
    dataset, classes = context.dataset, context.config.head.classes
    clips = masked_clips(dataset, context.chosen.tolist())
    if classes > 1:
        if classes != len(class_names(dataset)):
            raise DataError(
                f"the model tells {classes} classes apart, {dataset.folder} has {len(class_names(dataset))}, the "
                "background among them",
                hint="evaluate on the data it was trained for, or fine-tune it on this",
            )
        known = ClassNames.read(context.checkpoint, count=classes)
        for number, (own, name) in enumerate(
            zip(known.names if known else (), class_names(dataset), strict=False)
        ):
            if plain(own) != plain(name):
                raise DataError(
                    f"class {number} is {own!r} for the model and {name!r} in {dataset.folder}",
                    hint="evaluate on the data it was trained for, or fine-tune it on this",
                )
        check_classes(dataset, clips)
    frames = masked_frames(dataset, clips.tolist())
    left_out = {"without a mask": len(context.chosen) - len(clips)}
    return Frames(frames, context.recordings(frames[:, 0]), left_out)


def _scores(
    context: Context, frames: np.ndarray, exchange: Exchange
) -> tuple[dict[str, Scores], dict[str, np.ndarray]]:
    """Each row's scores of all frames, and where they are kept the model's masks as uint8 (N, 224, 224): 255 times the
    probability, or the number of the class. On rank 0, elsewhere there are none."""
    classes = context.config.head.classes
    views = MaskViews(
        context.dataset, frames, **context.view_size(), mask_size=EVALUATION_SIZE, semantic=classes > 1
    )
    model, log_mel = context.load()
    untrained = context.untrained()
    order = np.arange(len(frames))

    def compute(batch: dict[str, Tensor]) -> dict[tuple[str, str], Tensor]:
        image, own = inputs_of(log_mel, batch)
        logits = {MODEL_ROW: model(image, own)}
        if exchange.sounds is not None:
            logits[exchange.called] = model(image, other_sound(log_mel, batch))
        logits[UNTRAINED] = untrained(image, own)
        logits |= blind(logits[MODEL_ROW])
        found = {
            (name, part): values
            for name, value in logits.items()
            for part, values in scores_of(resized(value, EVALUATION_SIZE), batch["mask"])._asdict().items()
        }
        if context.keep:
            whole = resized(logits[MODEL_ROW], EVALUATION_SIZE)
            masks = (255 * whole[:, 0].sigmoid()).round() if classes == 1 else whole.argmax(dim=1)
            found[MODEL_ROW, MASK] = masks.to(torch.uint8)
        return found

    sounds = exchange.sounds
    mixed = views if sounds is None else MixtureViews(views, np.stack([order, sounds], axis=1))
    found = context.each(mixed, order, compute)
    kept = {f"{MASK}: {MODEL_ROW}": found.pop((MODEL_ROW, MASK))} if (MODEL_ROW, MASK) in found else {}
    return _by_row(found, classes > 1), kept


def _by_row(found: dict[tuple[str, str], np.ndarray], semantic: bool) -> dict[str, Scores]:
    """Scores by row, from their parts by row and name."""
    kind = ClassScores if semantic else FrameScores
    return {
        name: kind(*(torch.from_numpy(found[name, part]) for part in kind._fields))
        for name in dict.fromkeys(name for name, _ in found)
    }


def _table(
    context: Context, protocol: str, scores: dict[str, Scores], frames: Frames, notes: Sequence[str]
) -> Table:
    """The table of one protocol; under one of the two binary ones, what the other makes of the same predictions."""
    recordings = frames.recordings
    rows = [
        Row(name, ROLES.get(name, FLOOR), PROTOCOLS[protocol].measures(context, found, recordings))
        for name, found in scores.items()
    ]
    left_out = dict(frames.left_out)
    own = scores[MODEL_ROW]
    if isinstance(own, FrameScores):
        notes = [*notes, _compared(own)]
        if protocol == "avs-published":
            left_out["with frames that hold no object"] = int(own.empty.sum())
    else:
        summary = avs_semantic(own)
        notes = [*notes, f"{summary.classes} classes with the background; {summary.left_out} occur nowhere."]
    height, width = EVALUATION_SIZE
    words = f"{PROTOCOLS[protocol].words}; at {height}x{width}, a sample is a frame"
    return context.table("segment", protocol, words, rows, recordings, left_out=left_out, notes=notes)


def _compared(scores: FrameScores) -> str:
    literature, published = avs_tpavi(scores), avs_published(scores)
    return (
        f"The same predictions get mIoU {literature.miou:.1%} and F {literature.f:.1%} by avs-tpavi, "
        f"{published.miou:.1%} and {published.f:.1%} by avs-published: they cannot stand in one table."
    )


def _tpavi(context: Context, scores: FrameScores, recordings: list[str]) -> dict[str, Measure]:
    iou = torch.where(scores.empty, scores.background, scores.foreground).numpy()
    kept = (~scores.empty).nonzero().flatten().numpy()
    curves = scores.f_curve.numpy()[kept]
    of_kept = [recordings[frame] for frame in kept]
    return {
        "mIoU": context.measured(iou, recordings),
        "F": context.measured_whole(lambda chosen: curves[chosen].mean(axis=0).max(), of_kept, draws=DRAWS),
    }


def _jf(context: Context, scores: FrameScores, recordings: list[str]) -> dict[str, Measure]:
    iou = torch.where(scores.empty, scores.background, scores.foreground).numpy()
    curves, full = scores.f_curve.numpy(), ~scores.empty.numpy()

    def mean(chosen: np.ndarray) -> float:
        of_full = curves[chosen[full[chosen]]]
        return (iou[chosen].mean() + of_full.mean(axis=0).max()) / 2 if len(of_full) else np.nan

    return {"J&F": context.measured_whole(mean, recordings, draws=DRAWS)}


def _published(context: Context, scores: FrameScores, recordings: list[str]) -> dict[str, Measure]:
    nothing = scores.empty.numpy()
    values = {
        "mIoU": ((scores.foreground + scores.background) / 2).numpy(),
        "F": scores.f_curve.amax(dim=1).numpy(),
    }
    return {
        name: context.measured(np.where(nothing, np.nan, value), recordings) for name, value in values.items()
    }


def _semantic(context: Context, scores: ClassScores, recordings: list[str]) -> dict[str, Measure]:
    def mean(values: Tensor) -> Measure:
        there = values[:, ~values.isnan().all(dim=0)]
        return context.measured_whole(
            lambda chosen: there[chosen].nanmean(dim=0).nanmean().item(), recordings, draws=DRAWS
        )

    return {"mIoU": mean(scores.iou), "F": mean(scores.f)}


class Protocol(NamedTuple):
    """A protocol's rule in ``words``, what it makes of every frame's scores, and whether those are of one mask of all
    that sounds or, where it is ``semantic``, of a mask of each class."""

    words: str
    measures: Callable[[Context, Any, list[str]], dict[str, Measure]]
    semantic: bool = False


PROTOCOLS = {
    "avs-tpavi": Protocol(
        "mIoU: mean over frames of the foreground's IoU at 0.5, of the background's where nothing sounds; "
        "F (beta^2 = 0.3): highest of 255 thresholds, over the whole set",
        _tpavi,
    ),
    "avs-jf": Protocol("J&F: the mean of mIoU and F by avs-tpavi (no F of outlines, as in DAVIS)", _jf),
    "avs-published": Protocol(
        "mIoU: mean of the foreground's and the background's IoU; F: each frame's own highest; frames without an "
        "object left out",
        _published,
    ),
    "avs-semantic": Protocol(
        "a class's IoU and F over the frames in which it is in truth or prediction; means over classes",
        _semantic,
        semantic=True,
    ),
}


def _crowded(dataset: PreparedDataset, frames: np.ndarray) -> np.ndarray:
    """Of which frames it is known that two objects or more are in view, bool (N,)."""
    views = {int(i): dataset.facts(int(i)).get("view") for i in np.unique(frames[:, 0])}
    known = {i for i, view in views.items() if isinstance(view, list) and len(view) >= 2}
    return np.array([int(i) in known for i in frames[:, 0]], bool)


def _kept(scores: dict[str, Scores]) -> dict[str, np.ndarray]:
    """What the numbers are made of, by row: each frame's IoU of the foreground and the background and its F at each
    threshold, or IoU and F of each class."""
    parts = {
        "foreground": "foreground IoU",
        "background": "background IoU",
        "f_curve": "F at each threshold",
        "empty": "nothing sounds",
        "iou": "IoU",
        "f": "F",
    }
    return {
        f"{words}: {name}": getattr(found, part).numpy()
        for name, found in scores.items()
        for part, words in parts.items()
        if hasattr(found, part)
    }


def _tables(context: Context, protocols: Sequence[str]) -> list[Table]:
    of_masks = [name for name in protocols if name != NEGATIVES]
    tables = evaluate_segmentation(context, of_masks) if of_masks else []
    return tables + (negative_audio(context) if NEGATIVES in protocols else [])


def score_masks(context: Context, protocols: Sequence[str]) -> list[Table]:
    """A table a protocol of the masks that are ``given``, one for each masked frame of a clip, in their order; for
    ``avs-semantic`` of class numbers. UsageError for protocols of both kinds."""
    dataset = context.dataset
    if len({PROTOCOLS[name].semantic for name in protocols}) > 1:
        raise UsageError(
            "avs-semantic judges masks with classes, the other protocols one mask of all that sounds",
            hint="score them one after the other",
        )
    semantic, given = PROTOCOLS[protocols[0]].semantic, context.read_given("masks", "mask: model")
    clips = masked_clips(dataset, context.chosen.tolist())
    has = given.there(context.ids(clips))
    if semantic:
        check_classes(dataset, clips)
    frames = masked_frames(dataset, clips[has].tolist())
    classes = len(class_names(dataset)) if semantic else 1

    def prediction(number: int) -> np.ndarray:
        clip, frame = frames[number].tolist()
        record = dataset.record(clip)
        masks, where = masks_of(given, record)
        mask = masks[record.masked.index(frame)]
        if semantic:
            return class_numbers(mask, classes, where)
        return probabilities(mask, where, binary=given.binary)

    views = MaskViews(
        dataset, frames, image_size=16, window_samples=1, mask_size=EVALUATION_SIZE, semantic=semantic
    )

    def compute(batch: dict[str, Tensor]) -> dict[tuple[str, str], Tensor]:
        found, truth = batch["given"], batch["mask"]
        own = class_scores(found, truth, classes=classes) if semantic else frame_scores(found, truth > 0)
        blank = found.new_zeros(len(found), classes, *EVALUATION_SIZE, dtype=torch.float32)
        scores = {MODEL_ROW: own} | {name: scores_of(guess, truth) for name, guess in blind(blank).items()}
        return {(name, part): values for name, of in scores.items() for part, values in of._asdict().items()}

    found = context.each(GivenViews(views, prediction), np.arange(len(frames)), compute)
    left_out = {"without a mask": len(context.chosen) - len(clips), "without a prediction": int((~has).sum())}
    judged = Frames(frames, context.recordings(frames[:, 0]), left_out)
    return _tables_of(context, protocols, _by_row(found, semantic), judged, [])


EVALUATION = Evaluation(
    (*PROTOCOLS, NEGATIVES),
    _tables,
    lambda config, checkpoint: [name for name in fitting_protocols(config) if name != "avs-jf"],
    score=score_masks,
    scored=tuple(PROTOCOLS),
)
