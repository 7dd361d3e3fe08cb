"""``avtool segment``: a clip in, a mask of what sounds out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avtool.commands import Clips, command, every, examples, option

if TYPE_CHECKING:
    from avtool.tasks.segment.predict import SegmentationResult

EPILOG = examples(
    "avtool segment clip.mp4 --out mask.png --overlay overlay.png",
    "avtool segment clip.mp4 --out overlay.mp4",
    "avtool segment photo.jpg --audio sound.wav --json",
    next_command="avtool evaluate RUN --data DIR",
)


@command("audio", "model", "at", "device", "threads", "json", "force")
def segment(
    clips: Clips,
    *,
    out: Annotated[
        Path,
        option(
            "FILE",
            "A .png: the mask of one frame; an .mp4: the clip under its masks, at up to 15 frames a second; "
            "an .npz: the masks alone.",
        ),
    ] = Path("mask.png"),
    overlay: Annotated[Path | None, option("PNG", "Also write the frame under its mask.")] = None,
    every: Annotated[float | None, every("Seconds between masks of an .npz.", "0.5")] = None,
    json: bool,
    **options: Any,
) -> None:
    """Mark the pixels of a clip that sound.

    Prints what was written, and the share of the picture that each thing found has. Of several clips, or the videos in
    a folder, --out is a folder: NAME.mp4 of each, with --at NAME.png.
    """
    from avtool.predict import on_clips
    from avtool.tasks.segment.predict import segment as run

    def files(path: Path) -> list[str]:
        return [str(written) for written in (path, overlay) if written is not None]

    def as_dict(path: Path, found: SegmentationResult) -> dict[str, Any]:
        shares = {name: round(share, 6) for name, share in found.shares.items()}
        return {"files": files(path), "frames": found.frames, "time": found.time, "shares": shares}

    def show(path: Path, found: SegmentationResult) -> None:
        for line in (*files(path), *(f"  {share:7.1%}  {name}" for name, share in found.shares.items())):
            typer.echo(line)
        if not found.shares:
            typer.echo("nothing is marked: the model finds nothing in view that sounds", err=True)

    one = {"--overlay": overlay, "--audio": options["audio"]}
    options |= {"overlay": overlay, "every": every, "as_dict": as_dict if json else None}
    ending = ".mp4" if options["at"] is None else ".png"
    on_clips(clips, run, out=out, ending=ending, one=one, show=show, **options)
