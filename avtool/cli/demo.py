"""``avtool demo``: the whole way on clips that avtool renders itself."""

from pathlib import Path
from typing import Annotated

import typer

from avtool.commands import Threads, command, command_line, examples, set_threads
from avtool.places import DEMO

EPILOG = examples(
    "avtool demo",
    "avtool demo --small --out /tmp/demo",
    "avtool demo --force --threads 2",
    next_command="avtool localize clip.mp4 --out heatmap.png",
)


@command("device", "seed")
def demo(
    *,
    out: Annotated[Path, typer.Option(help="Folder for all it makes.", metavar="DIR")] = DEMO,
    small: Annotated[
        bool,
        typer.Option("--small", help="A quick check that everything runs; its map means nothing."),
    ] = False,
    device: str,
    seed: int,
    threads: Threads = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Replace the folders and files that a demo made in DIR, and nothing else."
        ),
    ] = False,
) -> None:
    """Go the whole way on clips that avtool renders itself.

    It prints and runs the commands a user would type: prepare, pretrain, finetune,
    localize. 8 to 20 minutes on two cores, a minute with --small.
    """
    set_threads(threads)
    from avtool.demo import demo as run
    from avtool.devices import resolve_device

    resolve_device(device)  # before minutes of rendering
    run(out, small=small, force=force, device=device, seed=seed, threads=threads, command=command_line())
