"""``avtool bench``: what the model and its data cost on this machine, as a table or as JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from avtool.commands import argument, command, examples, option, print_json, set_threads
from avtool.errors import in_bytes

EPILOG = examples(
    "avtool bench fusion",
    "avtool bench step --threads 2 --precision bf16",
    "avtool bench data downloads/vggsound",
    next_command="avtool pretrain --recipe dense --dry-run",
)
app = typer.Typer(
    help="Measure what the model and its data cost on this machine.\n\n"
    "What is compared is interleaved (ABCABC) in one process, after a warm-up. Let nothing else run meanwhile.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
)
Rounds = Annotated[int, option("N", "Rounds that are measured.", min=1)]


@command("device", "threads", "json")
def of_the_model(
    context: typer.Context,
    *,
    size: Annotated[str, option("NAME", "full (ViT-B) or tiny.")] = "full",
    fusion: Annotated[
        list[str] | None,
        option("KIND", "token, dense, factorized or bilinear; may be given again.", usual="all"),
    ] = None,
    batch: Annotated[int, option("N", "Clips in a pass.", min=1)] = 4,
    precision: Annotated[str, option("NAME", "float32, bf16 or fp16.")] = "float32",
    rounds: Rounds = 5,
    attn_ratio: Annotated[float, option("X", "Width of fusion's queries and keys over the model's.")] = 0.25,
    compile_passes: Annotated[bool, option(None, "Compile with torch.compile.", "--compile")] = False,
    device: str,
    json: bool,
) -> None:
    from avtool.bench.model import Setup, benchmark
    from avtool.devices import resolve_device
    from avtool.registry import FUSIONS

    setup = Setup(
        str(context.info_name),
        size=size,
        fusions=fusion or tuple(FUSIONS),
        batch=batch,
        precision=precision,
        attn_ratio=attn_ratio,
        compile=compile_passes,
        rounds=rounds,
        device=resolve_device(device),
    )
    (print_json if json else _print_model)(benchmark(setup))


UNIT = "A GFLOP-equivalent is the time in which one big matrix product does 1e9 operations."
app.command(
    "fusion",
    help=f"One fusion block, with and without built pairs.\n\n{UNIT}",
    epilog=examples(
        "avtool bench fusion",
        "avtool bench fusion --fusion dense --fusion token --json",
        next_command="avtool bench step",
    ),
)(of_the_model)
app.command(
    "step",
    help=f"Whole training steps, and the encoder alone.\n\n{UNIT}",
    epilog=examples(
        "avtool bench step --threads 2 --precision bf16",
        "avtool bench step --size tiny --rounds 3 --json",
        next_command="avtool pretrain --recipe dense --dry-run",
    ),
)(of_the_model)


@app.command(
    epilog=examples(
        "avtool bench data",
        "avtool bench data downloads/vggsound --json",
        next_command="avtool inspect data/prepared/synth",
    )
)
@command("seed", "json")
def data(
    source: Annotated[Path | None, argument("SOURCE", "Folder of clips.", usual="clips are rendered")] = None,
    *,
    clips: Annotated[int, option("N", "Clips to take or to render, at most.", min=1)] = 64,
    batch: Annotated[int, option("N", "Clips in a batch.", min=1)] = 32,
    rounds: Rounds = 5,
    seed: int,
    json: bool,
) -> None:
    """Training samples from mp4 files, and from the same clips prepared.

    A sample is a random crop of a frame and 3 s of sound, without log-mel. The mp4 side opens and seeks the
    file for every sample, as is common. "A core" is a second of one process' CPU time; with workers, of
    wall time.
    """
    set_threads(1)
    from avtool.bench.data import benchmark_data

    found = benchmark_data(source, clips=clips, batch=batch, rounds=rounds, seed=seed)
    (print_json if json else _print_data)(found)


def _print_model(found: dict[str, Any]) -> None:
    settings = found["settings"]
    about = (
        f"{settings['benchmark']}, {settings['size']} size, batch {settings['batch']}, {settings['precision']}, "
        f"attn_ratio {settings['attn_ratio']:g}{', compiled' if settings['compile'] else ''}; "
        f"medians of {settings['rounds']} rounds\n"
        f"one {settings['product_side']}-cubed matrix product: {found['product']['gflop_per_second']:,.0f} GFLOP/s"
    )
    costs: list[Sequence[Any]] = [("pass", "ms", "GFLOP-eq", "GFLOP", "share", "clips/s", "peak MiB")]
    for row in found["results"]:
        milliseconds, share = 1e3 * row["seconds"]["median"], f"{row['share_of_product_rate']:.0%}"
        peak = row["peak_bytes"] and row["peak_bytes"] / 2**20
        work = (row["gflop_equivalents"], row["gflop"], share, row["samples_per_second"])
        costs.append((row["name"], milliseconds, *work, peak))
    ratios: list[Sequence[Any]] = [("ratio", "time (quartiles)", "bytes")]
    for row in found["ratios"]:
        under = "not" if row["over"].startswith(row["under"]) else row["under"].split(",")[0]
        ratios.append((f"{row['over']} : {under}", row["seconds"], row["peak_bytes"]))
    _print(found, about, costs, ratios)


def _print_data(found: dict[str, Any]) -> None:
    clips, settings = found["clips"], found["settings"]
    width, height = clips["median_size"]
    about = (
        f"{clips['count']} clips, median {clips['median_seconds']:.1f} s of {width:.0f} x {height:.0f}, "
        f"{in_bytes(clips['file_bytes'])} of files; batch {settings['batch']}, medians of {settings['rounds']} rounds"
    )
    rates = [(row["name"], row["rate"]) for row in found["results"]]
    ratios = [(f"{row['over']} : {row['under']}", row["rate"]) for row in found["ratios"]]
    titles = ("way", "samples/s (quartiles)"), ("compared", "ratio (quartiles)")
    _print(found, about, [titles[0], *rates], [titles[1], *ratios])


def _print(found: dict[str, Any], about: str, *tables: Sequence[Sequence[Any]]) -> None:
    """The machine, what was measured, tables of titles and rows with figures to the right, and how fair it all is."""
    from rich.console import Console
    from rich.table import Table

    machine = found["machine"]
    load = "" if machine["load"] is None else f", load {machine['load']:.1f} before"
    console = Console(width=80, highlight=False, markup=False)
    console.print(
        f"{machine['accelerator'] or machine['cpu']}, {machine['threads']} threads on {machine['cores']} cores, "
        f"torch {machine['torch']}{load}, {found['date'][:10]}\n{about}"
    )
    for titles, *rows in tables:
        table = Table(box=None, padding=(0, 1, 0, 0))
        for title in titles:
            table.add_column(title, no_wrap=True, justify="left" if title is titles[0] else "right")
        for row in rows:
            table.add_row(*map(_cell, row))
        if rows:
            console.print(table)
    if found["reference"]:
        console.print(found["reference"])


def _cell(value: Any) -> str:
    """Words as they are, a spread as its median and quartiles, ? for what is not known; a number with three digits that
    count, thousands with a comma."""
    if isinstance(value, Mapping):
        median, *quartiles = (_cell(value[key]) for key in ("median", "q1", "q3"))
        return f"{median} ({' to '.join(quartiles)})"
    if value is None or isinstance(value, str):
        return value or "?"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
