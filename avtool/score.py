"""Scores of anybody's predictions by the protocols: the Python API behind ``avtool score``."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from avtool.config.checkpoint import Config
from avtool.data.dataset import PreparedDataset
from avtool.data.names import listed
from avtool.errors import DataError, NotFinite, UsageError
from avtool.evaluate import EVALUATED, check_vggsounder, clips_of, evaluation_of, facts_of, part_of
from avtool.files import check_output, write_json
from avtool.tasks import Evaluation
from avtool.tasks.context import Context
from avtool.tasks.given import Predictions, read_predictions
from avtool.tasks.table import DIFFERENCE, MODEL, Row, Table

__all__ = ["Table", "metrics", "score"]


def score(
    files: Sequence[Path],
    data: Path,
    *,
    protocols: Sequence[str],
    split: str = "test",
    fold: tuple[int, int] | None = None,
    compare: bool = False,
    some: bool = False,
    vggsounder: Path | None = None,
    batch_size: int = 32,
    seed: int = 0,
    out: Path | None = None,
    force: bool = False,
) -> list[Table]:
    """Tables of the predictions in ``files``, files and folders (``avtool.tasks.given``), by ``protocols`` of one task,
    with the floors, ceilings and intervals that ``evaluate`` gives.

    ``compare``: the two ``files`` are two sets of predictions, in one table, with the paired difference of each number.
    ``vggsounder``: a csv of labels for that protocol, in place of the package's.
    ``some``: clips without a prediction (in one of both) are left out and counted. ``out``: also write the tables.
    UsageError for unknown names, DataError where predictions are missing, of another shape or not finite.
    """
    if out is not None:
        check_output(out, force=force, others=files)
    if compare and len(files) != 2:
        raise UsageError(
            f"--compare takes two sets of predictions, there are {len(files)}",
            hint="put the files of a set into one folder: avtool score --compare A B",
        )
    protocols = tuple(dict.fromkeys(protocols))
    evaluation, dataset = _evaluation(protocols), PreparedDataset(data, split)
    check_vggsounder(vggsounder, protocols)
    sets = [[path] for path in files] if compare else [list(files)]
    context = Context(
        files[0],
        cast(Config, None),
        dataset,
        clips_of(dataset, fold),
        torch.device("cpu"),
        batch_size=batch_size,
        seed=seed,
        part=part_of(dataset, fold),
        vggsounder=vggsounder,
    )
    tables = []
    for number in range(len(sets)):
        read: list[Predictions] = []
        given = _Given(sets, number, some, read)
        try:
            assert evaluation.score is not None
            found = evaluation.score(replace(context, given=given), protocols)
        except NotFinite as error:
            raise DataError(
                f"{sets[number][0]}: {error.message}", hint="leave out what is not finite"
            ) from error
        tables.append([_named(table, read[0]) for table in found])
    result = [_paired(context, *pair) for pair in zip(*tables, strict=True)] if compare else tables[0]
    if out is not None:
        write_json(out, metrics(result, files=files, data=dataset, fold=fold))
    return result


def metrics(
    tables: Sequence[Table],
    *,
    files: Sequence[Path],
    data: PreparedDataset,
    fold: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """What ``--out`` and ``--json`` give: the tables, and what they are of."""
    return {
        "predictions": [str(path) for path in files],
        "data": facts_of(data, fold),
        "tables": [table.as_dict() for table in tables],
    }


@dataclass(frozen=True)
class _Given:
    """Reads set ``number`` of ``sets``, if ``some`` clips suffice what all sets have, and keeps it in ``read``."""

    sets: Sequence[Sequence[Path]]
    number: int
    some: bool
    read: list[Predictions]

    def __call__(self, names: Sequence[str], **how: Any) -> Predictions:
        every = [read_predictions(paths, names, **how) for paths in self.sets]
        own = every[self.number]
        if len({found.name for found in every}) < len(every):
            own = replace(own, name=str(self.sets[self.number][0]))
        if self.some:
            there = set.intersection(*(set(found.found) for found in every))
            kept = {clip: parts for clip, parts in own.found.items() if clip in there}
            own = replace(own, some=True, found=kept)
        self.read.append(own)
        return own


def _evaluation(protocols: Sequence[str]) -> Evaluation:
    """That of the task whose ``protocols`` these are."""
    every = [evaluation_of(name)[1] for name in EVALUATED]
    for evaluation in every:
        if protocols and set(protocols) <= {*evaluation.scored}:
            return evaluation
    known = [name for evaluation in every for name in evaluation.scored]
    unknown = [name for name in protocols if name not in known]
    raise UsageError(
        f"predictions cannot be scored by {unknown[0]}" if unknown else "the protocols are not of one task",
        hint="; ".join(", ".join(evaluation.scored) for evaluation in every if evaluation.scored),
    )


def _named(table: Table, given: Predictions) -> Table:
    """The table with the predictions' name in place of the model's, and notes of what was read."""
    models = [row for row in table.rows if row.role == MODEL]
    names = {row.name: given.name if len(models) == 1 else f"{given.name}, {row.name}" for row in models}
    rows = [replace(row, name=names.get(row.name, row.name)) for row in table.rows]
    notes = [*table.notes, *given.notes]
    if given.unknown:
        count = len(given.unknown)
        notes.append(
            f"{count} predictions of no clip of the split were not looked at: {listed(given.unknown, 3)}."
        )
    return replace(table, rows=rows, notes=notes)


def _paired(context: Context, first: Table, second: Table) -> Table:
    """Both tables in one: their models' rows, the difference of these, and the other rows of the first."""
    every = zip(first.rows, second.rows, strict=True)
    pairs = [(one, other) for one, other in every if one.role == MODEL]
    differences = [
        Row(
            f"{one.name} - {other.name}",
            DIFFERENCE,
            {name: context.difference(one.measures[name], other.measures[name]) for name in one.measures},
        )
        for one, other in pairs
    ]
    rows = [*(row for pair in pairs for row in pair), *differences]
    rows += [row for row in first.rows if row.role != MODEL]
    return replace(first, rows=rows, notes=list(dict.fromkeys([*first.notes, *second.notes])))
