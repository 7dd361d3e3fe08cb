"""``avtool bench``: what the model and its data cost on this machine, as a table or as JSON."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avtool.cli.common import Debug, Device, Json, Seed, Threads, examples, guarded, print_json, set_threads

if TYPE_CHECKING:
    from rich.table import Table

EPILOG = examples(
    "avtool bench fusion",
    "avtool bench step --threads 2 --precision bf16",
    "avtool bench data downloads/vggsound",
    next_command="avtool pretrain --recipe dense --dry-run",
)
app = typer.Typer(
    help="Measure what the model and its data cost on this machine.\n\n"
    "All that is compared runs by turns in one process, after a warm-up. Let nothing else run meanwhile.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
)
Rounds = Annotated[int, typer.Option(metavar="N", min=1, help="Rounds that are measured.")]


class Size(StrEnum):
    """Sizes of the model."""

    full = "full"
    tiny = "tiny"


class Precision(StrEnum):
    """Precisions."""

    float32 = "float32"
    bf16 = "bf16"
    fp16 = "fp16"


class Kind(StrEnum):
    """Kinds of fusion."""

    token = "token"
    factorized = "factorized"
    dense = "dense"


def _of_the_model(what: str) -> Callable[..., None]:
    """The command of a benchmark of the model."""

    @guarded
    def run(
        *,
        size: Annotated[Size, typer.Option(metavar="NAME", help="full (ViT-B) or tiny.")] = Size.full,
        fusion: Annotated[
            list[Kind] | None,
            typer.Option(
                metavar="KIND",
                help="token, factorized or dense; may be given again.",
                show_default="all three",
            ),
        ] = None,
        batch: Annotated[int, typer.Option(metavar="N", min=1, help="Clips in a pass.")] = 4,
        precision: Annotated[
            Precision, typer.Option(metavar="NAME", help="float32, bf16 or fp16.")
        ] = Precision.float32,
        rounds: Rounds = 5,
        attn_ratio: Annotated[
            float | None,
            typer.Option(
                metavar="X", help="Width of fusion's queries and keys over the model's.", show_default="0.25"
            ),
        ] = None,
        compile_passes: Annotated[
            bool, typer.Option("--compile", help="Compile with torch.compile.")
        ] = False,
        device: Device = "auto",
        threads: Threads = None,
        as_json: Json = False,
        debug: Debug = False,
    ) -> None:
        set_threads(threads)
        from avtool.bench.run import benchmark

        found = benchmark(
            what,
            size=size.value,
            fusions=[kind.value for kind in fusion or Kind],
            batch=batch,
            precision=precision.value,
            rounds=rounds,
            attn_ratio=attn_ratio,
            compile=compile_passes,
            device=device,
        )
        if as_json:
            print_json(found)
        else:
            _print(found)

    return run


UNIT = "A GFLOP-equivalent is the time in which one big matrix product does 1e9 operations."
app.command(
    "fusion",
    help=f"One fusion block, with and without built pairs.\n\n{UNIT}",
    epilog=examples(
        "avtool bench fusion",
        "avtool bench fusion --fusion dense --fusion token --json",
        next_command="avtool bench step",
    ),
)(_of_the_model("fusion"))
app.command(
    "step",
    help=f"Whole training steps, and the encoder alone.\n\n{UNIT}",
    epilog=examples(
        "avtool bench step --threads 2 --precision bf16",
        "avtool bench step --size tiny --rounds 3 --json",
        next_command="avtool pretrain --recipe dense --dry-run",
    ),
)(_of_the_model("step"))


@app.command(
    epilog=examples(
        "avtool bench data",
        "avtool bench data downloads/vggsound --json",
        "avtool bench data data/prepared/synth",
        next_command="avtool inspect data/prepared/synth",
    )
)
@guarded
def data(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="SOURCE",
            help="Folder of clips, or a prepared data set that holds its own.",
            show_default="clips are rendered",
        ),
    ] = None,
    *,
    clips: Annotated[int, typer.Option(metavar="N", min=1, help="Clips to take or to render, at most.")] = 64,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Clips in a batch.")] = 32,
    rounds: Rounds = 5,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Training samples from mp4 files, and from the same clips prepared.

    A sample is a random crop of a frame and 3 s of sound, without log-mel. The mp4 side opens and seeks the
    file for every sample, as is common. "A core" is a second of one process' CPU time; with workers, of
    wall time.
    """
    set_threads(1)
    from avtool.bench.data import benchmark_data

    found = benchmark_data(source, clips=clips, batch=batch, rounds=rounds, seed=seed)
    if as_json:
        print_json(found)
    else:
        _print_data(found)


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(width=80, highlight=False)
    for line in _caption(found):
        console.print(line, markup=False)
    console.print(_costs(found["results"]))
    if found["ratios"]:
        console.print(_ratios(found["ratios"]))
    if found["built_pairs"]:
        console.print(_verdict(found["built_pairs"]), markup=False)


def _print_data(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console, clips, settings = Console(width=80, highlight=False), found["clips"], found["settings"]
    width, height = clips["median_size"]
    console.print(_machine(found), markup=False)
    console.print(
        f"{clips['count']} clips, median {clips['median_seconds']:.1f} s of {width:.0f} x {height:.0f}, "
        f"{clips['file_bytes'] / 1e6:,.1f} MB of files; batch {settings['batch']}, "
        f"medians of {settings['rounds']} rounds",
        markup=False,
    )
    for title, key, rows in (
        ("samples/s", "rounds", found["results"]),
        ("ratio", "void", found["ratios"]),
    ):
        table = Table(box=None, padding=(0, 1, 0, 0))
        table.add_column("way" if key == "rounds" else "compared", no_wrap=True)
        for column in (title, "(quartiles)"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in rows:
            rate = row["rate"]
            name = row["name"] if key == "rounds" else f"{row['over']} : {row['under']}"
            quartiles = f"({_number(rate['q1'])} to {_number(rate['q3'])})"
            table.add_row(name, *(("void", "") if row.get("void") else (_number(rate["median"]), quartiles)))
        console.print(table)
    console.print(_data_verdict(found["mp4"]), markup=False)


def _data_verdict(mp4: dict[str, Any]) -> str:
    meaning = {
        "honest": "the mp4 side is honest",
        "void": "ratios to it are void: is something else running?",
        "unchecked": "not compared: that holds for clips of 10 s and 240 lines or more",
    }
    return (
        f"mp4: {_number(mp4['rate'])} samples a core-second, the published loader at least "
        f"{mp4['published']:.0f}: {meaning[mp4['verdict']]}"
    )


def _machine(found: dict[str, Any]) -> str:
    machine = found["machine"]
    load = "" if machine["load"] is None else f", load {machine['load']:.1f} before"
    return (
        f"{machine['accelerator'] or machine['cpu']}, {machine['threads']} threads on {machine['cores']} cores, "
        f"torch {machine['torch']}{load}, {found['date'][:10]}"
    )


def _caption(found: dict[str, Any]) -> list[str]:
    settings, product = found["settings"], found["product"]
    return [
        _machine(found),
        f"{settings['benchmark']}, {settings['size']} size, batch {settings['batch']}, {settings['precision']}, "
        f"attn_ratio {settings['attn_ratio']:g}{', compiled' if settings['compile'] else ''}; "
        f"medians of {settings['rounds']} rounds",
        f"one {settings['product_side']}-cubed matrix product: {product['gflop_per_second']:,.0f} GFLOP/s",
    ]


def _costs(results: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("pass", no_wrap=True)
    for title in ("ms", "GFLOP-eq", "GFLOP", "share", "clips/s", "peak MiB"):
        table.add_column(title, justify="right", no_wrap=True)
    for result in results:
        peak = result["peak_bytes"]
        table.add_row(
            result["name"],
            _number(1e3 * result["seconds"]["median"]),
            _number(result["gflop_equivalents"]),
            _number(result["gflop"]),
            f"{result['share_of_product_rate']:.0%}",
            _number(result["samples_per_second"]),
            "?" if peak is None else _number(peak / 2**20),
        )
    return table


def _ratios(ratios: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("ratio", no_wrap=True)
    for title in ("time", "(quartiles)", "bytes"):
        table.add_column(title, justify="right", no_wrap=True)
    for ratio in ratios:
        time, size = ratio["seconds"], ratio["peak_bytes"]
        table.add_row(
            f"{ratio['over']} : {_under(ratio)}",
            "void" if ratio["void"] else _number(time["median"]),
            "" if ratio["void"] else f"({_number(time['q1'])} to {_number(time['q3'])})",
            "?" if size is None else "void" if ratio["void"] else _number(size),
        )
    return table


def _under(ratio: dict[str, Any]) -> str:
    """The second side without what it has in common with the first."""
    return "not" if ratio["over"].startswith(ratio["under"]) else ratio["under"].split(",")[0]


def _verdict(built: dict[str, Any]) -> str:
    meaning = {
        "honest": "the reference that builds the pairs is honest",
        "void": "ratios to it are void",
        "unchecked": "not compared: the published one was measured at full size, batch 4, attn_ratio 0.25, "
        "float32, on a CPU",
    }
    return (
        f"dense attention with built pairs: {built['gflop_equivalents']:,.0f} GFLOP-equivalents, published "
        f"{built['published']:,.0f} (+- {built['tolerance']:.0%}): {meaning[built['verdict']]}"
    )


def _number(value: float) -> str:
    """Three digits that count, thousands with a comma."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
