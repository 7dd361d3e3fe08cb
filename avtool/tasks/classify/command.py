"""``avtool classify``: clips in, their likeliest classes out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from avtool.commands import Clips, Failures, command, every, examples, option, print_json

if TYPE_CHECKING:
    from avtool.tasks.classify.predict import ClassificationResult

EPILOG = examples(
    "avtool classify clip.mp4 --model runs/tiny-classify-20260101-120000",
    "avtool classify *.mp4 --top 3 --json",
    "avtool classify photo.jpg --audio sound.wav",
    next_command="avtool evaluate RUN --data DIR",
)
TOP = 5
"""Classes that are shown unless more or fewer are asked for."""


@command("audio", "model", "device", "threads", "json")
def classify(
    clips: Clips,
    *,
    top: Annotated[int, option("N", "Classes to show.", min=1)] = TOP,
    every: Annotated[float | None, every("Seconds between windows of a long clip.", "half a window")] = None,
    json: bool,
    **options: Any,
) -> None:
    """Say what clips are of.

    A clip that is longer than the model's window is heard in several: first their mean, then one line each. A sound or
    a picture alone is judged by the head that is trained on it.
    """
    from avtool.predict import clips_in
    from avtool.tasks.classify.predict import classify as run

    failures = Failures(given := clips_in(clips))
    found = run(given, every=every, failed=failures.tell, **options)
    if json:
        print_json({"clips": [as_dict(one, top) for one in found], "failed": failures.found})
    else:
        for one in found:
            _print(one, top)
    failures.leave()


def as_dict(found: ClassificationResult, top: int = TOP) -> dict[str, Any]:
    """What --json says of a clip, with its ``top`` likeliest classes."""

    def named(classes: list[tuple[str, float]]) -> list[dict[str, Any]]:
        return [{"class": name, "probability": round(value, 6)} for name, value in classes]

    windows = [
        {"start": round(float(start), 3), "end": round(float(end), 3), "top": named(found.top(top, window))}
        for window, (start, end) in enumerate(found.times)
    ]
    lacks = found.lacks or None
    return {"clip": str(found.clip), "lacks": lacks, "top": named(found.top(top)), "windows": windows}


def _print(found: ClassificationResult, top: int) -> None:
    windows = len(found.times)
    notes = [f"mean of {windows} windows"] if windows > 1 else []
    notes += [f"without {found.lacks}"] if found.lacks else []
    typer.echo(f"{found.clip}" + (f": {', '.join(notes)}" if notes else ""))
    for name, value in found.top(top):
        typer.echo(f"  {value:7.1%}  {name}")
    for window, (start, end) in enumerate(found.times if windows > 1 else ()):
        (name, value), *_ = found.top(1, window)
        typer.echo(f"  {start:7.2f} to {end:7.2f} s  {value:7.1%}  {name}")
