"""``avtool inspect``: what a data set, a model or a clip is, in a screenful."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from avtool.commands import argument, command, examples, option, print_facts, print_json
from avtool.errors import UsageError, in_bytes

EPILOG = examples(
    "avtool inspect data/prepared/synth --sheet sheet.png",
    "avtool inspect data/prepared/synth --verify --json",
    "avtool inspect runs/tiny-20250101-120000",
    "avtool inspect clip.mp4",
    next_command="avtool pretrain --recipe tiny --dry-run",
)
CLIPS = 24
UNITS = {
    "bytes": in_bytes,
    "duration": lambda seconds: f"{seconds:.2f} s",
    "durations": lambda seconds: f"{seconds:.1f} s",
    "seconds": lambda seconds: f"{seconds:g} s",
    "bit_rate": lambda rate: f"{rate / 1000:,.0f} kbit/s",
    "rotation": lambda degrees: f"{degrees} degrees",
}
"""Name of a fact: how it and what stands under it is written."""


@command("force", "json")
def inspect(
    path: Annotated[
        Path, argument("PATH", "A prepared data set, a run, checkpoint or pulled model, or a clip.")
    ],
    *,
    verify: Annotated[
        bool, option(None, "Read all of a data set and compare its checksums.", "--verify")
    ] = False,
    sheet: Annotated[
        Path | None, option("PNG", "Contact sheet of random clips of a data set to write.")
    ] = None,
    clips: Annotated[int | None, option("N", "Clips in the sheet.", usual=str(CLIPS), min=1)] = None,
    seed: Annotated[int | None, option("N", "Seed that they are drawn from.", usual="0", min=0)] = None,
    force: bool,
    json: bool,
) -> None:
    """Say what a data set, a model or a clip is.

    Nothing is changed. Clip names that begin with - go after -- or are written ./-x.mp4.
    """
    if sheet is None and (clips, seed, force) != (None, None, False):
        hint = "add --sheet sheet.png, or leave them out"
        raise UsageError("--clips, --seed and --force go with --sheet", hint=hint)
    from avtool.inspect import inspect as run
    from avtool.inspect import kind_of, write_sheet

    if sheet is not None and (kind := kind_of(path)) != "data set":
        raise UsageError(f"{path} is a {kind}: --sheet goes with a data set", hint="leave it out")
    found = run(path, verify=verify)
    if sheet is not None:
        ids = write_sheet(path, sheet, clips=clips or CLIPS, seed=seed or 0, force=force)
        found["sheet"] = {"path": str(sheet), "ids": ids}
    if json:
        print_json(found)
    else:
        print_facts(_shown(found), units=UNITS)


def _shown(found: Mapping[str, Any]) -> dict[str, Any]:
    """What is printed of ``found``: of a run, in place of all that it keeps, what it is told by."""
    facts = dict(found)
    if run := facts.pop("run", None):
        told = {name: run["facts"].get(name) for name in ("command", "data")}
        recipe = run.pop("recipe") or {}
        sections = {**recipe, **recipe.get("optim", {}), **recipe.get("train", {})}
        told["recipe"] = {name: value for name, value in sections.items() if not isinstance(value, Mapping)}
        facts |= {"run": run.pop("folder"), **told, **{name: run[name] for name in run if name != "facts"}}
    return facts
