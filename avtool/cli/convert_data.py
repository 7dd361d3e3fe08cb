"""``avtool convert-data``: a prepared data set in, the same in a form of other programs out."""

from pathlib import Path
from typing import Annotated

import typer

from avtool.commands import argument, command, examples, option, print_json

EPILOG = examples(
    "avtool convert-data data/prepared/vggsound --to parquet --out data/parquet/vggsound",
    next_command="python -c \"import datasets; print(datasets.load_dataset('data/parquet/vggsound'))\"",
)


@command("force", "json")
def convert_data(
    data: Annotated[Path, argument("DIR", "Prepared data.")],
    *,
    to: Annotated[str, option("FORM", "What to write: parquet.")],
    out: Annotated[Path, option("DIR", "Folder to write.")],
    force: bool,
    json: bool,
) -> None:
    """Convert prepared data for other programs: a folder of Parquet files, a row for each clip.

    Hugging Face datasets loads the folder by its README.md; pandas, polars, DuckDB and Spark read the files. The
    prepared data stay as they are, and need no conversion for datasets, webdataset or Ray.
    """
    from avtool.data.parquet import convert_data as run

    clips = run(data, out, to=to, force=force)
    if json:
        print_json({"out": str(out), "to": to, "clips": clips})
    else:
        typer.echo(out)
