"""``avtool demo``: the public commands, printed and run, on clips that avtool renders itself."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from avtool.data.dataset import PreparedDataset
from avtool.data.prepare import RENDERED
from avtool.errors import AvtoolError
from avtool.evaluate import Localization, keep_localization, measure_pointing
from avtool.files import check_output
from avtool.progress import say

# The budget: ten minutes at most on two cores.
CLIPS = 1200
SETTINGS = {"pretrain": ("max_steps=250",), "localize": ("max_steps=500",)}

HELD_OUT = "test"
INTERRUPTED = 130
_GRACE = 5.0  # seconds in which an interrupted command may end by itself, as Ctrl-C reaches it too


@dataclass(frozen=True)
class Demo:
    """What the demo made: files, and the measurement behind its table."""

    data: Path
    pretrained: Path
    localizer: Path
    heatmap: Path
    result: Localization


def demo(
    out: Path = Path("avtool-demo"),
    *,
    force: bool = False,
    device: str = "auto",
    seed: int = 0,
    threads: int | None = None,
) -> Demo:
    """Go from nothing to a heat map in ``out`` with the commands a user would type; print a small table.

    Each command is printed and run by itself. Whatever it leaves is whole, also where it is interrupted.
    UsageError where ``out`` exists, unless ``force``; AvtoolError where a command fails.
    """
    check_output(out, force=force)
    data, run, localizer = out / "data", out / "pretrained", out / "localizer"
    heatmap = out / "heatmap.png"
    tensors = ["--device", device] if device != "auto" else []
    tensors += ["--threads", str(threads)] if threads is not None else []
    seeded = ["--seed", str(seed)]
    try:
        _run(["prepare", "synth", "--out", str(data), "--clips", str(CLIPS), *seeded, *_replacing(data)])
        pretrain = ["pretrain", "--recipe", "tiny", "--data", str(data), "--out", str(run)]
        _run([*pretrain, *seeded, *tensors, *_replacing(run), *SETTINGS["pretrain"]])
        finetune = [
            "finetune",
            "localize",
            "--recipe",
            "tiny-localize",
            "--from",
            str(run),
            "--data",
            str(data),
        ]
        finetune += ["--out", str(localizer), *SETTINGS["localize"]]
        _run([*finetune, *seeded, *tensors, *_replacing(localizer)])
        say("\nHow well do its maps point, on clips that it has not seen?")
        result = measure_pointing(localizer, data, split=HELD_OUT, device=device, seed=seed)
        keep_localization(localizer, result)
        clip = data / RENDERED / "clips" / f"{PreparedDataset(data, HELD_OUT).record(0).id}.mp4"
        localize = ["localize", str(clip), "--model", str(localizer), "--out", str(heatmap)]
        _run([*localize, *tensors, *_replacing(heatmap)])
    finally:
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()
    made = Demo(data, run, localizer, heatmap, result)
    _print(made)
    return made


def _replacing(path: Path) -> list[str]:
    return ["--force"] if path.exists() else []


def _run(arguments: list[str]) -> None:
    """Print ``avtool ARGUMENTS`` and run it in a process of its own, with our stdout and stderr."""
    typed = shlex.join(["avtool", *arguments])
    say(f"\n$ {typed}")
    with subprocess.Popen([sys.executable, "-m", "avtool", *arguments]) as process:
        try:
            code = process.wait()
        except BaseException:
            _stop(process)
            raise
    if code in (INTERRUPTED, -signal.SIGINT):
        raise KeyboardInterrupt
    if code != 0:
        raise AvtoolError(f"{typed}: exit code {code}", hint="its own error stands above")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Let the command clean up after itself and end."""
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait()


def _print(made: Demo) -> None:
    """The table, its note and the paths, to stdout."""
    result = made.result
    table = Table(
        title=f"{result.protocol} on held-out clips: {result.data}, split {result.split}, n = {result.clips}",
        caption=result.warning() or "Above all its controls by more than one standard error.",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("map")
    table.add_column("points to what sounds", justify="right")
    table.add_row(f"{result.kind} map of the model", f"{result.score:.1%} ± {result.error:.1%}")
    for name, share in result.controls().items():
        table.add_row(name, f"{share:.1%}")
    console = Console()
    console.print()
    console.print(table)
    paths = {
        "data": made.data,
        "pretrained": made.pretrained,
        "localizer": made.localizer,
        "heat map": made.heatmap,
    }
    for name, path in paths.items():
        print(f"{name + ':':<12}{path}")
