"""``avtool segment``: a clip in, a mask of what sounds out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from avtool.commands import Clip, command, examples, option, print_json

EPILOG = examples(
    "avtool segment clip.mp4 --out mask.png --overlay overlay.png",
    "avtool segment clip.mp4 --out overlay.mp4",
    "avtool segment photo.jpg --audio sound.wav --json",
    next_command="avtool evaluate RUN --data DIR",
)


@command("audio", "model", "at", "device", "threads", "json", "force")
def segment(
    clip: Clip,
    *,
    out: Annotated[
        Path,
        option(
            "FILE",
            "A .png: the mask of one frame; an .mp4: the clip under its masks, at up to 15 frames a second.",
        ),
    ] = Path("mask.png"),
    overlay: Annotated[Path | None, option("PNG", "Also write the frame under its mask.")] = None,
    json: bool,
    **options: Any,
) -> None:
    """Mark the pixels of a clip that sound.

    Prints what was written, and the share of the picture that each thing found has.
    """
    from avtool.tasks.segment.predict import segment as run

    found = run(clip, out=out, overlay=overlay, **options)
    written = [path for path in (out, overlay) if path is not None]
    if json:
        shares = {name: round(share, 6) for name, share in found.shares.items()}
        files = [str(path) for path in written]
        print_json({"files": files, "frames": found.frames, "time": found.time, "shares": shares})
        return
    for path in written:
        typer.echo(path)
    for name, share in found.shares.items():
        typer.echo(f"  {share:7.1%}  {name}")
    if not found.shares:
        typer.echo("nothing is marked: the model finds nothing in view that sounds", err=True)
