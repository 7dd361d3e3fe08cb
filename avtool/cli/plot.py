"""``avtool plot``: training runs in, their curves over each other out."""

from pathlib import Path
from typing import Annotated

import typer

from avtool.commands import argument, command, examples, option

EPILOG = examples(
    "avtool plot runs/tiny-20260101-120000",
    "avtool plot runs/tiny-* --out curves.png --force",
    next_command="avtool evaluate RUN --data DIR",
)


@command("force")
def plot(
    runs: Annotated[list[Path], argument("RUN...", "Run folders.", usual=False)],
    *,
    out: Annotated[Path, option("PNG", "Picture to write.")] = Path("curves.png"),
    force: bool,
) -> None:
    """Draw the curves of training runs over each other.

    Losses, held-out measures with their floors, learning rate and speed, from each run's metrics.jsonl.
    """
    from avtool.tracking import plot as draw

    typer.echo(draw(runs, out=out, force=force))
