"""``avtool evaluate``: a model and prepared data in, tables by named protocols out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avtool.commands import argument, command, completing, examples, first_process, option, print_json
from avtool.registry import TASKS

if TYPE_CHECKING:
    from avtool.evaluate import Table

EPILOG = examples(
    "avtool evaluate runs/MY_RUN --data data/prepared/synth",
    "avtool evaluate RUN --data DIR --protocol top1,knn --out metrics.json",
    "avtool evaluate RUN --data DIR --split all --fold 1/5 --json",
    "avtool evaluate RUN --data data/prepared/synth-scenes --by scenario",
    "torchrun --nproc-per-node 8 -m avtool evaluate RUN --data DIR --workers 2",
    next_command="avtool localize clip.mp4 --model RUN --out heatmap.png",
)
EVALUATED = [name for name, task in TASKS.items() if task.evaluation]
PROTOCOLS = "Comma-separated protocols; an unknown name lists them."
MOST_WINDOWS = 100
"""Of a clip: more than ten change nothing that anybody has published."""
complete_tasks = completing(lambda: EVALUATED)
BESIDE = 2
"""Measures whose intervals stand beside them in 80 columns; where there are more, they stand below."""


def parse_fold(value: str) -> tuple[int, int]:
    """K and N of ``K/N``."""
    match = re.fullmatch(r"(\d+)/(\d+)", value)
    if not match or not 1 <= int(match[1]) <= int(match[2]) or int(match[2]) < 2:
        raise typer.BadParameter(f"{value!r} is not K/N with K from 1 to N, and N at least 2, as 1/5")
    return int(match[1]), int(match[2])


def complete_protocols(ctx: typer.Context, incomplete: str) -> list[str]:
    """The protocols, of --task where it is given, that begin as the last one typed, behind those before it."""
    before, comma, begun = incomplete.rpartition(",")
    tasks = [TASKS[name] for name in EVALUATED if ctx.params.get("task") in (None, name)]
    names = dict.fromkeys(name for task in tasks for name in task.protocols)
    given = before.split(",")
    return [f"{before}{comma}{name}" for name in names if name.startswith(begun) and name not in given]


@command("seed", "device", "threads", "json", "force")
def evaluate(
    model: Annotated[Path, argument("RUN", "Run, checkpoint or converted folder, or a name.")],
    *,
    data: Annotated[Path, option("DIR", "Prepared data.")],
    task: Annotated[
        str | None,
        option("TASK", f"{', '.join(EVALUATED)}.", usual="the model's", autocompletion=complete_tasks),
    ] = None,
    protocol: Annotated[
        str | None,
        option("P,...", PROTOCOLS, usual="those usual for the model", autocompletion=complete_protocols),
    ] = None,
    split: Annotated[str, option("NAME", "Split to judge, or all.")] = "test",
    fold: Annotated[
        Any, option("K/N", "Only fold K of N by recording, as data.fold leaves it out.", parser=parse_fold)
    ] = None,
    by: Annotated[
        str | None, option("COLUMN", "Also tables for each value of a column of the clips' own, or label.")
    ] = None,
    windows: Annotated[
        int, option("N", "Windows per clip, averaged (classify, retrieve).", min=1, max=MOST_WINDOWS)
    ] = 1,
    maps: Annotated[
        str | None, option("KIND,...", "Maps to judge (localize).", "--map", usual="the model's own")
    ] = None,
    object_prior: Annotated[
        Path | None, option("PTH", "ResNet weights: also judge maps mixed with its objects (localize).")
    ] = None,
    vggsounder: Annotated[
        Path | None, option("CSV", "VGGSounder's labels (protocol vggsounder).", usual="its package's")
    ] = None,
    batch_size: Annotated[int, option("N", "Samples at once.", min=1)] = 32,
    workers: Annotated[int, option("N", "Processes that load data.", min=0)] = 0,
    out: Annotated[Path | None, option("JSON", "Save the tables as JSON.")] = None,
    save_predictions: Annotated[Path | None, option("NPZ", "Save per-sample predictions.")] = None,
    json: bool,
    **options: Any,
) -> None:
    """Measure a model by named protocols, beside floors, ceilings and controls."""
    from avtool.evaluate import evaluate as run

    written: list[dict[str, Any]] = []
    tables = run(
        model,
        data,
        task=task,
        protocols=names_in(protocol),
        split=split,
        fold=fold,
        by=by,
        windows=windows,
        maps=names_in(maps),
        object_prior=object_prior,
        vggsounder=vggsounder,
        batch_size=batch_size,
        workers=workers,
        out=out,
        save_predictions=save_predictions,
        told=written.append,
        **options,
    )
    if not first_process():
        return
    if json:
        print_json(written[0])
        return
    print_tables(tables)


def print_tables(tables: list[Table]) -> None:
    """Every table for people to read, those of groups by one protocol in one."""
    together: dict[tuple[str, ...], list[Table]] = {}
    for number, table in enumerate(tables):
        of = (table.task, table.protocol) if table.group else (str(number),)
        together.setdefault(of, []).append(table)
    for of_one in together.values():
        _print(*of_one)


def names_in(text: str | None) -> list[str]:
    """The names in ``A,B``."""
    return [name.strip() for name in text.split(",")] if text is not None else []


def _print(*tables: Table) -> None:
    """A table, or as one those of the groups of clips that a protocol has judged apart."""
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    from avtool.tasks.table import measure_in_words

    table = next((one for one in tables if one.rows), tables[0])
    what, said = f"{table.task} by {table.protocol}", [table.data]
    interval = f"95 % bootstrap intervals (seed {table.seed})"
    left_out = [[f"{n} clips left out {reason}" for reason, n in one.left_out.items()] for one in tables]
    if table.group:
        what = f"{what}, by {', '.join(table.group)}"
        said = [*dict.fromkeys(one.words for one in tables), interval]
        of: dict[str, list[str]] = {}
        for one, counts in zip(tables, left_out, strict=True):
            for line in filter(None, ["; ".join(counts), *one.notes]):
                of.setdefault(line, []).append(_value(one))
        said += [line if len(of[line]) == len(tables) else f"{', '.join(of[line])}: {line}" for line in of]
    else:
        what = f"{what}: {_count(table)}"
        said += [table.words, "; ".join([interval, *left_out[0]]), *table.notes]
    grid = Grid(
        title=what, caption="\n".join(filter(None, said)), title_justify="left", caption_justify="left"
    )
    grid.add_column("")
    names = list(dict.fromkeys(name for one in tables for row in one.rows for name in row.measures))
    stacked = len(names) > BESIDE
    for name in names:
        heading = f"{name} {table.unit}".strip()
        grid.add_column(heading.replace(" ", "\n") if stacked else heading, justify="right", no_wrap=True)
    for one in tables:
        if one.group:
            grid.add_section()
            grid.add_row(Text(f"{_value(one)}: {_count(one)}", style="bold"))
        for row in one.rows:
            measures = (vars(found) if found else None for found in map(row.measures.get, names))
            cells = [measure_in_words(found, one.unit, stacked=stacked) for found in measures]
            grid.add_row(row.name if row.role == "model" else f"{row.name} ({row.role})", *cells)
    Console().print(grid)


def _value(table: Table) -> str:
    return ", ".join(table.group.values())


def _count(table: Table) -> str:
    what = f"n = {table.samples}"
    return what if table.recordings == table.samples else f"{what} from {table.recordings} recordings"
