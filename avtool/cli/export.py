"""``avtool export``: an encoder or classifier as a program that needs torch alone."""

from pathlib import Path
from typing import Annotated

import typer

from avtool.commands import argument, command, examples, option, print_json

EPILOG = examples(
    "avtool export runs/tiny-20260101-120000 --out encoder.pt2",
    "avtool export deepavfusion-vggsound --out encoder.pt2 --json",
    "avtool export models/classifier --kind encoder --out encoder.pt2",
    next_command="avtool export --help",
)


@command("threads", "force", "json")
def export(
    model: Annotated[Path, argument("MODEL", "Run, checkpoint or converted folder, or a name.")],
    *,
    out: Annotated[Path, option("PT2", "Program to write.")],
    kind: Annotated[
        str | None, option("KIND", "encoder or classifier.", usual="classifier if the model is one")
    ] = None,
    force: bool,
    json: bool,
) -> None:
    """Write an encoder or classifier with torch.export, for any batch size.

    torch.export.load(FILE).module()(image, audio) runs it where avtool is not installed.
    """
    from avtool.export import export as run

    described = run(model, out, kind=kind, force=force)
    if json:
        print_json({"out": str(out), **described})
    else:
        typer.echo(out)
