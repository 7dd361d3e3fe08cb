"""``avtool recipes``: list, show, copy and validate recipes."""

import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from avtool.commands import Settings, argument, command, complete_recipes, examples, option, print_json
from avtool.config.shipped import find_recipe, list_recipes
from avtool.errors import UsageError
from avtool.files import atomic_file, check_output

EPILOG = examples(
    "avtool recipes ls",
    "avtool recipes show tiny optim.base_lr=1e-3",
    "avtool recipes cp tiny my.yaml",
    next_command="avtool pretrain --recipe tiny",
)
app = typer.Typer(
    help="List, show, copy and validate recipes.", epilog=EPILOG, no_args_is_help=True, rich_markup_mode=None
)
Name = Annotated[
    str, argument("NAME", "Name of a shipped recipe or a YAML file.", autocompletion=complete_recipes)
]


@app.command(
    epilog=examples("avtool recipes ls", "avtool recipes ls --json", next_command="avtool recipes show tiny")
)
@command("json")
def ls(*, json: bool) -> None:
    """List the shipped recipes and what each is for."""
    heads = list_recipes()
    if json:
        print_json({"recipes": [asdict(head) for head in heads]})
        return
    width = max(len(head.name) for head in heads) + 2
    for head in heads:
        about = f"{head.purpose} ({head.hardware}; time: {head.time}; score: {head.score})"
        for number, line in enumerate([*textwrap.wrap(about, 79 - width), head.command]):
            typer.echo(f"{'' if number else head.name:{width}}{line}")


@app.command(
    epilog=examples(
        "avtool recipes show tiny",
        "avtool recipes show dense train.batch_size=64 > my.yaml",
        next_command="avtool pretrain --recipe tiny --dry-run",
    )
)
@command()
def show(
    name: Name,
    settings: Settings = None,
    raw: Annotated[bool, option(None, "The file as it is, with its comments.", "--raw")] = False,
) -> None:
    """Print a recipe with everything resolved: parent, settings, defaults."""
    if raw:
        if settings:
            hint = f"avtool recipes show {name}"
            raise UsageError("--raw shows the file as it is, without settings", hint=hint)
        typer.echo(find_recipe(name).read_text(encoding="utf-8"), nl=False)
        return
    from avtool.config.recipes import dump_recipe, load_recipe

    typer.echo(dump_recipe(load_recipe(name, settings or ())), nl=False)


@app.command(
    epilog=examples(
        "avtool recipes cp tiny my.yaml",
        "avtool recipes cp dense recipes/ours.yaml",
        next_command="avtool pretrain --recipe my.yaml",
    )
)
@command("force")
def cp(name: Name, dest: Annotated[Path, argument("DEST", "File to write.")], *, force: bool) -> None:
    """Copy a recipe, comments and all, to a file of your own."""
    source = find_recipe(name)
    if dest.is_dir():
        hint = f"avtool recipes cp {name} {dest / source.name}"
        raise UsageError(f"{dest} is a folder, a file is needed", hint=hint)
    check_output(dest, force=force, option="DEST")
    with atomic_file(dest) as partial:
        partial.write_bytes(source.read_bytes())
    typer.echo(dest)


@app.command(
    epilog=examples(
        "avtool recipes validate my.yaml",
        "avtool recipes validate dense model.image_size=[128,128]",
        next_command="avtool pretrain --recipe my.yaml --dry-run",
    )
)
@command()
def validate(name: Name, settings: Settings = None) -> None:
    """Check a recipe: keys, types, and values that must go together."""
    from avtool.config.recipes import load_recipe

    load_recipe(name, settings or ())
    typer.echo(f"{name}: valid")
