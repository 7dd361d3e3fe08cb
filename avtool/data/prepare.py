"""Preparation: the raw files of a data set become tar shards with an index, and a report of every row.

Every row of the source ends in exactly one of prepared, refused and missing; nothing is replaced by another
sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avtool import places
from avtool.data import catalog
from avtool.data.convert import PreparedClip, Rejected, Settings, convert
from avtool.data.shards import DATASET_JSON, ShardWriter, seal, shard_path, write_json
from avtool.errors import UsageError
from avtool.files import atomic_folder, check_output
from avtool.progress import progress_bar

REPORT_JSON = "report.json"
RENDERED = "source"
"""Where a data set that avtool makes itself is kept within the prepared folder."""


@dataclass
class Report:
    """What became of the rows: counts, and for every reason and flag the ids it holds for."""

    name: str
    out: Path
    prepared: int = 0
    refused: int = 0
    missing: int = 0
    flagged: int = 0
    ids: dict[str, list[str]] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)

    def count(self, outcome: PreparedClip | Rejected) -> None:
        """Add one row to the report."""
        if isinstance(outcome, PreparedClip):
            self.prepared += 1
            self.flagged += bool(outcome.flags)
            self._note(outcome.row.id, *outcome.flags)
            return
        self.missing += outcome.missing
        self.refused += not outcome.missing
        self._note(outcome.row.id, outcome.reason)
        if not outcome.missing:
            self.details[outcome.row.id] = outcome.detail

    def _note(self, id: str, *reasons: str) -> None:
        for reason in reasons:
            self.ids.setdefault(reason, []).append(id)

    def counts(self) -> dict[str, int]:
        """{prepared, refused, missing, flagged}."""
        return {name: getattr(self, name) for name in ("prepared", "refused", "missing", "flagged")}

    def as_dict(self) -> dict[str, Any]:
        """The counts, ``reasons`` (name to number of rows, flags and refusals alike) and ``out``."""
        reasons = {name: len(ids) for name, ids in sorted(self.ids.items())}
        return {"name": self.name, **self.counts(), "reasons": reasons, "out": str(self.out)}


def prepare(
    name: str,
    source: Path | None = None,
    *,
    out: Path | None = None,
    force: bool = False,
    clips: int = 400,
    seed: int = 0,
) -> Report:
    """Prepare data set ``name`` of the catalog from its raw files and return what became of its rows.

    ``source``: the folder of the raw files (``manifest``: the csv), by default $AVTOOL_DATA/NAME; ``synth``
    has none: ``clips`` clips are rendered from ``seed`` into OUT/source. ``out``: by default
    $AVTOOL_DATA/prepared/NAME (``manifest``: the csv's name, or its folder's where it is called
    manifest.csv). OUT is written under a temporary name and renamed at the end. Raises UsageError, DataError
    or TableError before any clip is read.
    """
    catalog.check_name(name)
    if source is None and name == "manifest":
        raise UsageError(
            "manifest needs the csv that lists the clips", hint="avtool prepare manifest FILE.csv"
        )
    if source is not None and name == "synth":
        raise UsageError(
            f"synth is rendered, it takes no source ({source})", hint="avtool prepare synth --out DIR"
        )
    called = name if name != "manifest" else _name_of(source)
    out = places.prepared_folder(called) if out is None else out
    check_output(out, force=force, markers=(DATASET_JSON,))
    source = places.source_folder(name) if source is None else source
    report = Report(called, out)
    settings = Settings()
    with atomic_folder(out) as folder:
        source = folder / RENDERED if name == "synth" else source
        _write(
            folder,
            catalog.read_source(name, source, catalog.Request(clips=clips, seed=seed)),
            settings,
            report,
        )
    return report


def _name_of(table: Path) -> str:
    """The name of a manifest's data set: the csv's, or its folder's where the csv is called manifest."""
    return table.stem if table.stem != "manifest" else table.absolute().parent.name


def _write(folder: Path, source: catalog.Source, settings: Settings, report: Report) -> None:
    """Convert every row, shard by shard, and write shards, index and report into ``folder``."""
    rows, splits = source.rows, sorted({row.split for row in source.rows})
    parts, shards = [], []
    with progress_bar(f"preparing {report.name}", total=len(rows), unit="clips") as bar:
        for first in range(0, len(rows), settings.rows_per_shard):
            number = first // settings.rows_per_shard
            path = shard_path(folder, number)
            with ShardWriter(path, number, settings, source.classes, splits) as shard:
                for position in range(first, min(first + settings.rows_per_shard, len(rows))):
                    outcome = convert(rows[position], settings)
                    report.count(outcome)
                    if isinstance(outcome, PreparedClip):
                        shard.add(position, outcome)
                    bar.advance()
            parts.append(shard.part.packed())
            shards.append(shard.facts())
    seal(
        folder,
        parts,
        shards,
        name=report.name,
        settings=settings,
        classes=source.classes,
        splits=splits,
        counts=report.counts(),
    )
    text = {"name": report.name, **report.counts(), "reasons": dict(sorted(report.ids.items()))}
    write_json(folder / REPORT_JSON, {**text, "details": report.details, "notes": source.notes})
