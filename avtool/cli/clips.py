"""What the commands share that run a model on one's own clips: options, and what becomes of clips that fail."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from avtool.errors import AvtoolError

Clip = Annotated[Path, typer.Argument(metavar="CLIP", help="A video, or an image with --audio.")]
Clips = Annotated[list[Path], typer.Argument(metavar="CLIP", help="Videos, or an image with --audio.")]
Audio = Annotated[
    Path | None, typer.Option(help="Sound that goes with an image, or in place of a clip's.", metavar="WAV")
]
Model = Annotated[
    Path | None,
    typer.Option(
        help="Run, checkpoint or converted folder.",
        show_default="$AVTOOL_MODEL, else the newest run or demo",
        metavar="DIR",
    ),
]
At = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", min=0, help="Time of the frame in seconds.", show_default="the middle"),
]
A_DAY = 86_400.0
"""The longest step between windows, in seconds."""


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
