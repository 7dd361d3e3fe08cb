"""``avtool bench``: what the model and its data cost on this machine, as a table or as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avtool.commands import Debug, Device, Json, Seed, Threads, examples, guarded, print_json, set_threads
from avtool.errors import in_bytes

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


def _of_the_model(what: str) -> Callable[..., None]:
    """The command of a benchmark of the model."""

    @guarded
    def run(
        *,
        size: Annotated[str, typer.Option(metavar="NAME", help="full (ViT-B) or tiny.")] = "full",
        fusion: Annotated[
            list[str] | None,
            typer.Option(
                metavar="KIND",
                help="token, factorized or dense; may be given again.",
                show_default="all",
            ),
        ] = None,
        batch: Annotated[int, typer.Option(metavar="N", min=1, help="Clips in a pass.")] = 4,
        precision: Annotated[str, typer.Option(metavar="NAME", help="float32, bf16 or fp16.")] = "float32",
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
        from avtool.registry import FUSIONS

        found = benchmark(
            what,
            size=size,
            fusions=fusion or list(FUSIONS),
            batch=batch,
            precision=precision,
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
    settings, product = found["settings"], found["product"]
    lines = [
        _machine(found),
        f"{settings['benchmark']}, {settings['size']} size, batch {settings['batch']}, {settings['precision']}, "
        f"attn_ratio {settings['attn_ratio']:g}{', compiled' if settings['compile'] else ''}; "
        f"medians of {settings['rounds']} rounds",
        f"one {settings['product_side']}-cubed matrix product: {product['gflop_per_second']:,.0f} GFLOP/s",
    ]
    costs = {
        result["name"]: (
            _number(1e3 * result["seconds"]["median"]),
            _number(result["gflop_equivalents"]),
            _number(result["gflop"]),
            f"{result['share_of_product_rate']:.0%}",
            _number(result["samples_per_second"]),
            "?" if result["peak_bytes"] is None else _number(result["peak_bytes"] / 2**20),
        )
        for result in found["results"]
    }
    ratios = {
        f"{ratio['over']} : {_under(ratio)}": (
            *_median(ratio["seconds"]),
            "?" if ratio["peak_bytes"] is None else _number(ratio["peak_bytes"]),
        )
        for ratio in found["ratios"]
    }
    titles = ("pass", "ms", "GFLOP-eq", "GFLOP", "share", "clips/s", "peak MiB")
    tables = [
        _table(titles, costs),
        *([_table(("ratio", "time", "(quartiles)", "bytes"), ratios)] if ratios else []),
    ]
    _show(lines, tables, found["built_pairs"])


def _print_data(found: dict[str, Any]) -> None:
    clips, settings = found["clips"], found["settings"]
    width, height = clips["median_size"]
    about = (
        f"{clips['count']} clips, median {clips['median_seconds']:.1f} s of {width:.0f} x {height:.0f}, "
        f"{in_bytes(clips['file_bytes'])} of files; batch {settings['batch']}, medians of {settings['rounds']} rounds"
    )
    rates = {row["name"]: _median(row["rate"]) for row in found["results"]}
    ratios = {f"{row['over']} : {row['under']}": _median(row["rate"]) for row in found["ratios"]}
    tables = [
        _table(("way", "samples/s", "(quartiles)"), rates),
        _table(("compared", "ratio", "(quartiles)"), ratios),
    ]
    _show([_machine(found), about], tables, found["mp4"])


def _show(lines: list[str], tables: list[Table], last: str | None) -> None:
    from rich.console import Console

    console = Console(width=80, highlight=False)
    for part in (*lines, *tables, *([last] if last else [])):
        console.print(part, markup=False)


def _table(titles: Sequence[str], rows: Mapping[str, Sequence[str]]) -> Table:
    """Rows by name under their titles; figures stand to the right."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0))
    for number, title in enumerate(titles):
        table.add_column(title, no_wrap=True, justify="right" if number else "left")
    for name, row in rows.items():
        table.add_row(name, *row)
    return table


def _machine(found: dict[str, Any]) -> str:
    machine = found["machine"]
    load = "" if machine["load"] is None else f", load {machine['load']:.1f} before"
    return (
        f"{machine['accelerator'] or machine['cpu']}, {machine['threads']} threads on {machine['cores']} cores, "
        f"torch {machine['torch']}{load}, {found['date'][:10]}"
    )


def _under(ratio: dict[str, Any]) -> str:
    """The second side without what it has in common with the first."""
    return "not" if ratio["over"].startswith(ratio["under"]) else ratio["under"].split(",")[0]


def _median(spread: Mapping[str, float]) -> tuple[str, str]:
    return _number(spread["median"]), f"({_number(spread['q1'])} to {_number(spread['q3'])})"


def _number(value: float) -> str:
    """Three digits that count, thousands with a comma."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
