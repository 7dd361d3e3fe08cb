"""Protocols ``top1``, ``top5``, ``mAP``, ``AUC`` and ``knn``: what class a clip is of."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from avtool.config.checkpoint import Config
from avtool.data.dataset import PreparedDataset
from avtool.data.names import listed, matched
from avtool.data.parts import labelled
from avtool.errors import DataError
from avtool.features import LogMel, blank_frames, inputs_of, silence
from avtool.metrics.classification import average_precision, macro, roc_auc, top_k_correct
from avtool.metrics.embeddings import nearest_neighbour_hits
from avtool.model.encoder import encoder_of
from avtool.tasks import Evaluation
from avtool.tasks.classify import TASK, vggsounder
from avtool.tasks.classify.train import labels_of, one_hot
from avtool.tasks.classify.vggsounder import PROTOCOL as VGGSOUNDER
from avtool.tasks.classify.vggsounder import WORDS as VGGSOUNDER_WORDS
from avtool.tasks.context import Context
from avtool.tasks.names import ClassNames
from avtool.tasks.pretrain.train import mean_tokens
from avtool.tasks.table import CONTROL, FLOOR, MODEL, UNTRAINED, Measure, Row, Table

BLANKED = {"image": "fused, image blank", "audio": "fused, sound silent"}
COMMONEST = "always the commonest class"
WORDS = {
    "top1": "the true class scores highest",
    "top5": "the true class is among the five that score highest",
    "mAP": "mean over classes of average precision",
    "AUC": "mean over classes of the area under the ROC curve",
    VGGSOUNDER: VGGSOUNDER_WORDS,
    "knn": "the nearest training clip, by cosine of the mean token, has the same class (k = 1; of several classes the "
    "first)",
}
SETS = ("mAP", "AUC")


class Classes(NamedTuple):
    """``names`` of the model's classes, and of every clip of the data those it has: int64 (N, L), -1 for none;
    ``unknown`` are its others. ``notes`` say how they were matched."""

    names: Sequence[str]
    of_clips: Tensor
    unknown: Sequence[str] = ()
    notes: Sequence[str] = ()


def evaluate_classification(context: Context, protocols: Sequence[str]) -> list[Table]:
    """Tables of a classifier or linear probe: fused and by head, with either input blanked, and what naming the
    commonest class gets. Windows of a clip are averaged as logits. The data may have some of the model's classes, in
    any order, and others: they are matched by name, all of the model's compete, and clips of others are left out."""
    count = context.config.head.classes
    classes = _classes(context.dataset, count, ClassNames.read(context.checkpoint, count=count))
    judged = _groups(context, classes, protocols)
    clips = np.unique(np.concatenate([fitting for _, fitting, _ in judged]))
    model, log_mel = context.load()
    everything = _logits(context, model, log_mel, clips)
    if not context.world.main:
        return []
    context.predictions |= {f"logits_{name}": value for name, value in everything.items()} | {
        "clips": clips,
        "ids": np.array(context.ids(clips)),
        "targets": _truth(classes, clips),
        "classes": np.array(classes.names),
    }
    return _tables_of(context, classes, judged, everything, clips, made=context.in_windows("logits"))


def score_classes(context: Context, protocols: Sequence[str]) -> list[Table]:
    """Tables of the class scores that are ``given``: (classes,) a clip, in the order of the names given with them, else
    of the data's classes."""
    given, dataset = context.read_given("scores", "logits_fused"), context.dataset
    alone = {
        BLANKED["image"]: context.read_given("scores_sound", "logits_fused, image blank", beside=True),
        BLANKED["audio"]: context.read_given("scores_picture", "logits_fused, sound silent", beside=True),
    }
    if not given.found:
        given.there(context.ids(context.chosen))
    first = given.one(next(iter(given.found)), "an array of scores", 1)
    known = ClassNames(given.classes) if given.classes else None
    if known and len(known.names) != len(first):
        raise DataError(
            f"{given.name} names {len(known.names)} classes and has {len(first)} scores a clip",
            hint="name each once",
        )
    classes = _classes(dataset, len(first), known, whose=given.name)
    judged = []
    for group, fitting, left_out in _groups(context, classes, protocols):
        has = given.there(context.ids(fitting))
        judged.append((group, fitting[has], left_out | {"without a prediction": int((~has).sum())}))
    clips = np.unique(np.concatenate([fitting for _, fitting, _ in judged]))
    everything = {
        row: np.stack([found.one(name, "an array of scores", 1, first) for name in context.ids(clips)])
        for row, found in {"scores": given, **alone}.items()
        if found.found and found.there(context.ids(clips)).all()
    }
    return _tables_of(context, classes, judged, everything, clips, made="scores as given")


Group = tuple[Sequence[str], np.ndarray, dict[str, int]]
"""Protocols that judge the same clips, these clips (N,) ascending, and how many they cannot judge, by reason."""


def _groups(context: Context, classes: Classes, protocols: Sequence[str]) -> list[Group]:
    """The ``protocols`` of one label a clip and those of sets, and the clips that each can judge."""
    single = tuple(name for name in protocols if name not in (*SETS, VGGSOUNDER))
    sets = tuple(name for name in protocols if name in SETS)
    groups: list[Group] = []
    for group in filter(None, (single, sets)):
        groups.append((group, *_judged(context, classes, several=group is sets)))
    if VGGSOUNDER in protocols:
        groups.append(((VGGSOUNDER,), *vggsounder.labelled(context, classes.names)))
    return groups


def _truth(classes: Classes, clips: np.ndarray) -> np.ndarray:
    return one_hot(classes.of_clips[torch.from_numpy(clips)], len(classes.names)).numpy()


def _tables_of(
    context: Context,
    classes: Classes,
    judged: Sequence[Group],
    everything: dict[str, np.ndarray],
    clips: np.ndarray,
    *,
    made: str,
) -> list[Table]:
    """A table for each group that is ``judged``, of scores (N, C) of ``clips`` (N,) by row; ``made``: how, in words."""
    truth, tables = _truth(classes, clips), []
    for group, fitting, left_out in judged:
        places = np.searchsorted(clips, fitting)
        logits, targets = {name: value[places] for name, value in everything.items()}, truth[places]
        if group == (VGGSOUNDER,):
            tables += vggsounder.tables_of(
                context, classes.names, logits, fitting, heard=BLANKED["image"], seen=BLANKED["audio"],
                left_out=left_out, notes=[*classes.notes, f"{made[0].upper()}{made[1:]}."],
            )  # fmt: skip
            continue
        recordings = context.recordings(fitting)
        rows = [
            Row(
                name,
                CONTROL if name in BLANKED.values() else MODEL,
                _measures(context, value, targets, group, recordings),
            )
            for name, value in logits.items()
        ]
        floor = np.broadcast_to(targets.mean(axis=0), targets.shape)
        rows.append(Row(COMMONEST, FLOOR, _measures(context, floor, targets, group, recordings)))
        notes = [*classes.notes, *_trivial(group, targets.astype(bool), classes.names)]
        words = "; ".join([*(WORDS[name] for name in group), made])
        name = ", ".join(group)
        tables.append(
            context.table("classify", name, words, rows, recordings, left_out=left_out, notes=notes)
        )
    return tables


def _trivial(protocols: Sequence[str], targets: np.ndarray, names: Sequence[str]) -> list[str]:
    """What the classes of ``targets`` bool (N, C) make of each protocol, where that is more or less than it seems."""
    positives, count = targets.sum(axis=0), len(names)
    notes = []
    for protocol in protocols:
        scored = (positives > 0) & ((positives < len(targets)) | (protocol != "AUC"))
        if protocol in SETS and not scored.all():
            without = listed([name for name, there in zip(names, scored, strict=True) if not there])
            why = "no clip here" if protocol == "mAP" else "no clip here, or every one"
            notes.append(
                f"{protocol} is the mean over {scored.sum()} of {count} classes: the others ({without}) have {why}."
            )
        if protocol == "mAP" and (full := int((positives == len(targets)).sum())):
            notes.append(
                f"Every clip has {full} of these classes, whose average precision is 100 % by any scores."
            )
        if protocol == "top5" and count <= 5:
            notes.append(f"top5 is 100 % by any scores: there are {count} classes.")
    return notes


def _classes(
    dataset: PreparedDataset, count: int, known: ClassNames | None, *, whose: str = "the model"
) -> Classes:
    """Those of the data as the model, or ``whose`` they are, numbers its ``count``. DataError where it knows none of
    them, or only how many it has."""
    of_clips = labels_of(dataset)
    hint = "evaluate on the data it was trained for, or fine-tune it on this"
    if known is None:
        if count != len(dataset.classes):
            found = f"{whose} tells {count} classes apart, whose names were not saved with it, {dataset.folder} has"
            raise DataError(f"{found} {len(dataset.classes)}", hint=hint)
        return Classes(dataset.classes, of_clips)
    if known.names == tuple(dataset.classes):
        return Classes(known.names, of_clips)
    same = matched(dataset.classes, known.names)
    if not same:
        found = f"{whose} knows none of the classes of {dataset.folder}: it tells {listed(known.names)} apart"
        raise DataError(found, hint=hint)
    number = {name: k for k, name in enumerate(known.names)}
    numbers = torch.tensor([number[same[name]] if name in same else -1 for name in dataset.classes] + [-1])
    notes = [
        f"Classes were matched by name: {len(set(same.values()))} of the model's {count} are in the data."
    ]
    if spelled := [f"{name} as {own}" for name, own in same.items() if name != own]:
        notes.append(f"Taken for the same: {listed(spelled)}.")
    unknown = [name for name in dataset.classes if name not in same]
    if unknown:
        notes.append(f"The model does not know {listed(unknown)}.")
    return Classes(known.names, numbers[of_clips], unknown, notes)


def _judged(context: Context, classes: Classes, *, several: bool) -> tuple[np.ndarray, dict[str, int]]:
    """The clips that a protocol can judge, ascending, and how many it cannot, by reason. ``several``: one of sets of
    labels; the others need exactly one, whatever is asked for beside them. DataError where none is left."""
    dataset = context.dataset
    clips, left_out = labelled(dataset, context.chosen, several=several)
    if not len(clips):
        raise DataError(
            f"no clip of split {dataset.split} of {dataset.folder} has {'a label' if several else 'exactly one label'}",
            hint="choose another --split, or --protocol mAP,AUC for clips with several labels",
        )
    fits = (classes.of_clips[torch.from_numpy(clips)] >= 0).any(dim=1).numpy()
    if not fits.any():
        raise DataError(
            f"no clip of split {dataset.split} of {dataset.folder} is of a class that the model knows: "
            f"{listed(classes.unknown)} are others",
            hint="evaluate on the data it was trained for, or fine-tune it on this",
        )
    return clips[fits], left_out | {"of classes that the model does not know": int((~fits).sum())}


def _logits(context: Context, model: nn.Module, log_mel: LogMel, clips: np.ndarray) -> dict[str, np.ndarray]:
    """Logits (N, C) of the fused prediction, of each head, and fused with either input blanked."""

    def compute(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        image, audio = inputs_of(log_mel, batch)
        heads = model(image, audio)._asdict()
        logits = {"fused": heads.pop("mean")} | {f"{name} head": value for name, value in heads.items()}
        logits[BLANKED["image"]] = model(blank_frames(image), audio).mean
        logits[BLANKED["audio"]] = model(image, silence(audio)).mean
        return {name: value.float() for name, value in logits.items()}

    return context.each_clip(clips, compute)


def _measures(
    context: Context,
    scores: np.ndarray,
    targets: np.ndarray,
    protocols: Sequence[str],
    recordings: Sequence[str],
) -> dict[str, Measure]:
    measures = {}
    for protocol in protocols:
        if protocol in SETS:
            measures[protocol] = _of_set(context, protocol, scores, targets.astype(bool), recordings)
        else:
            hits = top_k_correct(scores, targets.argmax(axis=1), int(protocol.removeprefix("top")))
            measures[protocol] = context.measured(hits, recordings)
    return measures


def _of_set(
    context: Context, protocol: str, scores: np.ndarray, targets: np.ndarray, recordings: Sequence[str]
) -> Measure:
    per_class = average_precision if protocol == "mAP" else roc_auc

    def score(chosen: np.ndarray) -> float:
        return macro(per_class(scores[chosen], targets[chosen])).mean

    return context.measured_whole(score, recordings, draws=200 if targets.size < 2e6 else 20)


def evaluate_knn(context: Context, reference: PreparedDataset, usable: np.ndarray) -> list[Table]:
    """The table of protocol ``knn``: of any model's encoder, stream by stream, beside untrained weights and the
    commonest class.

    ``usable``: the clips of ``reference`` that may be nearest, none of them among those judged. Windows of a clip are
    averaged as tokens.
    """
    clips, left_out = labelled(context.dataset, context.chosen, several=True)
    others, _ = labelled(reference, usable, several=True)
    if not len(clips) or not len(others):
        raise DataError(
            f"{context.dataset.folder} has no labelled clips to compare", hint="prepare data with labels"
        )
    trained, log_mel = context.load()
    means = [
        (
            (role, prefix),
            _means(context, model, log_mel, context.dataset, clips),
            _means(context, model, log_mel, reference, others),
        )
        for role, prefix, model in ((MODEL, "", trained), (CONTROL, f"{UNTRAINED}, ", context.untrained()))
    ]
    if not context.world.main:
        return []
    labels = np.array([context.dataset.label_id(int(i)) for i in clips])
    context.predictions["knn_clips"] = clips
    other_labels = torch.tensor([reference.label_id(int(i)) for i in others])
    recordings = context.recordings(clips)
    rows = []
    for (role, prefix), queries, references in means:
        for stream, query in queries.items():
            hits = nearest_neighbour_hits(query, torch.from_numpy(labels), references[stream], other_labels)
            rows.append(Row(f"{prefix}{stream}", role, {"knn": context.measured(hits.numpy(), recordings)}))
            context.predictions[f"knn_{prefix}{stream}"] = hits.numpy()
    shares = np.broadcast_to(np.bincount(labels), (len(labels), labels.max() + 1))
    commonest = top_k_correct(shares, labels, 1)
    rows.append(Row(COMMONEST, FLOOR, {"knn": context.measured(commonest, recordings)}))
    words = f"{WORDS['knn']}; {len(others)} training clips; {context.in_windows('tokens')}"
    notes = []
    if strangers := int((~np.isin(labels, other_labels.numpy())).sum()):
        notes = [f"{strangers} clips are of classes without a training clip: none can be their neighbour."]
    return [context.table("classify", "knn", words, rows, recordings, left_out=left_out, notes=notes)]


def _means(
    context: Context, model: nn.Module, log_mel: LogMel, dataset: PreparedDataset, clips: np.ndarray
) -> dict[str, Tensor]:
    """Mean tokens (N, D) of the clips, by stream, averaged over their windows."""
    means = context.each_clip(
        clips, lambda batch: mean_tokens(encoder_of(model)(*inputs_of(log_mel, batch))), dataset=dataset
    )
    return {name: torch.from_numpy(mean) for name, mean in means.items()}


def _tables(context: Context, protocols: Sequence[str]) -> list[Table]:
    tables = []
    if heads := [name for name in protocols if name != "knn"]:
        TASK.check_kind(context.config, context.checkpoint, otherwise=", or --protocol knn")
        tables += evaluate_classification(context, heads)
    if "knn" in protocols:
        tables += evaluate_knn(context, *context.unjudged("train", purpose="to be neighbours"))
    return tables


def _usual(config: Config, checkpoint: Path) -> Sequence[str]:
    """``knn`` of what has no classification head; mAP and AUC where the classes are not alone."""
    if config.kind not in TASK.kinds:
        return ("knn",)
    names = ClassNames.read(checkpoint, count=config.head.classes)
    return SETS if names is not None and names.several else ("top1", "top5")


EVALUATION = Evaluation(
    tuple(WORDS),
    _tables,
    _usual,
    windows=True,
    score=score_classes,
    scored=("top1", "top5", *SETS, VGGSOUNDER),
)
