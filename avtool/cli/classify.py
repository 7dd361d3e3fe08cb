"""``avtool classify``: clips in, their likeliest classes out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avtool.cli.common import (
    DASH_NOTE,
    Debug,
    Device,
    Json,
    Threads,
    examples,
    guarded,
    print_json,
    set_threads,
)

if TYPE_CHECKING:
    from avtool.errors import AvtoolError
    from avtool.infer import Classified

EPILOG = examples(
    "avtool classify clip.mp4 --model runs/tiny-classify-20260101-120000",
    "avtool classify *.mp4 --top 3 --json",
    "avtool classify photo.jpg --audio sound.wav",
    next_command="avtool evaluate RUN --data DIR",
)

Clips = Annotated[list[Path], typer.Argument(metavar="CLIP", help="Videos, or an image with --audio.")]
Audio = Annotated[
    Path | None, typer.Option(help="Sound that goes with an image, or in place of a clip's.", metavar="WAV")
]
Model = Annotated[
    Path | None,
    typer.Option(
        help="Run, checkpoint or converted folder.",
        show_default="$AVTOOL_MODEL, else the newest run",
        metavar="DIR",
    ),
]


@guarded
def classify(
    clips: Clips,
    *,
    top: Annotated[int, typer.Option(metavar="N", min=1, help="Classes to show.")] = 5,
    audio: Audio = None,
    model: Model = None,
    every: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0.01,
            help="From one window of a long clip to the next.",
            show_default="half a window",
        ),
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    set_threads(threads)
    from avtool.infer import classify as run

    failures = Failures(clips)
    found = run(clips, audio=audio, model=model, every=every, device=device, failed=failures.tell)
    if json:
        print_json({"clips": [_as_dict(one, top) for one in found], "failed": failures.found})
    else:
        for one in found:
            _print(one, top)
    failures.leave()


class Failures:
    """Clips of several that could not be used: each is told on stderr, and the command fails at its end."""

    def __init__(self, clips: list[Path]) -> None:
        self.count, self.found = len(clips), list[dict[str, str]]()

    def tell(self, clip: Path, error: AvtoolError) -> None:
        """Note what is wrong with ``clip``; raise it where there is no other clip to do."""
        if self.count == 1:
            raise error
        message = error.message if str(clip) in error.message else f"{clip}: {error.message}"
        self.found.append({"clip": str(clip), "error": message})
        typer.echo(f"error: {message}", err=True)
        if error.hint:
            typer.echo(f"hint: {error.hint}", err=True)

    def leave(self) -> None:
        """End with exit code 1 where something failed."""
        if self.found:
            typer.echo(f"{len(self.found)} of {self.count} clips failed", err=True)
            raise typer.Exit(1)


def _as_dict(found: Classified, top: int) -> dict[str, Any]:
    def named(classes: list[tuple[str, float]]) -> list[dict[str, Any]]:
        return [{"class": name, "probability": round(value, 6)} for name, value in classes]

    windows = [
        {"start": round(float(start), 3), "end": round(float(end), 3), "top": named(found.top(top, window))}
        for window, (start, end) in enumerate(found.times)
    ]
    return {"clip": str(found.clip), "top": named(found.top(top)), "windows": windows}


def _print(found: Classified, top: int) -> None:
    windows = len(found.times)
    typer.echo(f"{found.clip}" + (f": mean of {windows} windows" if windows > 1 else ""))
    for name, value in found.top(top):
        typer.echo(f"  {value:7.1%}  {name}")
    for window, (start, end) in enumerate(found.times if windows > 1 else ()):
        (name, value), *_ = found.top(1, window)
        typer.echo(f"  {start:7.2f} to {end:7.2f} s  {value:7.1%}  {name}")


classify.__doc__ = f"""Say what clips are of.

    A clip that is longer than the model's window is heard in several: first their mean, then one line each.
    {DASH_NOTE}
    """
