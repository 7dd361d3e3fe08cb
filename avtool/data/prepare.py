"""Preparation: the raw files of a data set become tar shards with an index, and a report of every row.

Every row of the source ends in exactly one of prepared, refused and missing; nothing is replaced by another
sample. Clips are converted by worker processes and staged singly (``staging``); a shard is written when the
last of its rows is there, and the data set takes its place when the last shard is. So it can be stopped at any
moment and gone on with, by any number of processes or machines, and comes out the same.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import current_process
from pathlib import Path
from typing import Any

from avtool import media
from avtool.data import catalog, checks, workers
from avtool.data.convert import PreparedClip, Rejected, Settings, convert
from avtool.data.dataset import ALL, PreparedDataset
from avtool.data.job import Job, job_of
from avtool.data.page import page
from avtool.data.report import REPORT_HTML, REPORT_JSON, Report, rejection_bytes
from avtool.data.shards import DATASET_JSON, MADE_WITH, ShardWriter, clip_bytes, seal, shard_path, write_json
from avtool.errors import UsageError
from avtool.files import check_output, printable, put_in_place
from avtool.progress import progress_bar, say
from avtool.registry import DATASETS

RENDERED = "source"
"""Where a data set that avtool makes itself is kept within the prepared folder."""
MADE_FROM = "made_from.json"
"""The rows and settings of a finished data set, by which a part that comes late knows it."""
ENGINES = ("local", "ray")

Task = tuple[int, catalog.Row, list[str]]
"""A row by its number, and the flags known of it."""
Engine = Callable[[Callable[[Task], bytes], Iterable[Task]], Iterator[tuple[Task, bytes | workers.Crash]]]


def prepare(
    name: str,
    source: Path | None = None,
    *,
    out: Path | None = None,
    force: bool = False,
    clips: int = 400,
    seed: int = 0,
    subset: str | None = None,
    part: str | None = None,
    jobs: int | None = None,
    engine: str = "local",
    address: str | None = None,
) -> Report:
    """Prepare data set ``name`` of the catalog from its raw files and return what became of its rows.

    ``source``: the folder of the raw files (``manifest``: the csv), by default $AVTOOL_DATA/NAME; ``synth``
    has none: ``clips`` clips are rendered from ``seed`` into OUT/source. ``subset``: which part of a data set
    that has several. ``out``: by default $AVTOOL_DATA/prepared/NAME or NAME-SUBSET (``manifest``: the csv's
    name, or its folder's where it is called manifest.csv). ``jobs``: processes, by default one for each core.
    ``part``: "I/N", only that share of the shards; the last part to finish, or a call without ``part``,
    finishes OUT. ``engine``: "local", or "ray" with the ``address`` of a running cluster (None: on this
    machine).

    Until it is finished all is kept in OUT.unfinished: the same call goes on there; a part of what is finished
    already has nothing to do. Raises UsageError, DataError or TableError before any clip is read.
    """
    _check_not_in_a_worker()
    DATASETS.find(name)
    request = catalog.Request(clips=clips, seed=seed, subset=subset)
    job = job_of(name, source, out, request, part)
    run_all = _engine(engine, address, jobs, partial(job.staging.admit, force=force))
    if job.in_parts and not force and (finished := _finished(job)):
        return finished
    check_output(job.out, force=force, markers=(DATASET_JSON,))
    rows = None if job.renders else catalog.read_source(name, job.source, request)
    with job.staging.opened(job.plan(rows), job.part, force=force), _kept(job):
        rows = _rendered(job) if rows is None else rows
        _convert_all(job, rows, run_all)
        return _finish(job, rows)


def _check_not_in_a_worker() -> None:
    """End a worker that runs the caller's script as it starts: without a guard in it, each would prepare it all again.
    The process that started it says so, once."""
    if getattr(current_process(), "_inheriting", False):
        raise SystemExit(1)


def _finished(job: Job) -> Report | None:
    """The report of ``job.out`` where it is finished, and was made of the same rows in the same way. A part that does
    nothing may have tools of other versions; that is said."""
    try:
        made = json.loads((job.out / MADE_FROM).read_text(encoding="utf-8"))
        report = json.loads((job.out / REPORT_JSON).read_text(encoding="utf-8"))
        made_with = json.loads((job.out / DATASET_JSON).read_text(encoding="utf-8")).get(MADE_WITH) or [{}]
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    if made != _made_from(job, catalog.read_source(job.name, job.source, job.request)):
        return None
    others = (
        ""
        if media.tool_versions() in made_with
        else f", made with {' and '.join(map(media.tools_in_words, made_with))}"
    )
    say(f"{job.out} is finished already{others}")
    return Report.from_listing(report, job.out)


def _made_from(job: Job, rows: catalog.Source) -> dict[str, object]:
    """The plan without the places: what a finished data set was made of, and how."""
    return {
        key: value for key, value in job.plan(rows).items() if key not in ("source", "command", MADE_WITH)
    }


def _engine(
    engine: str, address: str | None, jobs: int | None, admit: Callable[[media.Tools, str], None]
) -> Engine:
    """What runs the work on every row, somewhere; a machine whose tools may be of other versions is admitted first."""
    if engine not in ENGINES:
        raise UsageError(f"unknown engine {engine}", hint=f"there are: {', '.join(ENGINES)}")
    if engine == "ray":
        from avtool.data import ray_engine

        ray_engine.check()
        return partial(ray_engine.run_all, jobs=jobs, address=address, admit=admit)
    if address is not None:
        raise UsageError(f"{address}: an address is that of a Ray cluster", hint="add --engine ray")
    return partial(workers.run_all, jobs=jobs or workers.cores())


def _rendered(job: Job) -> catalog.Source:
    """The rows of a data set that avtool makes itself; what an interrupted run left of it is made again."""
    folder = job.staging.whole / RENDERED
    manifest = folder / "manifest.csv"
    if manifest.is_file():
        return catalog.read_source("manifest", manifest, job.request)
    shutil.rmtree(folder, ignore_errors=True)
    return catalog.read_source(job.name, folder, job.request)


@contextmanager
def _kept(job: Job) -> Iterator[None]:
    """Say what is kept of a run that breaks off, and how to go on; where nothing was done, leave nothing."""
    try:
        yield
    except BaseException:
        staging = job.staging
        if staging.is_untouched() and not job.in_parts:
            staging.remove()
        elif staging.folder.is_dir():
            say(f"what was done is kept in {staging.folder}; to go on: {job.command(with_part=True)}")
        raise


# Rows to shards ----------------------------------------------------------------------------------------


def _stage(settings: Settings, task: Task) -> bytes:
    """The work on one row, in whatever process: its outcome as it is staged."""
    number, row, flags = task
    outcome = convert(row, settings, flags)
    if isinstance(outcome, PreparedClip):
        return clip_bytes(number, outcome, settings)
    return _refused(outcome)


def _refused(outcome: Rejected) -> bytes:
    """A row that gave no clip, as it is staged; the paths in its detail are text from here on."""
    return rejection_bytes(replace(outcome, detail=printable(outcome.detail)))


def _convert_all(job: Job, source: catalog.Source, run_all: Engine) -> None:
    """Convert the rows of this part that are not done yet, and write every shard that is complete."""
    staging = job.staging
    flags = checks.row_flags(source.rows, source.classes)
    staged = staging.staged_rows()
    shards = [shard for shard in job.shards(source) if job.part.owns(shard)]
    unwritten = [shard for shard in shards if not staging.has_shard(shard)]
    left = {shard: {row for row in job.rows_of(shard, source) if row not in staged} for shard in unwritten}
    todo = ((row, source.rows[row], flags[row]) for shard in unwritten for row in sorted(left[shard]))
    total = sum(len(job.rows_of(shard, source)) for shard in shards)
    shown = progress_bar(
        f"preparing {job.called}", total=total, unit="clips", start=total - sum(map(len, left.values()))
    )
    with ThreadPoolExecutor(1) as writer, shown as bar:
        writing = [writer.submit(_write_shard, job, source, shard) for shard in unwritten if not left[shard]]
        for task, result in run_all(partial(_stage, job.settings), todo):
            staging.write_row(task[0], _outcome(task[1], result))
            shard = task[0] // job.settings.rows_per_shard
            left[shard].discard(task[0])
            bar.advance()
            if not left[shard]:
                writing.append(writer.submit(_write_shard, job, source, shard))
            while writing and writing[0].done():
                writing.pop(0).result()
        for written in writing:
            written.result()


def _outcome(row: catalog.Row, result: bytes | workers.Crash) -> bytes:
    """What is staged of a row: a clip that brings its worker down again and again is refused by name."""
    if not isinstance(result, workers.Crash):
        return result
    detail = f"{row.video or row.audio}: {workers.ATTEMPTS} processes died of it, the last {result.how}"
    return _refused(Rejected(row, checks.TOO_LONG if result.at_time_limit else checks.CRASHED, detail))


def _write_shard(job: Job, source: catalog.Source, shard: int) -> None:
    """One shard out of its staged rows, and the part of index and report that belongs to it."""
    staging, report, rows = job.staging, Report(job.called, job.out), job.rows_of(shard, source)
    written = staging.new_shard(shard)
    with ShardWriter(written, shard, source.classes, source.splits) as writer:
        for row in rows:
            data = staging.read_row(row)
            if data.startswith(b"{"):
                report.add_rejected(json.loads(data))
            else:
                report.add_clip(writer.add(row, data))
    record = {"shard": writer.facts(), "report": report.record()}
    target = shard_path(staging.whole, shard)
    staging.finish_shard(shard, written, target, writer.part.packed(), record)
    staging.drop_rows(rows)


def _finish(job: Job, source: catalog.Source) -> Report:
    """Where every shard is there, make a data set of them and put it in its place."""
    staging = job.staging
    with staging.sealing() as unsealed:
        if not unsealed:  # another part was the last one
            return Report.from_listing(
                json.loads((job.out / REPORT_JSON).read_text(encoding="utf-8")), job.out
            )
        if all(staging.has_shard(shard) for shard in job.shards(source)):
            report = _seal(job, source)
            put_in_place(staging.whole, job.out)
            staging.remove()
            return report
        report = Report(job.called, job.out, sealed=False)
        for shard in filter(job.part.owns, job.shards(source)):
            report.add(Report.from_record(staging.read_shard(shard)[1]["report"]))
        return report


def _seal(job: Job, source: catalog.Source) -> Report:
    report = Report(job.called, job.out, notes=source.notes)
    parts, shards = [], []
    for shard in job.shards(source):
        arrays, record = job.staging.read_shard(shard)
        parts.append(arrays)
        shards.append(record["shard"])
        report.add(Report.from_record(record["report"]))
    whole = job.staging.whole
    made_with = sorted(job.staging.made_with(), key=media.tools_in_words)
    facts: dict[str, Any] = {"classes": source.classes, "splits": source.splits, MADE_WITH: made_with}
    seal(whole, parts, shards, name=job.called, settings=job.settings, counts=report.counts(), **facts)
    write_json(whole / REPORT_JSON, report.listing())
    if not job.renders:
        write_json(whole / MADE_FROM, _made_from(job, source))
    dataset = PreparedDataset(whole, ALL) if report.prepared else None
    (whole / REPORT_HTML).write_text(page(report, dataset), encoding="utf-8", errors="replace")
    return report
