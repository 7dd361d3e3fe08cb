"""The command line: one file a command over one public function. Nothing heavy is imported before it runs."""

import sys
from collections.abc import Iterator, Mapping
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from avtool import __version__
from avtool.commands import ClipCommand, examples
from avtool.registry import TASKS, load_module, resolve

STYLE: dict[str, Any] = {
    "add_completion": False,
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
FIRST, LAST = (
    ("fetch", "prepare", "convert_data", "pretrain", "finetune", "plot", "evaluate", "score", "report"),
    ("pull", "push", "convert", "export", "serve", "recipes", "demo", "inspect", "bench", "doctor"),
)
"""Commands that help lists before and after those of the tasks."""


class Commands(Mapping[str, Any]):
    """The commands by name, each imported and built when it is asked for.

    A command's module holds EPILOG and the command, or the ``app`` of several, and COMMAND where it is of a class of
    its own.
    """

    def __init__(self) -> None:
        places = [
            *(f"avtool.cli.{name}:{name}" for name in FIRST),
            *(task.command for task in TASKS.values() if task.command),
            *(f"avtool.cli.{name}:{name}" for name in LAST),
        ]
        self._places = {place.partition(":")[2].replace("_", "-"): place for place in places}

    def __getitem__(self, name: str) -> Any:
        module = load_module(self._places[name])
        if hasattr(module, "app"):
            return typer.main.get_command(module.app)
        alone = typer.Typer(**STYLE)
        kind = getattr(module, "COMMAND", ClipCommand)
        alone.command(name, cls=kind, epilog=module.EPILOG)(resolve(self._places[name]))
        return typer.main.get_command(alone)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class Group(TyperGroup):
    """``avtool``: only the command that is typed is imported."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = Commands()  # type: ignore[assignment]


app = typer.Typer(
    name="avtool",
    cls=Group,
    help="Audio-visual learning: raw clips in, prepared data, masked pretraining, a heat map out.",
    epilog=examples(
        "avtool demo",
        "avtool prepare synth",
        "avtool pretrain --recipe tiny",
        "avtool localize clip.mp4 --out heatmap.png",
        next_command="avtool COMMAND --help",
    ),
    no_args_is_help=True,
    **{**STYLE, "add_completion": True},
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


def main() -> None:
    """The console entry."""
    if isinstance(sys.stdout, TextIOWrapper):  # paths leave as the bytes they are, in whatever coding
        sys.stdout.reconfigure(errors="surrogateescape")
    app(prog_name="avtool")
