"""Protocol ``vggsounder``: what a model of VGGSound's classes names, against all that a clip sounds like and shows.

VGGSounder (Zverev et al., ICCV 2025) labels VGGSound's test clips anew: several classes a clip, each audible (A),
visible (V) or both (AV), and whether there is background music, a still picture or a voice over. The labels come with
the package ``vggsounder``, which is looked for and not imported, or as a csv of this form.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from avtool.data.catalog import tables
from avtool.data.names import listed, matched
from avtool.errors import DataError, UsageError
from avtool.metrics.classification import top_is_true
from avtool.tasks.context import Context
from avtool.tasks.table import CEILING, CONTROL, FLOOR, MODEL, Measure, Row, Table

PROTOCOL = "vggsounder"
FILE = "data/vggsounder+background-music.csv"
COLUMNS = ("video_id", "label", "modality")
META = ("background_music", "static_image", "voice_over")
SETS = {
    "sound": ("A", "AV"),
    "picture": ("V", "AV"),
    "both": ("AV",),
    "sound only": ("A",),
    "picture only": ("V",),
}
"""Sets of labels by their modality, of which a clip needs at least one."""
BY_META = ("sound", "picture", "both")
DRAWS = 1000
WORDS = (
    "hit: the class that scores highest is one of the clip's labels; F1: of this one class a clip and all labels, over "
    "all clips and classes together"
)


class Labels(NamedTuple):
    """By clip the modality of each label, and its meta labels; ``source`` is where they come from."""

    of: dict[str, dict[str, str]]
    meta: dict[str, set[str]]
    source: str


def read_labels(path: Path | None) -> Labels:
    """Those of the csv ``path``, or of the package (None). UsageError where it is not installed, TableError for another
    csv."""
    source = str(path)
    if path is None:
        spec = find_spec("vggsounder")
        if spec is None or not spec.submodule_search_locations:
            raise UsageError(
                "protocol vggsounder needs the labels of the package vggsounder, which is not installed",
                hint="pip install vggsounder, or name a csv of the same form: --vggsounder CSV",
            )
        path, source = Path(spec.submodule_search_locations[0]) / FILE, f"package {version('vggsounder')}"
    of, meta = defaultdict[str, dict[str, str]](dict), defaultdict[str, set[str]](set)
    for line in tables.read_headed(path, (*COLUMNS, *META), hint="take the csv of the package vggsounder"):
        if line["modality"] not in ("A", "V", "AV"):
            raise line.error(f"modality is {line['modality']}", hint="it is A, V or AV")
        of[line["video_id"]][line["label"]] = line["modality"]
        meta[line["video_id"]] |= {name for name in META if line[name].lower() == "true"}
    return Labels(dict(of), meta, source)


def _labels(context: Context) -> Labels:
    """Those of the context, read once for all groups of clips."""
    if PROTOCOL not in context.shared:
        context.shared[PROTOCOL] = read_labels(context.vggsounder)
    labels: Labels = context.shared[PROTOCOL]
    return labels


def labelled(context: Context, classes: Sequence[str]) -> tuple[np.ndarray, dict[str, int]]:
    """The context's clips that have a label of ``classes``, and how many have none. DataError where none has."""
    labels = _labels(context)
    known = matched({label for of in labels.of.values() for label in of}, classes)
    ids = context.ids(context.chosen)
    has = np.array([any(label in known for label in labels.of.get(name, ())) for name in ids], bool)
    if not has.any():
        raise DataError(
            f"VGGSounder ({labels.source}) labels none of the clips by a class that is known, as {listed(ids, 2)}",
            hint="judge VGGSound's split test, with clips named ID_START, by a model of its classes",
        )
    return context.chosen[has], {"without a label of VGGSounder": int((~has).sum())}


def tables_of(
    context: Context,
    classes: Sequence[str],
    scores: Mapping[str, np.ndarray],
    clips: np.ndarray,
    *,
    heard: str,
    seen: str,
    left_out: Mapping[str, int],
    notes: Sequence[str],
) -> list[Table]:
    """Tables by set of labels, of confused modalities, and by meta label, of ``scores`` (N, C) of ``clips`` (N,) by
    row: the first with both inputs, ``heard`` and ``seen`` with the sound and the picture alone."""
    ids, labels = context.ids(clips), _labels(context)
    known = matched({label for name in ids for label in labels.of[name]}, classes)
    number = {name: k for k, name in enumerate(classes)}
    modality = np.full((len(clips), len(classes)), "", "<U2")
    for row, name in enumerate(ids):
        for label, kind in labels.of[name].items():
            if label in known:
                modality[row, number[known[label]]] = kind
    meta = {name: np.array([name in labels.meta[clip] for clip in ids], bool) for name in META}
    alone = {kind: int(np.isin(modality, ["", kind]).all(axis=1).sum()) for kind in "AV"}
    notes = [
        f"Of {len(clips)} clips {alone['A']} have labels that are audible alone and {alone['V']} visible alone "
        f"(VGGSounder, {labels.source}).",
        *notes,
    ]

    def table(context: Context, kinds: str, which: np.ndarray, notes: Sequence[str] = ()) -> Table:
        targets = np.isin(modality, SETS[kinds]) & which[:, None]
        there = targets.any(axis=1)
        targets, recordings = targets[there], context.recordings(clips[there])
        count = targets.sum(axis=1)

        def row(name: str, role: str, hits: np.ndarray) -> Row:
            def f1(chosen: np.ndarray) -> float:
                return 2 * hits[chosen].sum() / (len(chosen) + count[chosen].sum())

            measures: dict[str, Measure] = {"hit": context.measured(hits, recordings)}
            return Row(name, role, measures | {"F1": context.measured_whole(f1, recordings, draws=DRAWS)})

        blanked = (heard, seen)
        rows = [
            row(name, CONTROL if name in blanked else MODEL, top_is_true(values[there], targets))
            for name, values in scores.items()
        ]
        shares = np.broadcast_to(targets.mean(axis=0), targets.shape) if len(targets) else targets
        rows.append(row("always the commonest class", FLOOR, top_is_true(shares, targets)))
        rows.append(row("always one right class", CEILING, np.ones(len(targets))))
        out = {**left_out, f"without a label of this set: {kinds}": int((which & ~there).sum())}
        words = f"{WORDS}; labels: {' and '.join(SETS[kinds])}"
        name = f"{PROTOCOL}, {kinds}"
        return context.table("classify", name, words, rows, recordings, left_out=out, notes=notes)

    everyone = np.ones(len(clips), bool)
    found = [table(context, kinds, everyone, notes) for kinds in SETS]
    if heard in scores and seen in scores:
        hits = [top_is_true(values, modality != "") > 0.5 for values in (scores[heard], scores[seen])]
        missed = top_is_true(next(iter(scores.values())), modality != "") <= 0.5
        confused = {
            heard: hits[0] & missed,
            seen: hits[1] & missed,
            "both of these": hits[0] & hits[1] & missed,
        }
        recordings = context.recordings(clips)
        rows = [
            Row(name, MODEL, {"confused": context.measured(values, recordings)})
            for name, values in confused.items()
        ]
        words = "one input alone hits a label, of any modality, and both inputs together do not; 0 is best"
        found.append(
            context.table("classify", f"{PROTOCOL}, confusion", words, rows, recordings, left_out=left_out)
        )
    for kinds in BY_META:
        for name, which in {**meta, "none of these": ~np.any(list(meta.values()), axis=0)}.items():
            group = {**context.group, "meta label": name.replace("_", " ")}
            found.append(table(replace(context, group=group), kinds, which))
    return found
