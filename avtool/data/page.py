"""report.html: what became of a data set, for a person to read. One static file: no scripts, nothing fetched."""

import base64
from collections.abc import Iterator
from itertools import chain, islice, zip_longest
from pathlib import Path

import numpy as np

from avtool.data.convert import thumbnail
from avtool.data.dataset import PreparedDataset
from avtool.data.report import Report

THUMBNAILS = 200
IDS = 100
CLASSES = 1000
BINS = 20
CHARACTERS = 300
"""At most so much of an id, a label or a sentence is shown."""


def page(report: Report, dataset: PreparedDataset | None) -> str:
    """The page of ``report``, with pictures out of ``dataset`` (None: nothing was prepared).

    Bounded for a data set of any size: at most 200 pictures, 100 ids for each reason, 1,000 classes; what is
    left out is said.
    """
    from jinja2 import Environment, StrictUndefined

    html = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    html.filters |= {"cut": _cut, "number": lambda count: f"{count:,}"}
    template = html.from_string(Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8"))
    charts = {} if dataset is None else _charts(dataset)
    return template.render(
        report=report,
        rows=report.prepared + report.refused + report.missing,
        dataset=dataset,
        **charts,
        reasons=list(_reasons(report)),
        most_ids=IDS,
        pictures=_pictures(report, dataset),
    )


def _cut(text: str) -> str:
    return text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]}…"


def _charts(dataset: PreparedDataset) -> dict[str, object]:
    """``hours``; ``durations`` and ``classes`` as (label, number of clips)."""
    counts = dataset.class_counts()
    order = np.argsort(-counts, kind="stable")[:CLASSES]
    return {
        "hours": dataset.durations().sum() / 3600,
        "durations": _binned(dataset.durations()),
        "classes": [(dataset.classes[k], int(counts[k])) for k in order],
    }


def _binned(durations: np.ndarray) -> list[tuple[str, int]]:
    """(range, number of clips) for up to BINS ranges of a round width."""
    longest = float(durations.max())
    width = next(w for w in (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 600, 3600, 1e9) if longest <= w * BINS)
    counts = np.bincount((durations / width).astype(int))
    low, high = int(np.flatnonzero(counts)[0]), len(counts)
    return [(f"{k * width:g} to {(k + 1) * width:g}", int(counts[k])) for k in range(low, high)]


def _reasons(report: Report) -> Iterator[tuple[str, str, list[str]]]:
    """Every reason, flag and note with its kind and the ids it holds for."""
    flags = {flag for found in report.flags.values() for flag in found}
    for reason, ids in sorted({**report.ids, **report.notes}.items()):
        yield (
            reason,
            "annotations" if reason in report.notes else "flagged" if reason in flags else "left out",
            ids,
        )


def _pictures(report: Report, dataset: PreparedDataset | None) -> list[tuple[str, str, str]]:
    """(id, what was found, JPEG in base64) of refused and flagged clips, in turns."""
    reasons = {id: reason for reason, ids in report.ids.items() for id in ids}
    refused = ((id, reasons[id], data) for id, data in report.thumbnails.items())
    flagged = (_flagged(dataset, i, flags) for i, flags in report.flags.items() if dataset is not None)
    both = chain.from_iterable(zip_longest(refused, flagged))
    return list(islice(filter(None, both), THUMBNAILS))


def _flagged(dataset: PreparedDataset, i: int, flags: list[str]) -> tuple[str, str, str]:
    record = dataset.record(i)
    data = base64.b64encode(thumbnail(dataset.frame(i, record.key))).decode()
    return record.id, ", ".join(flags), data
