"""The command line: one file a command over one public function. Nothing heavy is imported before it runs."""

import sys
from importlib import import_module
from io import TextIOWrapper
from typing import Annotated

import typer

from avtool import __version__
from avtool.cli import (
    bench,
    convert,
    demo,
    doctor,
    evaluate,
    export,
    finetune,
    inspect,
    plot,
    prepare,
    pretrain,
    pull,
    recipes,
)
from avtool.commands import ClipCommand, examples
from avtool.registry import TASKS, resolve

app = typer.Typer(
    name="avtool",
    help="Audio-visual learning: raw clips in, prepared data, masked pretraining, a heat map out.",
    epilog=examples(
        "avtool demo",
        "avtool prepare synth",
        "avtool pretrain --recipe tiny",
        "avtool localize clip.mp4 --out heatmap.png",
        next_command="avtool COMMAND --help",
    ),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"avtool {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


app.command(epilog=prepare.EPILOG)(prepare.prepare)
app.command(epilog=pretrain.EPILOG)(pretrain.pretrain)
app.command(epilog=finetune.EPILOG)(finetune.finetune)
app.command(epilog=plot.EPILOG)(plot.plot)
app.command(epilog=evaluate.EPILOG)(evaluate.evaluate)
for task in TASKS.values():
    if task.command:
        module = import_module(task.command.partition(":")[0])
        app.command(cls=ClipCommand, epilog=module.EPILOG)(resolve(task.command))
app.command(epilog=pull.EPILOG)(pull.pull)
app.command(cls=convert.ConvertCommand, epilog=convert.EPILOG)(convert.convert)
app.command(epilog=export.EPILOG)(export.export)
app.add_typer(recipes.app, name="recipes")
app.command(epilog=demo.EPILOG)(demo.demo)
app.command(cls=ClipCommand, epilog=inspect.EPILOG)(inspect.inspect)
app.add_typer(bench.app, name="bench")
app.command(epilog=doctor.EPILOG)(doctor.doctor)


def main() -> None:
    """The console entry."""
    if isinstance(sys.stdout, TextIOWrapper):  # paths leave as the bytes they are, in whatever coding
        sys.stdout.reconfigure(errors="surrogateescape")
    app(prog_name="avtool")
