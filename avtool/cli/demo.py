"""``avtool demo``: the whole way on clips that avtool renders itself."""

from pathlib import Path
from typing import Annotated

from avtool.commands import command, command_line, examples, option
from avtool.places import DEMO

EPILOG = examples(
    "avtool demo",
    "avtool demo --small --out /tmp/demo",
    "avtool demo --force --threads 2",
    next_command="avtool localize clip.mp4 --out heatmap.png",
)


@command("seed", "device", "threads")
def demo(
    *,
    out: Annotated[Path, option("DIR", "Folder for all it makes.")] = DEMO,
    small: Annotated[
        bool, option(None, "A quick check that everything runs; its map means nothing.", "--small")
    ] = False,
    device: str,
    seed: int,
    threads: int | None,
    force: Annotated[
        bool,
        option(None, "Replace the folders and files that a demo made in DIR, and nothing else.", "--force"),
    ] = False,
) -> None:
    """Go the whole way on clips that avtool renders itself.

    It prints and runs the commands a user would type: prepare, pretrain, finetune,
    localize. 8 to 20 minutes on two cores, a minute with --small.
    """
    from avtool.demo import demo as run
    from avtool.devices import resolve_device

    resolve_device(device)  # before minutes of rendering
    run(out, small=small, force=force, device=device, seed=seed, threads=threads, command=command_line())
