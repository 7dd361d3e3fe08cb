"""``avtool localize``: a clip in, a heat map of where its sound comes from out."""

from pathlib import Path
from typing import Annotated

import typer

from avtool.commands import (
    DASH_NOTE,
    At,
    Audio,
    Clip,
    Debug,
    Device,
    Force,
    Model,
    Threads,
    examples,
    guarded,
    set_threads,
)

EPILOG = examples(
    "avtool localize clip.mp4 --out heatmap.png",
    "avtool localize photo.jpg --audio sound.wav --map difference --raw map.npy",
    "avtool localize --out heatmap.png -- -x_2rG8ydxM.mp4",
    next_command="avtool evaluate RUN --data DIR --task localize",
)


@guarded
def localize(
    clip: Clip,
    *,
    out: Annotated[Path, typer.Option(help="Picture to write.", metavar="PNG")] = Path("heatmap.png"),
    audio: Audio = None,
    model: Model = None,
    at: At = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--map",
            metavar="KIND",
            help="attention, difference, cosine; trained or decoder if fine-tuned.",
            show_default="the model's own",
        ),
    ] = None,
    raw: Annotated[
        Path | None, typer.Option(help="Also write the map as float32 (height, width).", metavar="NPY")
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    force: Force = False,
    debug: Debug = False,
) -> None:
    set_threads(threads)
    from avtool.errors import check_choice
    from avtool.tasks.localize.maps import EVERY
    from avtool.tasks.localize.predict import localize as run

    if kind is not None:
        check_choice("--map", kind, EVERY)
    run(
        clip,
        out=out,
        audio=audio,
        model=model,
        at=at,
        map=kind,
        raw=raw,
        device=device,
        force=force,
    )
    for path in (out, raw):
        if path is not None:
            typer.echo(path)


localize.__doc__ = f"""Show where in the frame a clip's sound comes from.

    {DASH_NOTE}
    """
