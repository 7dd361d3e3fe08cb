"""Protocols ``pointing``, ``ciou-*`` and ``slavc-extended``: does a map show what sounds?

All of them are read off the same maps, from one pass. The whole frame is seen, squeezed to the model's size, and the
truth is drawn on it at 224 x 224.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from torch import Tensor

from avtool.data.catalog.flickr_soundnet import CONSENSUS
from avtool.data.dataset import PreparedDataset
from avtool.data.views import EvaluationViews, MixtureViews
from avtool.errors import DataError, UsageError
from avtool.features import inputs_of, other_sound, silence
from avtool.metrics.localization import (
    CIOU_THRESHOLDS,
    EVALUATION_SIZE,
    FIXED,
    SWEPT,
    Exchange,
    boxes_to_mask,
    centred_disc,
    ciou_adaptive,
    ciou_at,
    ciou_median,
    ciou_swept,
    consensus_map,
    exchange_sounds,
    ideal_map,
    pointing_hits,
)
from avtool.tasks import Evaluation
from avtool.tasks.context import Context
from avtool.tasks.localize import slavc
from avtool.tasks.localize.maps import choose_map, localization_map
from avtool.tasks.localize.negatives import negative_audio
from avtool.tasks.localize.prior import SHARE, load_prior, with_prior
from avtool.tasks.localize.slavc import PROTOCOL as SLAVC
from avtool.tasks.negatives import PROTOCOL as NEGATIVES
from avtool.tasks.table import CEILING, CONTROL, FLOOR, MODEL, UNTRAINED, Measure, Row, Table

Scores = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]
PRIOR = ("object prior", "")
CONTROLS = ("", slavc.EXCHANGED, UNTRAINED)
"""Whose maps every protocol scores: the model's ("") and its controls'."""
SMOOTHED = ", smoothed"
SMOOTHING = 1.0
"""Standard deviation of a smoothed map's Gaussian, in its own cells."""


def _shares(ciou: np.ndarray) -> dict[str, np.ndarray]:
    """Per image: whether cIoU is 0.5 or more, and its part of the area under the curve over thresholds."""
    passed = (ciou[:, None] >= CIOU_THRESHOLDS).astype(np.float64)
    return {"cIoU >= 0.5": passed[:, 10], "AUC": ((passed[:, 1:] + passed[:, :-1]) / 2).mean(axis=1)}


class Protocol(NamedTuple):
    """A protocol: ``score`` gives, of maps (N, rows, columns) and truth (N, H, W), the values (N,) of each measure;
    ``words`` is its rule as printed; ``ceiling`` adds a row in which the truth itself is the map."""

    score: Scores
    words: str
    ceiling: bool = False


PROTOCOLS = {
    "pointing": Protocol(
        lambda maps, truth: {"pointing": pointing_hits(maps, truth > 0)},
        "the highest cell lies inside the truth",
    ),
    "ciou-median": Protocol(
        lambda maps, truth: _shares(ciou_median(maps, truth)),
        "the upper half of the pixels is predicted",
        ceiling=True,
    ),
    "ciou-adaptive": Protocol(
        lambda maps, truth: _shares(ciou_adaptive(maps, truth)),
        "as many pixels are predicted as the truth has",
    ),
    "ciou-fixed": Protocol(
        lambda maps, truth: _shares(ciou_at(maps, truth)[0]),
        f"the pixels are predicted that reach {FIXED:g} of the map scaled to 0 to 1",
    ),
    "ciou-swept": Protocol(
        lambda maps, truth: _shares(ciou_swept(maps, truth)),
        f"the same at the best of {len(SWEPT)} thresholds, one for all maps of a row, chosen on what is judged: "
        "the most that a threshold can give",
    ),
}
USUAL = ("pointing", "ciou-median", "ciou-adaptive")


def evaluate_localization(context: Context, protocols: Sequence[str], *, smooth: bool = True) -> list[Table]:
    """A table a protocol: the context's ``maps``, as they are and smoothed, with the sound of another class (see
    ``exchange_sounds``), of untrained weights, and the blind disc; the ceiling where the protocol has one below 100 %.

    With an object prior in the context, all but the smoothed ones also mixed with it, and the prior alone.
    UsageError where ``slavc-extended`` is asked for maps that are no cosines, or of a single clip.
    """
    truth, clips, left_out = truth_of(context.dataset, context.chosen)
    labels = [context.dataset.record(int(i)).label_ids for i in clips]
    recordings = context.recordings(clips)
    exchange = exchange_sounds(labels, recordings, clips.tolist(), seed=context.seed)
    if exchange.sounds is None and SLAVC in protocols:
        raise UsageError(
            f"{SLAVC} takes the sounds of other clips, and there is one alone", hint="leave that protocol out"
        )
    judged = slavc.Judged(clips, truth, recordings, left_out, exchange)
    every = _maps(context, judged, of_slavc=SLAVC in protocols)
    if not context.world.main:
        return []
    objects = every.pop(PRIOR, None)
    maps = {key: found for key, found in every.items() if key[1] in CONTROLS}
    plain = tuple(maps)
    if smooth:
        maps |= {
            (f"{kind}{SMOOTHED}", control): smoothed(found)
            for (kind, control), found in maps.items()
            if control != UNTRAINED
        }
    context.predictions |= {
        "clips": clips,
        "truth": truth.astype(np.float16),
        "ids": np.array(context.ids(clips)),
    }
    context.predictions |= {
        f"{kind}: {control or 'model'}".replace(slavc.EXCHANGED, exchange.called): found
        for (kind, control), found in (every | maps).items()
    }
    if objects is not None:
        context.predictions["object prior"] = objects
    return [
        slavc.slavc_table(context, every, judged)
        if name == SLAVC
        else _table(context, maps, judged, name=name, plain=plain, objects=objects)
        for name in protocols
    ]


def _table(
    context: Context,
    maps: Mapping[tuple[str, str], np.ndarray],
    judged: slavc.Judged,
    *,
    name: str,
    plain: Sequence[tuple[str, str]],
    objects: np.ndarray | None,
) -> Table:
    """The table of ``maps`` (N, rows, columns), by kind and control, against what is ``judged`` by protocol ``name``;
    those that are ``plain`` also with the prior of ``objects`` (N, 7, 7)."""
    protocol, truth, recordings = PROTOCOLS[name], judged.truth, judged.recordings

    def measures(found: np.ndarray) -> dict[str, Measure]:
        scores = protocol.score(found, truth)
        return {measure: context.measured(values, recordings) for measure, values in scores.items()}

    def row(kind: str, control: str, found: np.ndarray) -> Row:
        name, role = (f"{kind}, {control}", CONTROL) if control else (kind, MODEL)
        return Row(name.replace(slavc.EXCHANGED, judged.exchange.called), role, measures(found))

    rows = [row(*key, found) for key, found in maps.items()]
    if objects is not None:
        rows += [
            row(f"{kind} with object prior", control, with_prior(maps[kind, control], objects))
            for kind, control in plain
        ]
        rows.append(Row("the object prior alone", FLOOR, measures(objects)))
    rows.append(
        Row("a centred disc", FLOOR, measures(np.broadcast_to(centred_disc(EVALUATION_SIZE), truth.shape)))
    )
    if name == "pointing":
        area = context.measured((truth > 0).mean(axis=(1, 2)), recordings)
        rows.append(Row("a point at random", FLOOR, {"pointing": area}))
        if (hits := object_hits(context.dataset, judged.clips, truth)) is not None:
            rows.append(Row("an object at random", FLOOR, {"pointing": context.measured(hits, recordings)}))
    if protocol.ceiling:
        rows.append(Row("the truth itself", CEILING, measures(ideal_map(truth))))
    words = f"{protocol.words}; truth at {EVALUATION_SIZE[0]}x{EVALUATION_SIZE[1]}, maps upsampled bilinearly"
    if any(kind.endswith(SMOOTHED) for kind, _ in maps):
        words += f"; smoothed: by a Gaussian of {SMOOTHING:g} cell"
    if objects is not None:
        words += f"; object prior: {SHARE:g} of the map and {1 - SHARE:g} of the prior, each scaled to 0 to 1"
    notes = judged.exchange.notes
    return context.table("localize", name, words, rows, recordings, left_out=judged.left_out, notes=notes)


def truth_of(
    dataset: PreparedDataset, chosen: np.ndarray, *, empty: bool = False
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Truth float64 (N, 224, 224) of the clips that have boxes, their numbers, and how many have none. ``empty``: also
    of those whose mask says that nothing in view sounds.

    It is the union of a clip's boxes; where its ``view`` says {"truth": "consensus"}, as of boxes by several
    annotators, min(1, their sum / 2). DataError where none has.
    """
    truths, clips = [], []
    for i in chosen:
        boxes = dataset.record(int(i)).boxes
        view = dataset.facts(int(i)).get("view") if len(boxes) else None
        agreed = isinstance(view, dict) and view.get("truth") == CONSENSUS["truth"]
        union = boxes_to_mask(EVALUATION_SIZE, boxes, whole_pixels=True).astype(np.float64)
        truth = consensus_map(EVALUATION_SIZE, boxes) if agreed else union
        if truth.any() or (empty and (mask := dataset.mask(int(i))) is not None and not mask.any()):
            truths.append(truth)
            clips.append(i)
    if not clips:
        raise DataError(
            f"{dataset.folder}: no clip of split {dataset.split} has boxes to point at",
            hint="prepare data with boxes: avtool prepare synth",
        )
    return np.stack(truths), np.array(clips), {"without a box": len(chosen) - len(clips)}


def object_hits(dataset: PreparedDataset, clips: np.ndarray, truth: np.ndarray) -> np.ndarray | None:
    """The share (N,) of a clip's objects in view, silent ones too, whose middle lies inside the ``truth`` (N, H, W):
    who knows objects by sight alone points to one of them. None where a clip's ``view`` is no list of their boxes."""
    told = [dataset.facts(int(i)).get("view") for i in clips]
    views = [
        view for view in told if view and isinstance(view, list) and all("box" in thing for thing in view)
    ]
    if len(views) < len(clips):
        return None
    rows, columns = truth.shape[1:]
    shares = []
    for view, inside in zip(views, truth > 0, strict=True):
        boxes = np.array([thing["box"] for thing in view])
        x, y = (boxes[:, :2] + boxes[:, 2:]).T / 2
        shares.append(inside[(y * rows).astype(int), (x * columns).astype(int)].mean())
    return np.array(shares)


def smoothed(maps: np.ndarray) -> np.ndarray:
    """Maps (N, rows, columns) under a Gaussian of ``SMOOTHING`` cells, reflected at the edges."""
    return np.stack(
        [cv2.GaussianBlur(found, (0, 0), SMOOTHING, borderType=cv2.BORDER_REFLECT) for found in maps]
    )


def _maps(context: Context, judged: slavc.Judged, *, of_slavc: bool) -> dict[tuple[str, str], np.ndarray]:
    """Maps float32 (N, rows, columns) by kind and control ("": none), with ``of_slavc`` also those that this protocol
    takes for sounds which are not of the frame; ``PRIOR``: the object prior's, where there is one."""
    prior = None if context.object_prior is None else load_prior(context.object_prior).to(context.device)
    model, log_mel = context.load()
    kinds = [choose_map(model, kind) for kind in context.maps] or [choose_map(model, None)]
    if of_slavc:
        slavc.check_cosines(context, kinds)
    untrained, clips, sounds = context.untrained(), judged.clips, judged.exchange.sounds

    def compute(batch: dict[str, Tensor]) -> dict[tuple[str, str], Tensor]:
        image, own = inputs_of(log_mel, batch)
        ways = [("", model, own), (UNTRAINED, untrained, own)]
        if sounds is not None:
            other = other_sound(log_mel, batch)
            ways.insert(1, (slavc.EXCHANGED, model, other))
        if of_slavc:
            ways += [
                (slavc.SILENT, model, silence(own)),
                (slavc.UNTRAINED_EXCHANGED, untrained, other),
                (slavc.UNTRAINED_SILENT, untrained, silence(own)),
            ]
        found = {
            (kind, control): localization_map(used, image, sound, kind=kind)
            for kind in kinds
            for control, used, sound in ways
        }
        return found if prior is None else found | {PRIOR: prior(image)}

    whole = EvaluationViews(context.dataset, **context.view_size(), whole=True)
    if sounds is None:
        return context.each(whole, clips, compute)
    mixed = MixtureViews(whole, np.stack([clips, clips[sounds]], axis=1))
    return context.each(mixed, np.arange(len(clips)), compute)


def score_maps(context: Context, protocols: Sequence[str]) -> list[Table]:
    """A table a protocol of the maps ``given`` in the context, any size alike, higher where the sound is located."""
    given = context.read_given("maps", "(?!.*smoothed).*: model")
    truth, clips, left_out = truth_of(context.dataset, context.chosen)
    ids = context.ids(clips)
    has = given.there(ids)
    clips, truth, left_out = clips[has], truth[has], left_out | {"without a prediction": int((~has).sum())}
    first = given.one(ids[int(has.argmax())], "the map", 2)
    maps = np.stack(
        [given.one(name, "the map", 2, first) for name, there in zip(ids, has, strict=True) if there]
    )
    judged = slavc.Judged(clips, truth, context.recordings(clips), left_out, Exchange(None, ""))
    return [
        _table(context, {("map", ""): maps}, judged, name=name, plain=(), objects=None) for name in protocols
    ]


def _tables(context: Context, protocols: Sequence[str]) -> list[Table]:
    with_truth = [name for name in protocols if name != NEGATIVES]
    tables = evaluate_localization(context, with_truth) if with_truth else []
    if NEGATIVES in protocols:
        tables += negative_audio(context, *truth_of(context.dataset, context.chosen, empty=True))
    return tables


EVALUATION = Evaluation(
    (*PROTOCOLS, SLAVC, NEGATIVES),
    _tables,
    usual=lambda config, checkpoint: USUAL,
    maps=True,
    object_prior=tuple(PROTOCOLS),
    score=score_maps,
    scored=tuple(PROTOCOLS),
)
"""Usual are not ``slavc-extended`` and ``negative-audio``, which make sounds of their own, so that no maps can be given
for them: the one needs cosines, the other clips that are not judged."""
