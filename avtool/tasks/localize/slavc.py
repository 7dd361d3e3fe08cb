"""Protocol ``slavc-extended``: does a map also know when nothing in view sounds?"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from avtool.errors import UsageError
from avtool.metrics.localization import (
    ANOTHER_CLASS,
    Exchange,
    centred_disc,
    ciou_median,
    ideal_map,
    slavc_confidence,
    slavc_extended,
)
from avtool.model.localization import UNIMODAL
from avtool.tasks.context import Context
from avtool.tasks.table import CEILING, CONTROL, FLOOR, MODEL, UNTRAINED, Row, Table

PROTOCOL = "slavc-extended"
EXCHANGED, SILENT = ANOTHER_CLASS, "silence"
UNTRAINED_EXCHANGED, UNTRAINED_SILENT = f"{UNTRAINED}, {EXCHANGED}", f"{UNTRAINED}, {SILENT}"
ROWS = {
    "": ("", EXCHANGED, SILENT),
    EXCHANGED: (EXCHANGED, "", SILENT),
    UNTRAINED: (UNTRAINED, UNTRAINED_EXCHANGED, UNTRAINED_SILENT),
}
"""By control ("": none), the maps taken for those with the sound of what is in view, with one from off the screen, and
with none."""
MEASURES = {"AP": "ap", "max F1": "max_f1", "LocAcc": "loc_acc"}
NO_LARGE_BOX = "No box here covers a quarter of its frame: this protocol tells nothing of such data."
DRAWS = 200
WORDS = (
    "every frame is judged three times: with its own sound, and, as off-screen and silent sources that have nothing to "
    "find, with another class's sound and with silence. These negatives are made here of the same clips, they are not "
    "the published lists. Confidence is the mean of the top quarter of (cos + 1) / 2, the upper half of the pixels is "
    "predicted; a map is right where confidence reaches a threshold and cIoU 0.5; LocAcc: share of frames with their "
    "own sound whose cIoU is above 0.5"
)


class Judged(NamedTuple):
    """What maps are held against: the numbers of ``clips`` (N,), their ``truth`` float64 (N, H, W), what each was
    recorded in, how many others are ``left_out``, by reason, and the ``exchange`` of their sounds."""

    clips: np.ndarray
    truth: np.ndarray
    recordings: list[str]
    left_out: dict[str, int]
    exchange: Exchange


def check_cosines(context: Context, kinds: Sequence[str]) -> None:
    """UsageError for ``kinds`` of map whose values are no cosines: their height says nothing about confidence."""
    own = ("trained",) if getattr(context.config.head, "encoding", "") == UNIMODAL else ()
    if others := [kind for kind in kinds if kind not in ("cosine", *own)]:
        raise UsageError(
            f"{PROTOCOL} takes its confidence from cosines, and this model's {others[0]} map holds none",
            hint=f"--map {','.join((*own, 'cosine'))}",
        )


def slavc_table(context: Context, maps: Mapping[tuple[str, str], np.ndarray], judged: Judged) -> Table:
    """The table of ``maps`` (N, rows, columns) of cosines, by kind and by who hears what (``ROWS``), against the truth
    of what is ``judged``: each kind as it is, with the frame's own sound and another's exchanged, and of untrained
    weights, beside the blind disc, which is equally sure of everything, and the truth, which is sure of what has boxes
    alone."""
    truth, exchange = judged.truth, judged.exchange

    def row(name: str, role: str, confidence: np.ndarray, ciou: np.ndarray) -> Row:
        nothing = np.full_like(ciou, np.nan)
        found = np.stack([ciou, nothing, nothing], axis=1)

        def statistic(measure: str, chosen: np.ndarray) -> float:
            scores = slavc_extended(confidence[chosen].ravel(), found[chosen].ravel())
            return float(getattr(scores, measure))

        return Row(
            name.replace(EXCHANGED, exchange.called),
            role,
            {
                shown: context.measured_whole(partial(statistic, measure), judged.recordings, draws=DRAWS)
                for shown, measure in MEASURES.items()
            },
        )

    rows = []
    for kind in dict.fromkeys(kind for kind, _ in maps):
        for control, (seen, *negatives) in ROWS.items():
            confidence = np.stack([slavc_confidence(maps[kind, of]) for of in (seen, *negatives)], axis=1)
            name, role = (f"{kind}, {control}", CONTROL) if control else (kind, MODEL)
            rows.append(row(name, role, confidence, ciou_median(maps[kind, seen], truth)))
    disc = np.broadcast_to(centred_disc((truth.shape[1], truth.shape[2])), truth.shape)
    sure, of_own = np.ones((len(truth), 3)), np.tile([1.0, 0.0, 0.0], (len(truth), 1))
    rows.append(row("a centred disc", FLOOR, sure, ciou_median(disc, truth)))
    rows.append(row("the truth itself", CEILING, of_own, ciou_median(ideal_map(truth), truth)))
    nothing = not rows[-1].measures["LocAcc"].value
    words, notes = WORDS.replace(EXCHANGED, exchange.called), [*exchange.notes, *[NO_LARGE_BOX] * nothing]
    recordings, left_out = judged.recordings, judged.left_out
    return context.table("localize", PROTOCOL, words, rows, recordings, left_out=left_out, notes=notes)
