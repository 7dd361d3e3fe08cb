"""The page of a run: its curves, pictures and tables, what it cost and how it was made."""

import shlex
from pathlib import Path
from typing import Any

from avtool.commands import fact_in_words
from avtool.config.checkpoint import read_config
from avtool.engine.run import RECONSTRUCTIONS
from avtool.errors import CheckpointError, in_bytes
from avtool.files import printable, sha256_of
from avtool.html import data_url, render
from avtool.hub import WEIGHTS
from avtool.inspect import describe_model
from avtool.places import checkpoints_of, resolve_checkpoint, step_of
from avtool.report.curves import CHART, charts
from avtool.speed import in_hours
from avtool.tasks.table import measure_in_words
from avtool.tracking import EVALUATIONS, kept_tables, read_run_facts, rows_of_run


def run_page(run: Path) -> str:
    """The page of the folder ``run``. AvtoolError where it has no step of training yet, or is damaged."""
    rows, facts = rows_of_run(run), read_run_facts(run)
    recipe = run / "recipe.yaml"
    picture = run / RECONSTRUCTIONS
    try:
        model = resolve_checkpoint(run)
    except CheckpointError:
        if checkpoints_of(run):
            raise
        model = None  # which the page says
    tables = kept_tables(run, sha256_of(model / WEIGHTS)) if model else []
    return render(
        "run",
        name=printable(run.resolve().name),
        said=_said(run, rows[-1]["step"], model),
        tiles=_cost(rows, model),
        charts=charts(rows),
        size=CHART,
        picture=data_url(picture.read_bytes(), "image/png") if picture.is_file() else "",
        tables=tables,
        other=(run / EVALUATIONS).is_file() and not tables,
        evaluate=f"avtool evaluate {printable(run)} --data {facts.get('data', {}).get('folder', 'DIR')}",
        measure=measure_in_words,
        made=_made(facts),
        recipe=recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else "",
    )


def _said(run: Path, step: int, model: Path | None) -> list[str]:
    """Sentences on what the run is, and how far it came."""
    if model is None:
        return [f"No checkpoint is written yet: the run is at step {step}, or was broken off there."]
    done = checkpoints_of(run)
    origin = read_config(done[-1] if done else model).origin
    said = [f"Made by {origin}."]
    _, _, planned = origin.rpartition(" of ")
    if done and planned.isdigit() and step_of(done[-1]) < int(planned):
        said.append("It is not finished: the same command with --resume goes on.")
    return [*said, f"Parameters and tables are of the weights in {printable(model.relative_to(run))}."]


def _cost(rows: list[dict[str, Any]], model: Path | None) -> list[tuple[str, str]]:
    """What it took, by name."""
    last: dict[str, Any] = next((row for row in reversed(rows) if row.get("seconds")), {})
    tiles = [("steps", f"{rows[-1]['step']:,}")]
    if {"seconds", "samples"} <= last.keys():
        pace = last["samples"] / last["seconds"]
        tiles += [
            ("training, without measuring", in_hours(last["seconds"])),
            ("samples", f"{last['samples']:,}"),
            ("samples a second", f"{pace:,.3g}"),
        ]
    if model is not None:
        found = describe_model(model)
        tiles += [
            ("parameters", f"{found['parameters']['all'] / 1e6:,.3g} M"),
            ("weights", in_bytes(found["bytes"])),
        ]
    return tiles


def _made(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """How it was made, as run.json says."""
    told = {**facts, "command": shlex.join(facts.get("command", [])), "resumed": len(facts.get("before", []))}
    data, start = told.get("data", {}), told.get("started_from")
    if {"name", "folder", "trained_on", "held_out", "checksum"} <= data.keys():
        told["data"] = (
            f"{data['name']} in {data['folder']}: {data['trained_on']:,} clips trained on, {data['held_out']:,} held "
            f"out; checksum {data['checksum'][:12]}"
        )
    if start:
        told["started_from"] = f"{start['origin']} ({start['folder']})"
    shown = {name: value for name, value in told.items() if value and name != "before"}
    return [(name.replace("_", " "), printable(fact_in_words(value))) for name, value in shown.items()]
