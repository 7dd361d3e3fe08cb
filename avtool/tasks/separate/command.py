"""``avtool separate``: a clip in, the sound of what is seen and the rest of it out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avtool.commands import Clips, command, examples, option

if TYPE_CHECKING:
    from avtool.tasks.separate.predict import SeparationResult

EPILOG = examples(
    "avtool separate clip.mp4 --out sounds",
    "avtool separate clip.mp4 --box 0.1,0.2,0.5,0.9 --at 2 --out sounds",
    "avtool separate cat.mp4 --with dog.mp4 --out sounds",
    next_command="avtool evaluate RUN --data DIR --protocol bss-eval",
)
BOX = "Part of the frame whose sound is wanted, as fractions of it."
OTHER = "Mix in as much of this clip's sound as CLIP is long; find both again."
AT = "each window's own, with --box the middle one"


def _box(value: str) -> tuple[float, float, float, float]:
    try:
        x1, y1, x2, y2 = map(float, value.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{value!r} is not x1,y1,x2,y2, as 0.1,0.2,0.5,0.9") from error
    return x1, y1, x2, y2


@command("audio", "model", "device", "threads", "json", "force")
def separate(
    clips: Clips,
    *,
    out: Annotated[Path, option("DIR", "Folder to write.")],
    box: Annotated[Any, option("X1,Y1,X2,Y2", BOX, usual="the square in its middle", parser=_box)] = None,
    other: Annotated[Path | None, option("OTHER_CLIP", OTHER, "--with")] = None,
    at: Annotated[
        float | None, option("SECONDS", "Guide by the frame at this time.", usual=AT, min=0)
    ] = None,
    json: bool,
    **options: Any,
) -> None:
    """Separate the sound of what is visible from the rest.

    Writes guided.wav, rest.wav (what is left: the files sum to the clip's sound; 32-bit float), masks.png and
    separation.json; with --with also other.wav and mixture.wav. Of several clips, or the videos in a folder, each has a
    folder of its own in --out.
    """
    from avtool.predict import on_clips
    from avtool.tasks.separate.predict import separate as run

    def as_dict(folder: Path, found: SeparationResult) -> dict[str, Any]:
        sdr = {name: {"found": one, "mixture": floor} for name, (one, floor) in found.sdr.items()}
        return {"files": [str(path) for path in found.files], "rate": found.rate, "sdr": sdr}

    def show(folder: Path, found: SeparationResult) -> None:
        for path in found.files:
            typer.echo(path)
        for name, (one, floor) in found.sdr.items():
            said = f"SDR {one:.2f} dB, the mixture itself {floor:.2f} dB"
            typer.echo(f"{name}: {'no SDR, for a source is silent' if math.isnan(one) else said}", err=True)

    one = {"--with": other, "--audio": options["audio"]}
    options |= {"box": box, "at": at, "other": other, "as_dict": as_dict if json else None}
    on_clips(clips, run, out=out, ending="", one=one, show=show, **options)
