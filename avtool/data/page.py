"""report.html: what became of a data set, for a person to read. One static file: no scripts, nothing fetched."""

import base64
from collections.abc import Iterator
from itertools import islice, zip_longest

import numpy as np

from avtool.data.convert import thumbnail
from avtool.data.dataset import PreparedDataset
from avtool.data.report import Report
from avtool.html import render

THUMBNAILS = 200
IDS = 100
CLASSES = 1000
BINS = 20


def page(report: Report, dataset: PreparedDataset | None) -> str:
    """The page of ``report``, with pictures out of ``dataset`` (None: nothing was prepared).

    Bounded for a data set of any size: at most 200 pictures, 100 ids for each reason, 1,000 classes; what is
    left out is said.
    """
    return render(
        "data",
        report=report,
        rows=report.prepared + report.refused + report.missing,
        dataset=dataset,
        **({} if dataset is None else _charts(dataset)),
        reasons=_reasons(report),
        most_ids=IDS,
        pictures=list(islice(_pictures(report, dataset), THUMBNAILS)),
    )


def _charts(dataset: PreparedDataset) -> dict[str, object]:
    """``hours``; ``durations``, in up to BINS ranges of a round width, and ``classes`` as (label, number of clips)."""
    durations, counts = dataset.durations(), dataset.class_counts()
    longest = float(durations.max())
    width = next(w for w in (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 600, 3600, 1e9) if longest <= w * BINS)
    binned = np.bincount((durations / width).astype(int))
    ranges = range(int(np.flatnonzero(binned)[0]), len(binned))
    most = np.argsort(-counts, kind="stable")[:CLASSES]
    return {
        "hours": durations.sum() / 3600,
        "durations": [(f"{k * width:g} to {(k + 1) * width:g}", int(binned[k])) for k in ranges],
        "classes": [(dataset.classes[k], int(counts[k])) for k in most],
    }


def _reasons(report: Report) -> list[tuple[str, str, list[str]]]:
    """Every reason, flag and note with its kind and the ids it holds for."""
    kinds = {flag: "flagged" for flags in report.flags.values() for flag in flags}
    kinds |= dict.fromkeys(report.notes, "annotations")
    found = sorted({**report.ids, **report.notes}.items())
    return [(reason, kinds.get(reason, "left out"), ids) for reason, ids in found]


def _pictures(report: Report, dataset: PreparedDataset | None) -> Iterator[tuple[str, str, str]]:
    """(id, what was found, JPEG in base64) of refused and flagged clips, in turns."""
    reasons = {id: reason for reason, ids in report.ids.items() for id in ids}
    flagged = report.flags.items() if dataset is not None else ()
    for refused, prepared in zip_longest(report.thumbnails.items(), flagged):
        if refused is not None:
            yield refused[0], reasons[refused[0]], refused[1]
        if prepared is not None and dataset is not None:
            record = dataset.record(prepared[0])
            picture = thumbnail(dataset.frame(prepared[0], record.key))
            yield record.id, ", ".join(prepared[1]), base64.b64encode(picture).decode()
