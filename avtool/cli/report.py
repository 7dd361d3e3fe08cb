"""``avtool report``: a run, a data set or what was found in a clip in, one HTML page out."""

from pathlib import Path
from typing import Annotated

import typer

from avtool.commands import argument, command, examples, option

EPILOG = examples(
    "avtool report runs/tiny --out run.html",
    "avtool report data/prepared/synth --out synth.html",
    "avtool localize clip.mp4 --controls --out found/maps.npz",
    "avtool report found --out clip.html",
    next_command="avtool localize clip.mp4 --controls --out found/maps.npz",
)


@command("force")
def report(
    folder: Annotated[
        Path, argument("FOLDER", "A run, a prepared data set, or what was found in one clip.", usual=False)
    ],
    *,
    out: Annotated[Path, option("HTML", "Page to write.")] = Path("page.html"),
    force: bool,
) -> None:
    """Show a run, a data set or what was found in a clip as one HTML page.

    The page holds all it shows and fetches nothing. Of a clip the folder has what was written of it: an .npz of
    localize and one of segment, the folder of separate, what classify --json says as a .json.
    """
    from avtool.pages import report as run

    typer.echo(run(folder, out=out, force=force))
