"""``avtool demo``: the whole way on clips that avtool renders itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from avtool.cli.common import Debug, Device, Force, Seed, Threads, examples, guarded, set_threads

EPILOG = examples(
    "avtool demo",
    "avtool demo --out /tmp/demo --threads 2",
    next_command="avtool prepare --help",
)


@guarded
def demo(
    *,
    out: Annotated[Path, typer.Option(help="Folder for all it makes.", metavar="DIR")] = Path("avtool-demo"),
    device: Device = "auto",
    seed: Seed = 0,
    threads: Threads = None,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Go the whole way on clips that avtool renders itself.

    It prints and runs the commands a user would type: prepare, pretrain, finetune,
    localize. Ten minutes at most on two cores.
    """
    set_threads(threads)
    from avtool.demo import demo as run
    from avtool.devices import resolve_device

    resolve_device(device)  # before minutes of rendering
    run(out, force=force, device=device, seed=seed, threads=threads)
