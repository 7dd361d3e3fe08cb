"""``avtool prepare``: raw clips in, a prepared data set out."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avtool.commands import argument, command, complete_datasets, examples, option, print_json
from avtool.registry import DATASETS

if TYPE_CHECKING:
    from avtool.data.prepare import Report

EPILOG = examples(
    "avtool prepare synth",
    "avtool prepare vggsound downloads/vggsound frame_rate=4 short_side=360",
    "avtool prepare music downloads/music --subset duet",
    "avtool prepare manifest my_clips.csv --out data/prepared/my_clips",
    next_command="avtool pretrain --recipe tiny --data data/prepared/synth",
)
SUBSETS = (
    "audioset: balanced, unbalanced, eval. music: solo, solo21, duet. avsbench: s4, ms3, avss. synth: scenes."
)
CLIPS = 400
CLIPS_FOR_DENSE = 1000
"""Fewer clips to train on than this, and the small recipe is the one to begin with."""


@command("force", "json")
def prepare(
    name: Annotated[
        str,
        argument(
            "NAME", f"{', '.join(DATASETS)}. manifest: a csv of your own.", autocompletion=complete_datasets
        ),
    ],
    source: Annotated[Path | None, argument("SOURCE", "Folder or csv.", usual="$AVTOOL_DATA/NAME")] = None,
    settings: Annotated[
        list[str] | None, argument("KEY=VALUE", "What is kept of a clip.", usual="see below")
    ] = None,
    *,
    out: Annotated[
        Path | None, option("DIR", "Folder to write.", usual="$AVTOOL_DATA/prepared/NAME[-SUBSET]")
    ] = None,
    subset: Annotated[
        str | None, option("NAME", SUBSETS, usual="balanced and eval; solo; avss; none")
    ] = None,
    clips: Annotated[int | None, option("N", "Clips to render, synth only.", usual=str(CLIPS), min=1)] = None,
    seed: Annotated[int | None, option("N", "Seed of the clips, synth only.", usual="0", min=0)] = None,
    jobs: Annotated[
        int | None, option("N", "Processes to convert clips.", usual="one for each core", min=1)
    ] = None,
    part: Annotated[
        str | None, option("I/N", "Prepare only part I of N; the last one to finish writes DIR.")
    ] = None,
    engine: Annotated[str, option("NAME", "local, or ray for a Ray cluster.")] = "local",
    address: Annotated[
        str | None, option("HOST:PORT", "Where the cluster is.", usual="Ray on this machine")
    ] = None,
    licence: Annotated[
        str | None,
        option(
            "ID", "The hub's name of their licence, for the card.", "--licence", "--license", usual="unknown"
        ),
    ] = None,
    force: bool,
    json: bool,
) -> None:
    """Turn raw clips into a prepared data set.

    Every row of the source is prepared, refused or missing; the report says how many and why. Exit code 0
    when anything was prepared, 1 when nothing was. $AVTOOL_DATA is ./data unless set.

    It can be stopped at any moment: what is done is kept in DIR.unfinished, and the same command goes on there.

    Settings: frame_rate=2 short_side=256 jpeg_quality=90 sample_rate=16000 window_seconds=3 rows_per_shard=256
    hdr=tonemap.
    """
    from avtool.errors import DataError, UsageError

    given = list(settings or ())
    if source is not None and "=" in source.name and not source.exists():  # a setting; SOURCE may come later
        given.insert(0, str(source))
        later = next((word for word in given if "=" not in word), None)
        given = [word for word in given if word != later]
        source = None if later is None else Path(later)

    if name != "synth" and (clips, seed) != (None, None):
        raise UsageError(f"--clips and --seed go with synth, not with {name}", hint="leave them out")
    from avtool.data.prepare import prepare as run

    how: dict[str, Any] = {"subset": subset, "part": part, "jobs": jobs, "engine": engine, "address": address}
    how |= {"out": out, "force": force, "settings": given, "licence": licence}
    report = run(name, source, clips=clips or CLIPS, seed=seed or 0, **how)
    found = report.as_dict()
    sealed = found.get("sealed", True)
    if json:
        print_json(found)
    else:
        _print_summary(found, report)
        if sealed:
            typer.echo(f"report: {report.out / 'report.html'}")
            if found["prepared"]:
                typer.echo(f"next: {_next_command(name, report.out, at_home=out is None and subset is None)}")
    if not sealed:
        typer.echo(f"this part is done; {report.out} is finished when all parts are", err=True)
    elif not found["prepared"]:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in found["reasons"].items())
        raise DataError(
            f"nothing was prepared: {reasons or 'the table has no rows'}",
            hint=f"{report.out / 'report.json'} lists the rows; mend them and repeat with --force",
        )


def _print_summary(found: dict[str, Any], report: Report) -> None:
    """A small table for a reader."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False)
    no_clip, flags = report.tallies()
    for key, reasons in (("prepared", {}), ("refused", {}), ("missing", no_clip), ("flagged", flags)):
        table.add_row(key, str(found[key]))
        for reason, count in reasons.items():
            table.add_row(f"  {reason}", str(count))
    if found["prepared"]:
        table.add_row("bytes a second", f"{found['stored']['bytes_per_second']:,}")
    Console().print(table)
    for note, said in {**report.why(), **found.get("notes", {}), **report.found()}.items():
        typer.echo(f"{note}: {said}")


def _next_command(name: str, out: Path, *, at_home: bool) -> str:
    """``at_home``: ``out`` is where the recipe of that data set looks for it."""
    from avtool.config.recipes import load_recipe

    facts = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
    splits, rate = facts["splits"], facts["settings"]["sample_rate"]
    train = splits.get("train", 0)
    recipe = "dense" if name == "vggsound" and train >= CLIPS_FOR_DENSE else "tiny"
    found = at_home and name == {"dense": "vggsound", "tiny": "synth"}[recipe]
    data = "" if found else f" --data {shlex.quote(str(out))}"
    split = "" if train else " data.split=all"
    clips = train or sum(splits.values())
    usual = load_recipe(recipe)
    few = f" train.batch_size={clips}" if clips < usual.train.batch_size else ""
    heard = f" spectrogram.sample_rate={rate}" if rate != usual.spectrogram.sample_rate else ""
    return f"avtool pretrain --recipe {recipe}{data}{split}{few}{heard}"
