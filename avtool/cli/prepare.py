"""``avtool prepare``: raw clips in, a prepared data set out."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from avtool.cli.common import Debug, Force, Json, examples, guarded, print_json

if TYPE_CHECKING:
    from avtool.data.prepare import Report

EPILOG = examples(
    "avtool prepare synth",
    "avtool prepare vggsound downloads/vggsound",
    "avtool prepare manifest my_clips.csv --out data/prepared/my_clips",
    next_command="avtool pretrain --recipe tiny --data data/prepared/synth",
)
CLIPS = 400


@guarded
def prepare(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="synth, vggsound, or manifest for a csv of your own.")
    ],
    source: Annotated[
        Path | None, typer.Argument(metavar="SOURCE", help="Folder or csv.", show_default="$AVTOOL_DATA/NAME")
    ] = None,
    *,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder to write.", show_default="$AVTOOL_DATA/prepared/NAME"),
    ] = None,
    clips: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Clips to render, synth only.", show_default=str(CLIPS)),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Seed of the clips, synth only.", show_default="0")
    ] = None,
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Turn raw clips into a prepared data set.

    Every row of the source is prepared, refused or missing; the report says how many and why. Exit code 0
    when anything was prepared, 1 when nothing was. $AVTOOL_DATA is ./data unless set.
    """
    from avtool.errors import UsageError

    if name != "synth" and (clips, seed) != (None, None):
        raise UsageError(f"--clips and --seed go with synth, not with {name}", hint="leave them out")
    from avtool.data.prepare import prepare as run
    from avtool.errors import DataError

    report = run(name, source, out=out, force=force, clips=clips or CLIPS, seed=seed or 0)
    if as_json:
        print_json(report.as_dict())
    else:
        _print_summary(name, report)
    if not report.as_dict()["prepared"]:
        raise DataError(
            f"nothing was prepared: {_in_words(report.as_dict()['reasons'])}",
            hint=f"{report.out / 'report.json'} lists the rows; mend them and repeat with --force",
        )


def _in_words(reasons: dict[str, int]) -> str:
    return ", ".join(f"{reason} ({count})" for reason, count in reasons.items()) or "the table has no rows"


def _print_summary(name: str, report: Report) -> None:
    """A small table for a reader, and the next command."""
    from rich.console import Console
    from rich.table import Table

    found = report.as_dict()
    table = Table(box=None, show_header=False)
    for key in ("prepared", "refused", "missing", "flagged"):
        table.add_row(key, str(found[key]))
    for reason, count in found["reasons"].items():
        table.add_row(f"  {reason}", str(count))
    Console().print(table)
    typer.echo(f"report: {report.out / 'report.json'}")
    if found["prepared"]:
        typer.echo(f"next: {_next_command(name, report.out)}")


def _next_command(name: str, out: Path) -> str:
    from avtool import places

    recipe = {"vggsound": "dense"}.get(name, "tiny")
    at_home = name in ("synth", "vggsound") and out.absolute() == places.prepared_folder(name).absolute()
    data = "" if at_home else f" --data {shlex.quote(str(out))}"
    return f"avtool pretrain --recipe {recipe}{data}"
