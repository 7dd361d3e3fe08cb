"""What the commands that train share: which recipe, which data and which run folder are meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from avtool import places
from avtool.commands import command_line, first_process
from avtool.errors import DataError, RecipeError, UsageError

if TYPE_CHECKING:
    from avtool.config.schema import Recipe

TRAINING = ("recipe", "data", "out", "resume", "stop_after", "dry_run", "device", "threads", "force")
"""Options of the commands that train, of those that are shared."""


def start_training(
    task: str,
    settings: Sequence[str],
    *,
    recipe: str | None,
    data: Path | None,
    out: Path | None,
    resume: bool,
    dry_run: bool,
    seed: int | None,
    device: str,
    allow_random: bool = False,
    **how: Any,
) -> None:
    """Train by ``recipe`` with ``settings`` over it, ``how`` as ``avtool.engine.train`` takes it, and print the run
    folder; with ``dry_run`` print the recipe and what a run of it would be, in the first process alone. UsageError
    where that is not enough, or is of another task than ``task``."""
    if seed is not None:
        settings = [*settings, f"seed={seed}"]
    chosen, name = _recipe(task, recipe, settings, out if resume else None)
    out = out or _default_out(Path(name).stem, resume=resume)
    data = data or _data(chosen, out if resume else None)
    if not dry_run:
        from avtool.engine import train

        how |= {"allow_random": allow_random, "device": device, "resume": resume, "command": command_line()}
        done = train(chosen, data=data, out=out, **how)
        if first_process():
            typer.echo(done)
        return
    if not first_process():
        return
    from avtool.config.recipes import dump_recipe
    from avtool.engine import dry_run as what_it_would_be

    if task != "pretrain":
        from avtool.engine import starting_model

        chosen, _ = starting_model(chosen, allow_random=allow_random)
    typer.echo(dump_recipe(chosen))
    typer.echo(what_it_would_be(chosen, data=data, device=device))


def _recipe(task: str, name: str | None, settings: Sequence[str], resumed: Path | None) -> tuple[Recipe, str]:
    """The recipe and its name, without one that of the run that is ``resumed``."""
    from avtool.config.recipes import load_recipe

    if name is None:
        if resumed is None:
            raise UsageError(
                "no --recipe is given",
                hint="avtool recipes ls lists them; with --resume --out RUN it is the run's",
            )
        if not (resumed / "recipe.yaml").is_file():
            raise UsageError(f"there is no run at {resumed} to go on with", hint="begin one with --recipe")
        name = str(resumed / "recipe.yaml")
    try:
        recipe = load_recipe(name, settings)
    except RecipeError:
        _check_task(load_recipe(name), name, task)  # then that is why they do not fit
        raise
    _check_task(recipe, name, task)
    return recipe, name


def _check_task(recipe: Recipe, name: str, task: str) -> None:
    if recipe.task != task:
        verb = "pretrain" if recipe.task == "pretrain" else f"finetune {recipe.task}"
        hint = f"avtool {verb} --recipe {name}, or another recipe: avtool recipes ls"
        if Path(name).name == "recipe.yaml":
            hint = f"avtool {verb} --resume --out {Path(name).parent}"
        raise UsageError(f"recipe {name} is of task {recipe.task}, not {task}", hint=hint)


def _data(recipe: Recipe, resumed: Path | None) -> Path:
    """The prepared data that the run that is ``resumed`` was made from, else those of the recipe's name."""
    from avtool.tracking import read_run_facts

    facts = read_run_facts(resumed) if resumed is not None else {}
    if made_from := facts.get("data", {}).get("folder"):
        return Path(made_from)
    folder = places.prepared_folder(recipe.data.name)
    if not folder.is_dir():
        raise DataError(
            f"no prepared data at {folder} (data.name is {recipe.data.name}, --data is not given)",
            hint=f"avtool prepare {recipe.data.name}",
        )
    return folder


def _default_out(name: str, *, resume: bool) -> Path:
    """A new run folder; with ``resume`` the newest run of this recipe that has a checkpoint, if any."""
    if resume and places.RUNS.is_dir():
        dated = re.compile(re.escape(name) + r"-\d{8}-\d{6}(-\d+)?")
        if newest := places.newest_of(run for run in places.RUNS.iterdir() if dated.fullmatch(run.name)):
            return newest
    return places.new_run_folder(name)
