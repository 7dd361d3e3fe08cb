"""``avtool loudness``."""

from __future__ import annotations

from pathlib import Path

import typer

from avtool.commands import Clips, Failures, command, examples

EPILOG = examples("avtool loudness clip.mp4")


@command("model", "device")
def loudness(clips: Clips, *, model: Path | None, device: str) -> None:
    """Say how loud clips are."""
    from avtool.devices import resolve_device
    from avtool.predict import Clips as Given
    from avtool.predict import choose_model

    failures = Failures(clips)
    chosen = choose_model(model, device=resolve_device(device), task="loudness")
    given = Given(clips, None, None, failures.tell)
    for found in given.compute(chosen, lambda net, image, audio: {"dB": net(image, audio)}):
        typer.echo(f"{found.clip}  {found.results['dB'].mean():.1f} dB")
    failures.leave()
