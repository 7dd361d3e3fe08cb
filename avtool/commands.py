"""What the commands share: option types, and how an error becomes a line, a way out and an exit code."""

import errno
import functools
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from inspect import Parameter, Signature, getdoc, signature
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand
from typer.exceptions import TyperException

from avtool.errors import AvtoolError, UsageError, in_words
from avtool.files import json_text
from avtool.places import from_home
from avtool.registry import DATASETS, resolve

INTERRUPTED = 130
DASH_NOTE = "Clip names that begin with - go after -- or are written ./-x.mp4."


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise typer.BadParameter(f"{value!r} is none of auto, cpu, cuda, cuda:N, mps")
    return value


def _seed(value: int | None) -> int | None:
    if value is not None and not 0 <= value < 2**63:
        raise typer.BadParameter(f"{value} is not from 0 to 2**63 - 1")
    return value


def option(metavar: str | None, words: str, *names: str, usual: str = "", **more: Any) -> Any:
    """An option with the help ``words``, named like its parameter unless ``names`` are given; ``usual``: its default in
    words."""
    return typer.Option(*names, metavar=metavar, help=words, show_default=usual or True, **more)


def argument(metavar: str, words: str, *, usual: str | bool = True, **more: Any) -> Any:
    """An argument with the help ``words``; ``usual``: its default in words, False where none is shown."""
    return typer.Argument(metavar=metavar, help=words, show_default=usual, **more)


def completing(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """The ``autocompletion`` of an option or argument: those of ``names`` that begin as typed. The shell waits for it,
    so that nothing heavy may be imported."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete


def _recipes() -> list[str]:
    names: list[str] = resolve(
        "avtool.config.shipped:recipe_names"
    )()  # by its place, for it is of a layer above
    return names


complete_recipes = completing(_recipes)
complete_datasets = completing(lambda: DATASETS)


A_DAY = 86_400.0
"""The longest step between windows, in seconds."""


def every(words: str, usual: str) -> Any:
    """``--every`` of a command that hears a clip in windows: what it means there, and what is usual."""
    return option("SECONDS", words, "--every", usual=usual, min=0.01, max=A_DAY)


Clips = Annotated[list[Path], argument("CLIP", "Videos, a folder of them, or an image with --audio.")]
Settings = Annotated[list[str] | None, argument("KEY=VALUE", "Settings laid over the recipe.")]
DRAWN = "Seed of everything drawn at random."
RunSeed = Annotated[int | None, option("N", DRAWN, usual="the recipe's", callback=_seed)]

_RECIPE, _OF_RUN = "A recipe's name (avtool recipes ls) or a YAML file.", "with --resume --out the run's"
_RESUME = "Go on from the newest checkpoint of --out, or of the newest such run."
_COST = "Only print the recipe and what it would cost: size, steps, memory, bytes, hours."
_NAMED = "Run, checkpoint or converted folder, or a name (pulled, or OWNER/NAME on the hub)."
_MODEL = "$AVTOOL_MODEL, else the newest run or demo"
SHARED: dict[str, tuple[Any, Any, Any]] = {
    "recipe": (
        str | None,
        option("NAME", _RECIPE, usual=_OF_RUN, autocompletion=complete_recipes),
        None,
    ),
    "data": (Path | None, option("DIR", "Prepared data.", usual="$AVTOOL_DATA/prepared/NAME"), None),
    "out": (Path | None, option("RUN", "Run folder.", usual="./runs/RECIPE-DATE"), None),
    "resume": (bool, option(None, _RESUME, "--resume"), False),
    "stop_after": (int | None, option("N", "Stop after step N; the schedule stays as it is.", min=1), None),
    "dry_run": (bool, option(None, _COST, "--dry-run"), False),
    "audio": (Path | None, option("WAV", "Sound that goes with an image, or in place of a clip's."), None),
    "model": (Path | None, option("MODEL", _NAMED, usual=_MODEL), None),
    "at": (float | None, option("SECONDS", "Time of the frame in seconds.", min=0, usual="the middle"), None),
    "seed": (int, option("N", DRAWN, callback=_seed), 0),
    "device": (str, option("NAME", "auto, cpu, cuda, cuda:N or mps.", callback=_device), "auto"),
    "threads": (
        int | None,
        option("N", "CPU threads for tensors.", min=1, usual="PyTorch's own choice"),
        None,
    ),
    "json": (bool, option(None, "Print one JSON object instead of a table.", "--json"), False),
    "force": (bool, option(None, "Replace the output where it exists.", "--force"), False),
    "debug": (bool, option(None, "Show the traceback of an error.", "--debug"), False),
}
"""Options by name that a command need not repeat: type, option, default."""


def command_line() -> list[str]:
    """The command as it was typed, for the record of a run."""
    return ["avtool", *sys.argv[1:]]


def set_threads(threads: int | None) -> None:
    """Use that many CPU threads for tensor work; None leaves PyTorch's own choice. Imports torch, if any."""
    if threads is None:
        return
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    import torch

    torch.set_num_threads(threads)


def first_process() -> bool:
    """Whether this is the first of the processes that torchrun starts, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    print(printed_json(value))


def printed_json(value: Any) -> str:
    """What ``print_json`` prints; bytes of a path that are no text are escaped in it."""
    text = json_text(value, indent=2, ensure_ascii=False, default=str)
    return re.sub("[\udc80-\udcff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def print_facts(facts: Mapping[str, Any], units: Mapping[str, Callable[[Any], str]] | None = None) -> None:
    """A line for each fact, its name before it, in 80 columns. ``units``: how numbers under a name are written."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(Text(name, style="bold"), Text(fact_in_words(value, name, units)))
    Console(width=80, highlight=False).print(table)


def fact_in_words(value: Any, name: str = "", units: Mapping[str, Callable[[Any], str]] | None = None) -> str:
    """``value`` as text; ``name`` is that whose unit of ``units`` it has."""
    units = units or {}
    if isinstance(value, Mapping):
        parts = {
            key: fact_in_words(item, key if key in units else name, units) for key, item in value.items()
        }
        nested = {key: isinstance(value[key], Mapping) for key in parts}
        return (
            ", ".join(f"{key} ({text})" if nested[key] else f"{key} {text}" for key, text in parts.items())
            or "none"
        )
    if isinstance(value, list | tuple):
        texts = [fact_in_words(item, name, units) for item in value]
        if value and all(isinstance(item, Mapping) for item in value):
            return "\n".join(texts)
        numbers = all(isinstance(item, int | float) for item in value)
        return (" x " if numbers else ", ").join(texts) or "none"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, int | float):
        write = units.get(name) or (
            lambda number: f"{number:,}" if isinstance(number, int) else f"{number:.4g}"
        )
        return write(value)
    return str(value) or "none"


def examples(*lines: str, next_command: str = "") -> str:
    """The end of a command's help: commands to copy, and the next one to type."""
    text = "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))
    return f"{text}\n\n\b\nNext:\n  {next_command}" if next_command else text


class ClipCommand(TyperCommand):
    """A command that takes the name of a clip: where that was read as options, it says how to write it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except TyperException as error:
            if name := next((word for word in given if re.fullmatch(r"-[^=]*\.\w*[a-zA-Z]\w*", word)), None):
                said = f"{name} begins with - and was read as an option: write ./{name}, or put -- before it"
                raise typer.BadParameter(said, ctx=ctx) from error
            raise


def command(*shared: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command with the options ``shared`` of ``SHARED`` beside its own. It gets them as keywords; ``threads`` are set
    before it runs, and given to a command that names them. What it raises becomes one line on stderr, the way out and
    the exit code; with ``--debug`` the traceback is shown as well. The help of a command on clips says how to write
    names like -x.mp4."""

    def decorate(run: Callable[..., None]) -> Callable[..., None]:
        added = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, described])
            for name in sorted({*shared, "debug"}, key=[*SHARED].index)
            for kind, described, default in [SHARED[name]]
        ]
        wanted = signature(run, eval_str=True).parameters
        own = [
            parameter
            for name, parameter in wanted.items()
            if parameter.kind is not Parameter.VAR_KEYWORD and name not in (*shared, "debug")
        ]

        @functools.wraps(run)
        def guarded(*args: Any, debug: bool = False, **kwargs: Any) -> None:
            before = signal.signal(signal.SIGTERM, _interrupt)
            try:
                if "threads" in shared:
                    set_threads(kwargs["threads"] if "threads" in wanted else kwargs.pop("threads"))
                given = {
                    name: from_home(value) if isinstance(value, Path) else value
                    for name, value in kwargs.items()
                }
                run(*args, **given)
            except KeyboardInterrupt:
                _fail("interrupted" if first_process() else "", "", INTERRUPTED)
            except (typer.Exit, typer.Abort, typer.BadParameter):
                raise
            except Exception as error:  # noqa: BLE001 - nothing may reach the user as a traceback
                if debug:
                    import traceback

                    traceback.print_exc()
                report(error)
            finally:
                signal.signal(signal.SIGTERM, before)

        guarded.__signature__ = Signature([*own, *added])  # type: ignore[attr-defined]
        if any(parameter.annotation == Clips for parameter in own):
            guarded.__doc__ = f"{getdoc(run)}\n\n{DASH_NOTE}"
        return guarded

    return decorate


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a command as Ctrl-C does: it cleans up after itself."""
    raise KeyboardInterrupt


def report(error: Exception) -> None:
    """Print ``error`` and leave with its exit code."""
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        raise error  # the reader of our output has gone; Typer leaves quietly
    known = in_words(error)
    _fail(known.message, known.hint, known.exit_code)


def _fail(message: str, hint: str, code: int) -> None:
    lines = [typer.style("error: ", fg=typer.colors.RED, bold=True) + message] if message else []
    lines += [typer.style("hint: ", bold=True) + hint] if hint else []
    if lines:
        typer.echo("\n".join(lines), err=True)  # in one piece, whatever else writes there
    raise typer.Exit(code)


class Failures:
    """Clips of several that could not be used: each is told on stderr, and the command fails at its end. UsageError
    where an option is given that goes with ``one`` clip alone."""

    def __init__(self, clips: list[Path], one: Mapping[str, Any] | None = None) -> None:
        self.count, self.found = len(clips), list[dict[str, str]]()
        if given := [name for name, value in (one or {}).items() if value is not None]:
            raise UsageError(f"{given[0]} goes with one clip, not with {self.count}", hint="name one clip")

    def tell(self, clip: Path, error: AvtoolError) -> None:
        """Note what is wrong with ``clip``; raise it where there is no other clip to do."""
        if self.count == 1:
            raise error
        message = error.message if str(clip) in error.message else f"{clip}: {error.message}"
        self.found.append({"clip": str(clip), "error": message})
        typer.echo(f"error: {message}", err=True)
        if error.hint:
            typer.echo(f"hint: {error.hint}", err=True)

    def leave(self) -> None:
        """End with exit code 1 where something failed."""
        if self.found:
            typer.echo(f"{len(self.found)} of {self.count} clips failed", err=True)
            raise typer.Exit(1)
