"""What the commands that train share: which recipe, which data and which run folder are meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from avtool.config.schema import Recipe


@dataclass(frozen=True)
class Training:
    """A resolved recipe, its prepared data and its run folder."""

    recipe: Recipe
    data: Path
    out: Path

    @classmethod
    def of(
        cls,
        name: str | None,
        settings: Sequence[str],
        *,
        data: Path | None,
        out: Path | None,
        resume: bool,
        seed: int | None,
        task: str,
    ) -> Training:
        """From what the command line says; UsageError where that is not enough, or is of another task."""
        from avtool.config.recipes import load_recipe
        from avtool.errors import RecipeError, UsageError

        if name is None:
            name = _recipe_of(out) if resume and out is not None else None
        if name is None and resume and out is not None:
            raise UsageError(f"there is no run at {out} to go on with", hint="begin one with --recipe")
        if name is None:
            raise UsageError(
                "no --recipe is given",
                hint="avtool recipes ls lists them; with --resume --out RUN it is the run's",
            )
        try:
            recipe = load_recipe(name, [*settings, *(() if seed is None else (f"seed={seed}",))])
        except RecipeError:
            _check_task(load_recipe(name), name, task)  # then that is why they do not fit
            raise
        _check_task(recipe, name, task)
        out = out or _default_out(Path(name).stem, resume=resume)
        return cls(recipe, data or (_data_of(out) if resume else None) or _default_data(recipe), out)

    def describe(self, recipe: Recipe, device: str) -> None:
        """Print ``recipe`` and what a run of it would be."""
        from avtool.config.recipes import dump_recipe
        from avtool.engine import dry_run

        typer.echo(dump_recipe(recipe))
        typer.echo(dry_run(recipe, data=self.data, device=device))


def _check_task(recipe: Recipe, name: str, task: str) -> None:
    from avtool.errors import UsageError

    if recipe.task != task:
        verb = "pretrain" if recipe.task == "pretrain" else f"finetune {recipe.task}"
        of_run = f"avtool {verb} --resume --out {Path(name).parent}"
        raise UsageError(
            f"recipe {name} is of task {recipe.task}, not {task}",
            hint=of_run
            if Path(name).name == "recipe.yaml"
            else f"avtool {verb} --recipe {name}, or another recipe: avtool recipes ls",
        )


def _recipe_of(run: Path) -> str | None:
    """The recipe that a run was made by, if it is one."""
    path = run / "recipe.yaml"
    return str(path) if path.is_file() else None


def _data_of(run: Path) -> Path | None:
    """The prepared data that a run was made from."""
    from avtool.tracking import read_run_facts

    folder = read_run_facts(run).get("data", {}).get("folder")
    return Path(folder) if folder else None


def _default_data(recipe: Recipe) -> Path:
    from avtool import places
    from avtool.errors import DataError

    folder = places.prepared_folder(recipe.data.name)
    if not folder.is_dir():
        raise DataError(
            f"no prepared data at {folder} (data.name is {recipe.data.name}, --data is not given)",
            hint=f"avtool prepare {recipe.data.name}",
        )
    return folder


def _default_out(name: str, *, resume: bool) -> Path:
    """A new run folder; with ``resume`` the newest run of this recipe that has a checkpoint, if any."""
    from avtool import places

    if resume and places.runs_root().is_dir():
        dated = re.compile(re.escape(name) + r"-\d{8}-\d{6}(-\d+)?")
        runs = [run for run in places.runs_root().iterdir() if dated.fullmatch(run.name)]
        done = [(found[-1].stat().st_mtime_ns, run) for run in runs if (found := places.checkpoints_of(run))]
        if done:
            return max(done)[1]
    return places.new_run_folder(name)
