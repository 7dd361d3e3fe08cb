"""``avtool pretrain``: a recipe and prepared data in, a run folder with checkpoints out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from avtool.cli.common import (
    Debug,
    Device,
    Force,
    Settings,
    Threads,
    command_line,
    examples,
    guarded,
    set_threads,
)

if TYPE_CHECKING:
    from avtool.config.schema import Recipe

EPILOG = examples(
    "avtool pretrain --recipe tiny",
    "avtool pretrain --recipe dense --dry-run train.batch_size=64",
    "avtool pretrain --recipe tiny --data data/prepared/my_clips max_steps=200",
    next_command="avtool localize clip.mp4 --out heatmap.png",
)


@guarded
def pretrain(
    settings: Settings = None,
    *,
    recipe: Annotated[
        str, typer.Option(metavar="NAME", help="A recipe's name (avtool recipes ls) or a YAML file.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="Prepared data.", show_default="$AVTOOL_DATA/prepared/NAME", metavar="DIR"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder.", show_default="./runs/RECIPE-DATE", metavar="RUN")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on from the newest checkpoint of --out, or of the newest such run."
        ),
    ] = False,
    stop_after: Annotated[
        int | None, typer.Option(min=1, help="Stop after step N; the schedule stays as it is.", metavar="N")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only print the recipe, the model's size and one batch's shapes."),
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="Seed of everything drawn at random.", show_default="the recipe's"
        ),
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Pretrain by masked reconstruction of image and sound.

    Settings are keys of the recipe, as optim.base_lr=1e-4 or model.fusion.tokens=[8,4,4].
    """
    from avtool.config.recipes import dump_recipe, load_recipe

    overrides = [*(settings or ()), *(() if seed is None else (f"seed={seed}",))]
    resolved = load_recipe(recipe, overrides)
    if dry_run:
        typer.echo(dump_recipe(resolved))
    out = out or _default_out(Path(recipe).stem, resume=resume)
    data = data or (_data_of(out) if resume else None) or _default_data(resolved)
    set_threads(threads)
    if dry_run:
        from avtool.engine import dry_run as describe

        typer.echo(describe(resolved, data=data, device=device))
        return
    from avtool.engine import pretrain as train

    run = train(
        resolved,
        data=data,
        out=out,
        device=device,
        resume=resume,
        stop_after=stop_after,
        force=force,
        command=command_line(),
    )
    typer.echo(run)


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
