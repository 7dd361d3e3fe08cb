"""``avtool segment``: a clip in, a mask of what sounds out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avtool.commands import Clips, Failures, command, examples, option, print_json

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
            "A .png: the mask of one frame; an .mp4: the clip under its masks, at up to 15 frames a second.",
        ),
    ] = Path("mask.png"),
    overlay: Annotated[Path | None, option("PNG", "Also write the frame under its mask.")] = None,
    json: bool,
    **options: Any,
) -> None:
    """Mark the pixels of a clip that sound.

    Prints what was written, and the share of the picture that each thing found has. Of several clips, or the videos in
    a folder, --out is a folder: NAME.mp4 of each, with --at NAME.png.
    """
    from avtool.predict import clips_in, each
    from avtool.tasks.segment.predict import segment as run

    if len(given := clips_in(clips)) == 1:
        found = run(given[0], out=out, overlay=overlay, **options)
        files = [str(path) for path in (out, overlay) if path is not None]
        if json:
            print_json(_as_dict(files, found))
        else:
            _print(files, found)
        return
    failures = Failures(given, {"--overlay": overlay, "--audio": options["audio"]})
    ending = ".mp4" if options["at"] is None else ".png"
    done = each(given, run, out=out, ending=ending, failed=failures.tell, **options)
    if json:
        print_json(
            {"clips": [_as_dict([str(path)], found) for path, found in done], "failed": failures.found}
        )
    else:
        for path, found in done:
            _print([str(path)], found)
    failures.leave()


def _as_dict(files: list[str], found: SegmentationResult) -> dict[str, Any]:
    shares = {name: round(share, 6) for name, share in found.shares.items()}
    return {"files": files, "frames": found.frames, "time": found.time, "shares": shares}


def _print(files: list[str], found: SegmentationResult) -> None:
    for path in files:
        typer.echo(path)
    for name, share in found.shares.items():
        typer.echo(f"  {share:7.1%}  {name}")
    if not found.shares:
        typer.echo("nothing is marked: the model finds nothing in view that sounds", err=True)
