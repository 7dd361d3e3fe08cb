"""report.html: what became of a data set, for a person to read. One static file: no scripts, nothing fetched."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from html import escape
from itertools import chain, islice, zip_longest

import numpy as np

from avtool.data.convert import thumbnail
from avtool.data.dataset import PreparedDataset
from avtool.data.report import COUNTS, Report

THUMBNAILS = 200
IDS = 100
CLASSES = 1000
BINS = 20
CHARACTERS = 300
"""At most so much of an id, a label or a sentence is shown."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem;
  color: #1d2430; background: #fff }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
p, small { color: #5b6575 } table { border-collapse: collapse; width: 100% }
td { padding: .1rem .8rem .1rem 0; vertical-align: top } td.n { text-align: right; width: 5rem }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem }
.tiles div { flex: 1; min-width: 7rem; padding: .6rem 1rem; border: 1px solid #d8dde5; border-radius: .5rem }
.tiles b { display: block; font-size: 1.6rem; font-weight: 600 }
.bar { display: block; height: .8rem; margin-top: .35rem; background: #3b6fb5; border-radius: .15rem;
  min-width: 1px }
td.label { width: 16rem }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: .8rem }
figure { margin: 0; overflow-wrap: anywhere; font-size: .8rem; line-height: 1.3 }
figure img { display: block; width: 100%; height: 110px; object-fit: contain; background: #eef1f5;
  border-radius: .3rem; margin-bottom: .25rem }
details { margin: .3rem 0 } summary { cursor: pointer } li { overflow-wrap: anywhere }
@media (prefers-color-scheme: dark) {
  body { color: #e3e7ee; background: #14181f } p, small { color: #98a2b3 }
  .tiles div { border-color: #333b48 } figure img { background: #222833 } .bar { background: #6a9be0 } }
"""


def page(report: Report, dataset: PreparedDataset | None) -> str:
    """The page of ``report``, with pictures out of ``dataset`` (None: nothing was prepared).

    Bounded for a data set of any size: at most 200 pictures, 100 ids for each reason, 1,000 classes; what is
    left out is said.
    """
    rows = report.prepared + report.refused + report.missing
    parts = [
        f"<h1>{_shown(report.name)}</h1>",
        f"<p>{rows:,} rows, each of them prepared, refused or missing; flagged clips are prepared all the same.</p>",
        _tiles(report),
        *(_histograms(report, dataset) if dataset is not None else ()),
        *_reasons(report),
        *_pictures(report, dataset),
    ]
    title = f"<title>{_shown(report.name)}: what was prepared</title>"
    view = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head = f"<head>{view}{title}<style>{STYLE}</style></head>"
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en">{head}<body>\n{body}\n</body></html>\n'


def _tiles(report: Report) -> str:
    tiles = "".join(f"<div><b>{getattr(report, name):,}</b>{name}</div>" for name in COUNTS)
    return f'<div class="tiles">{tiles}</div>'


def _histograms(report: Report, dataset: PreparedDataset) -> Iterator[str]:
    hours = dataset.durations().sum() / 3600
    yield f"<h2>Clips</h2><p>{len(dataset):,} clips, {hours:,.2f} hours{_rate(report)}</p>"
    yield _bars(dataset.splits.items())
    yield "<h2>Durations in seconds</h2>"
    yield _bars(_binned(dataset.durations()))
    counts = dataset.class_counts()
    order = np.argsort(-counts, kind="stable")
    yield f"<h2>Classes</h2><p>{len(counts):,} classes, the most frequent first</p>"
    yield _bars((dataset.classes[k], int(counts[k])) for k in order[:CLASSES])
    yield _left_out(len(counts) - CLASSES, "classes")


def _rate(report: Report) -> str:
    stored = report.stored()
    return f", {stored['bytes'] / 1e6:,.1f} MB: {stored['bytes_per_second']:,.0f} bytes a second of a clip"


def _shown(text: str) -> str:
    """Text as HTML, cut where it is long."""
    return escape(text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]}…")


def _binned(durations: np.ndarray) -> list[tuple[str, int]]:
    """(range, number of clips) for up to BINS ranges of a round width."""
    longest = float(durations.max())
    width = next(w for w in (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 600, 3600, 1e9) if longest <= w * BINS)
    counts = np.bincount((durations / width).astype(int))
    low, high = int(np.flatnonzero(counts)[0]), len(counts)
    return [(f"{k * width:g} to {(k + 1) * width:g}", int(counts[k])) for k in range(low, high)]


def _bars(items: Iterable[tuple[str, int]]) -> str:
    items = list(items)
    most = max((count for _, count in items), default=0) or 1
    lines = [
        f'<tr><td class="label">{_shown(label)}</td><td class="n">{count:,}</td>'
        f'<td><span class="bar" style="width:{100 * count / most:.1f}%"></span></td></tr>'
        for label, count in items
    ]
    return f"<table>{''.join(lines)}</table>"


def _reasons(report: Report) -> Iterator[str]:
    """Every reason and flag with its count and, to unfold, the ids."""
    named = {**report.ids, **report.notes}
    yield "<h2>What was found</h2>" if named else "<h2>What was found</h2><p>Nothing to remark.</p>"
    flags = {flag for found in report.flags.values() for flag in found}
    for reason, ids in sorted(named.items()):
        kind = "annotations" if reason in report.notes else "flagged" if reason in flags else "left out"
        lines = [f"<li>{_shown(id)}{_detail(report, id, reason in flags)}</li>" for id in ids[:IDS]]
        yield (
            f"<details><summary>{_shown(reason)}: <b>{len(ids):,}</b> <small>{kind}</small></summary>"
            f"<ul>{''.join(lines)}</ul>{_left_out(len(ids) - IDS, 'rows')}</details>"
        )


def _detail(report: Report, id: str, is_flag: bool) -> str:
    return "" if is_flag or id not in report.details else f" <small>{_shown(report.details[id])}</small>"


def _pictures(report: Report, dataset: PreparedDataset | None) -> Iterator[str]:
    """Refused and flagged clips, in turns."""
    reasons = {id: reason for reason, ids in report.ids.items() for id in ids}
    refused = ((id, reasons[id], data) for id, data in report.thumbnails.items())
    flagged = (_flagged(dataset, i, flags) for i, flags in report.flags.items())
    both = chain.from_iterable(zip_longest(refused, flagged))
    shown = list(islice(filter(None, both), THUMBNAILS))
    if shown:
        yield "<h2>Refused and flagged</h2>" + _left_out(
            len(report.thumbnails) + len(report.flags) - len(shown), "pictures"
        )
        yield f'<div class="grid">{"".join(_figure(*entry) for entry in shown)}</div>'


def _flagged(dataset: PreparedDataset, i: int, flags: list[str]) -> tuple[str, str, str]:
    record = dataset.record(i)
    data = base64.b64encode(thumbnail(dataset.frame(i, record.key))).decode()
    return record.id, ", ".join(flags), data


def _figure(id: str, what: str, data: str) -> str:
    image = f'<img src="data:image/jpeg;base64,{data}" alt="">'
    return f"<figure>{image}{_shown(id)}<br><small>{_shown(what)}</small></figure>"


def _left_out(count: int, what: str) -> str:
    return f"<p>{count:,} more {what} are not shown: report.json has them.</p>" if count > 0 else ""
