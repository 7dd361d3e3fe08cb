"""``avtool fetch``: the raw files of a data set, from where they can be had."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from avtool.commands import argument, command, complete_datasets, examples, option, print_json
from avtool.errors import in_bytes
from avtool.progress import say
from avtool.registry import DATASETS

EPILOG = examples(
    "avtool fetch vggsound --dry-run",
    "avtool fetch vggsound --only vggsound.csv --only 'vggsound_0[0-3]*'",
    "avtool fetch avsbench",
    next_command="avtool prepare vggsound",
)


@command("json")
def fetch(
    name: Annotated[str, argument("NAME", f"{', '.join(DATASETS)}.", autocompletion=complete_datasets)],
    *,
    out: Annotated[Path | None, option("DIR", "Folder to fill.", usual="$AVTOOL_DATA/NAME")] = None,
    dry_run: Annotated[
        bool, option(None, "List the files with their sizes, and fetch nothing.", "--dry-run")
    ] = False,
    only: Annotated[
        list[str] | None, option("PATTERN", "Fetch only files of such names; may be repeated.")
    ] = None,
    revision: Annotated[str | None, option("NAME", "Revision of the copy.", usual="the newest")] = None,
    json: bool,
) -> None:
    """Fetch a data set's raw files from a copy on the Hugging Face hub, or say where they are.

    Whose copy it is, and its licence, are shown first. It can be stopped at any moment: the same command goes
    on there. Where no copy is known, the error says what to get from where. HF_ENDPOINT and HF_TOKEN are heeded.
    """
    from avtool.fetch import fetch as run

    copy = run(name, out, only=only or (), revision=revision, dry_run=dry_run)
    if json:
        print_json(copy.as_dict())
    elif dry_run:
        for file in copy.files:
            state = "there" if file.whole else "begun" if file.here else ""
            typer.echo(f"{in_bytes(file.size):>9}  {state:5}  {file.target}")
    else:
        typer.echo(copy.folder)
    if not dry_run:
        say(f"next: avtool prepare {name} {shlex.quote(str(copy.folder))}")
