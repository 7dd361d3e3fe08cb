"""``avtool localize``: a clip in, a heat map of where its sound comes from out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from avtool.commands import Clip, command, examples, option

EPILOG = examples(
    "avtool localize clip.mp4 --out heatmap.png",
    "avtool localize photo.jpg --audio sound.wav --map difference --raw map.npy",
    "avtool localize --out heatmap.png -- -x_2rG8ydxM.mp4",
    next_command="avtool evaluate RUN --data DIR --task localize",
)


@command("audio", "model", "at", "device", "threads", "force")
def localize(
    clip: Clip,
    *,
    out: Annotated[Path, option("PNG", "Picture to write.")] = Path("heatmap.png"),
    map: Annotated[
        str | None,
        option(
            "KIND",
            "attention, difference, cosine; trained or decoder if fine-tuned.",
            usual="the model's own",
        ),
    ] = None,
    raw: Annotated[Path | None, option("NPY", "Also write the map as float32 (height, width).")] = None,
    **options: Any,
) -> None:
    """Show where in the frame a clip's sound comes from."""
    from avtool.errors import check_choice
    from avtool.tasks.localize.maps import EVERY
    from avtool.tasks.localize.predict import localize as run

    if map is not None:
        check_choice("--map", map, EVERY)
    run(clip, out=out, map=map, raw=raw, **options)
    for path in (out, raw):
        if path is not None:
            typer.echo(path)
