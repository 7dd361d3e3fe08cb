"""Preparation: the raw files of a data set become tar shards with an index, and a report of every row.

Every row of the source ends in exactly one of prepared, refused and missing; nothing is replaced by another
sample. Clips are converted by worker processes and staged singly (``staging``); a shard is written when the
last of its rows is there, and the data set takes its place when the last shard is. So it can be stopped at any
moment and gone on with, by any number of processes or machines, and comes out the same.
"""

import base64
import hashlib
import json
import os
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import current_process
from pathlib import Path
from typing import Any

import numpy as np

from avtool import media, places
from avtool.data import catalog, checks, synth, workers
from avtool.data.audit import Fingerprint, audit
from avtool.data.convert import PreparedClip, Rejected, Settings, convert
from avtool.data.dataset import ALL, PreparedDataset, read_facts
from avtool.data.page import page
from avtool.data.report import REPORT_HTML, REPORT_JSON, Report, rejection_bytes
from avtool.data.shards import (
    DATASET_JSON,
    FINGERPRINT,
    FORMAT,
    LICENCE,
    MADE_WITH,
    Shard,
    ShardWriter,
    clip_bytes,
    seal,
    shards_of,
)
from avtool.data.spool import Held, Spool
from avtool.data.staging import Part, Staging
from avtool.errors import DataError, UsageError
from avtool.files import check_output, json_text, printable, put_in_place, write_json
from avtool.progress import progress_bar, say, warn
from avtool.registry import DATASETS

MADE_FROM = "made_from.json"
"""The rows and settings of a finished data set, by which a part that comes late knows it."""
ENGINES = ("local", "ray")

Task = tuple[int, catalog.Row, list[str], Held]
"""A row by its number, the flags known of it, and where its files are that lie in archives."""
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
    settings: Sequence[str] = (),
    licence: str | None = None,
) -> Report:
    """Prepare data set ``name`` of the catalog from its raw files and return what became of its rows.

    ``source``: the folder of the raw files (``manifest``: the csv), by default $AVTOOL_DATA/NAME; ``synth``
    has none: ``clips`` clips are rendered from ``seed``. ``subset``: which part of a data set
    that has several. ``out``: by default $AVTOOL_DATA/prepared/NAME or NAME-SUBSET (``manifest``: the csv's
    name, or its folder's where it is called manifest.csv). ``jobs``: processes, by default one for each core.
    ``part``: "I/N", only that share of the shards; the last part to finish, or a call without ``part``,
    finishes OUT. ``engine``: "local", or "ray" with the ``address`` of a running cluster (None: on this
    machine). ``settings``: what is kept of a clip, as ["frame_rate=4"], see ``convert.Settings``. ``licence``: the
    hub's name of the one that the card of the data set names (None: it says that none was given).

    Until it is finished all is kept in OUT.unfinished: the same call goes on there; a part of what is finished
    already has nothing to do. Raises UsageError, DataError or TableError before any clip is read.
    """
    if getattr(current_process(), "_inheriting", False):
        # a worker that runs the caller's script as it starts: without a guard in it each would prepare it all again
        raise SystemExit(1)  # the process that started it says so, once
    DATASETS.find(name)
    request = catalog.Request(clips=clips, seed=seed, subset=subset, licence=licence)
    job = job_of(name, source, out, request, part, settings=settings)
    job = replace(job, shared=address is None)
    run_all = _engine(engine, address, jobs, partial(job.staging.admit, force=force))
    if job.in_parts and not force and (finished := _finished(job)):
        return finished
    check_output(job.out, force=force, markers=(DATASET_JSON,))
    rows = catalog.read_source(name, job.source, request)
    with job.staging.opened(job.plan(rows), job.part, force=force), _kept(job):
        for problem in rows.notes.get(catalog.DAMAGED_ARCHIVE, ()):
            warn(f"damaged archive {problem}")
        _convert_all(job, rows, run_all)
        return _finish(job, rows)


# What is prepared, from where, to where ----------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What is prepared, from where, to where, and which share of it."""

    name: str
    called: str
    source: Path
    out: Path
    request: catalog.Request
    part: Part
    in_parts: bool
    settings: Settings
    shared: bool = True
    """Whether all that work on it see the same disks."""

    @property
    def renders(self) -> bool:
        return self.name == "synth"

    @property
    def staging(self) -> Staging:
        return Staging(self.out)

    def plan(self, rows: catalog.Source) -> dict[str, object]:
        """What must be the same for an unfinished preparation to be gone on with, and how to."""
        plan = {
            "name": self.called,
            "data set": self.name,
            "format": f"{FORMAT}, rendering {synth.RENDERING}" if self.renders else FORMAT,
            "settings": self.settings.model_dump(),
            "request": asdict(self.request),
            "source": None if self.renders else str(self.source.resolve()),
            "rows": _sum_of(rows, self.source),
            "command": self.command(),
            MADE_WITH: [media.tool_versions()],
        }
        return json.loads(json_text(plan))

    def command(self, *, with_part: bool = False) -> str:
        """The command that does all of it, or this part."""
        words = ["avtool", "prepare", self.name]
        if not self.renders:
            words.append(str(self.source))
        words += self.settings.arguments()
        for option, value in asdict(self.request).items():
            if value is not None and value != getattr(catalog.Request(), option):
                words += [f"--{option}", str(value)]
        words += ["--out", str(self.out)]
        words += ["--part", str(self.part)] if with_part and self.in_parts else []
        return shlex.join(words + (["--force"] if self.out.exists() else []))

    def shards(self, rows: catalog.Source) -> list[Shard]:
        return shards_of((row.split for row in rows.rows), self.settings.rows_per_shard)


def job_of(
    name: str,
    source: Path | None,
    out: Path | None,
    request: catalog.Request,
    part: str | None,
    *,
    settings: Sequence[str] = (),
) -> Job:
    """What the arguments of ``prepare`` ask for. Raises UsageError."""
    if source is None and name == "manifest":
        hint = "avtool prepare manifest FILE.csv"
        raise UsageError("manifest needs the csv that lists the clips", hint=hint)
    if source is not None and name == "synth":
        hint = "avtool prepare synth --out DIR"
        raise UsageError(f"synth is rendered, it takes no source ({source})", hint=hint)
    called = "-".join(filter(None, (name, request.subset)))
    if source is not None and name == "manifest":
        # the csv's name, or its folder's where it is called manifest
        called = printable(source.stem if source.stem != "manifest" else source.absolute().parent.name)
    return Job(
        name=name,
        called=called,
        source=places.source_folder(name) if source is None else source,
        out=places.prepared_folder(called) if out is None else out,
        request=request,
        part=Part() if part is None else Part.parse(part),
        in_parts=part is not None,
        settings=Settings.parse(settings) if settings else Settings(),
    )


def _sum_of(source: catalog.Source, folder: Path) -> str:
    """One sum over all that the annotations say, however the way to the files is written."""
    digest, root = hashlib.sha256(), str(folder if folder.is_dir() else folder.parent) + os.sep
    for row in source.rows:
        digest.update(repr(row).replace(root, "").encode())
    digest.update(repr((source.classes, sorted(source.notes.items()))).encode())
    return digest.hexdigest()


def _finished(job: Job) -> Report | None:
    """The report of ``job.out`` where it is finished, and was made of the same rows in the same way. A part that does
    nothing may have tools of other versions; that is said."""
    try:
        made, report = (_read_json(job.out / name) for name in (MADE_FROM, REPORT_JSON))
        facts = read_facts(job.out)
    except (FileNotFoundError, NotADirectoryError, ValueError, DataError):
        return None
    if made != _made_from(job, catalog.read_source(job.name, job.source, job.request)):
        return None
    made_with = facts.get(MADE_WITH) or [{}]
    others = f", made with {' and '.join(map(media.tools_in_words, made_with))}"
    say(f"{job.out} is finished already{'' if media.tool_versions() in made_with else others}")
    return Report.from_listing(report, job.out)


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _made_from(job: Job, rows: catalog.Source) -> dict[str, object]:
    """The plan without the places: what a finished data set was made of, and how."""
    places_in_it = ("source", "command", MADE_WITH)
    return {key: value for key, value in job.plan(rows).items() if key not in places_in_it}


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


@contextmanager
def _kept(job: Job) -> Iterator[None]:
    """Say what is kept of a run that breaks off, and how to go on; where nothing was done, leave nothing."""
    try:
        yield
    except BaseException:
        staging = job.staging
        if staging.is_untouched() and not job.in_parts:
            shutil.rmtree(staging.folder, ignore_errors=True)
        elif staging.folder.is_dir():
            say(f"what was done is kept in {staging.folder}; to go on: {job.command(with_part=True)}")
        raise


# Rows to shards ----------------------------------------------------------------------------------------


def _stage(settings: Settings, task: Task) -> bytes:
    """The work on one row, in whatever process: its outcome as it is staged."""
    number, row, flags, held = task
    outcome = convert(row, settings, flags, held)
    return clip_bytes(number, outcome, settings) if isinstance(outcome, PreparedClip) else _refused(outcome)


def _refused(outcome: Rejected) -> bytes:
    """A row that gave no clip, as it is staged; the paths in its detail are text from here on."""
    return rejection_bytes(replace(outcome, detail=printable(outcome.detail)))


def _convert_all(job: Job, source: catalog.Source, run_all: Engine) -> None:
    """Convert the rows of this part that are not done yet, and write every shard that is complete."""
    staging = job.staging
    flags = checks.row_flags(source.rows, source.classes)
    staged = staging.staged_rows()
    shards = [shard for shard in job.shards(source) if job.part.owns(shard.number)]
    unwritten = [shard for shard in shards if not staging.has_shard(shard.number)]
    of_row = {row: shard for shard in unwritten for row in shard.rows if row not in staged}
    left = Counter(shard.number for shard in of_row.values())
    todo = ((row, source.rows[row].files()) for row in of_row)
    total = sum(len(shard.rows) for shard in shards)
    done = total - len(of_row)
    shown = progress_bar(f"preparing {job.called}", total=total, unit="clips", start=done)
    with ThreadPoolExecutor(1) as writer, shown as bar, staging.spool(str(job.part)) as folder:
        spool = Spool(folder, shared=job.shared)
        tasks = ((row, source.rows[row], flags[row], held) for row, held in spool.held(todo))
        writing = [
            writer.submit(_write_shard, job, source, shard) for shard in unwritten if not left[shard.number]
        ]
        for task, result in run_all(partial(_stage, job.settings), tasks):
            staging.write_row(task[0], _outcome(task[1], result))
            spool.done(task[3])
            shard = of_row[task[0]]
            left[shard.number] -= 1
            bar.advance()
            if not left[shard.number]:
                writing.append(writer.submit(_write_shard, job, source, shard))
            while writing and writing[0].done():
                writing.pop(0).result()
        for written in writing:
            written.result()


def _outcome(row: catalog.Row, result: bytes | workers.Crash) -> bytes:
    """What is staged of a row: a clip that brings its worker down again and again is refused by name."""
    if not isinstance(result, workers.Crash):
        return result
    detail = (
        f"{row.video or row.audio or row.id}: {workers.ATTEMPTS} processes died of it, the last {result.how}"
    )
    return _refused(Rejected(row, checks.TOO_LONG if result.at_time_limit else checks.CRASHED, detail))


def _write_shard(job: Job, source: catalog.Source, shard: Shard) -> None:
    """One shard out of its staged rows, and the part of index and report that belongs to it."""
    staging, report = job.staging, Report(job.called, job.out)
    written, fingerprints = staging.new_shard(shard.number), []
    with ShardWriter(written, shard, source.classes, source.splits) as writer:
        for row in shard.rows:
            data = staging.read_row(row)
            if data.startswith(b"{"):
                report.add_rejected(json.loads(data))
            else:
                facts = writer.add(row, data)
                fingerprints.append(base64.b64encode(facts[FINGERPRINT]).decode())
                report.add_clip(facts)
    record = {"shard": writer.facts(), "report": report.record(), "fingerprints": fingerprints}
    staging.finish_shard(shard, written, writer.packed(), record)


def _finish(job: Job, source: catalog.Source) -> Report:
    """Where every shard is there, make a data set of them and put it in its place."""
    staging = job.staging
    with staging.sealing() as unsealed:
        if not unsealed:  # another part was the last one
            return Report.from_listing(_read_json(job.out / REPORT_JSON), job.out)
        shards = job.shards(source)
        if all(staging.has_shard(shard.number) for shard in shards):
            report = _seal(job, source, shards)
            put_in_place(staging.whole, job.out)
            shutil.rmtree(staging.folder, ignore_errors=True)
            return report
        report = Report(job.called, job.out, sealed=False)
        for shard in shards:
            if job.part.owns(shard.number):
                report.add(Report.from_record(staging.read_shard(shard.number)[1]["report"]))
        return report


def _seal(job: Job, source: catalog.Source, shards: Sequence[Shard]) -> Report:
    report = Report(job.called, job.out, notes=source.notes)
    parts, written, found = [], [], list[Fingerprint]()
    for shard in shards:
        arrays, record = job.staging.read_shard(shard.number)
        parts.append(arrays)
        written.append(record["shard"])
        found += [Fingerprint.from_bytes(base64.b64decode(text)) for text in record["fingerprints"]]
        report.add(Report.from_record(record["report"]))
    rows = np.concatenate([np.zeros(0, np.int64), *(arrays["clips"]["row"] for arrays in parts)])
    order = np.argsort(rows)
    report.sort(order.tolist(), [row.id for row in source.rows])
    whole = job.staging.whole
    made_with = sorted(job.staging.made_with(), key=media.tools_in_words)
    facts: dict[str, Any] = {"classes": source.classes, "splits": source.splits, MADE_WITH: made_with}
    facts[LICENCE] = job.request.licence
    seal(whole, parts, written, name=job.called, settings=job.settings, counts=report.counts(), **facts)
    dataset = PreparedDataset(whole, ALL) if report.prepared else None
    if dataset is not None:
        fingerprints = [found[k] for k in order]
        report.audit = audit(dataset, source.rows, rows[order].tolist(), fingerprints, report.tallies()[1])
    write_json(whole / REPORT_JSON, report.listing(), indent=1, ensure_ascii=False)
    write_json(whole / MADE_FROM, _made_from(job, source), indent=1, ensure_ascii=False)
    (whole / REPORT_HTML).write_text(page(report, dataset), encoding="utf-8", errors="replace")
    return report
