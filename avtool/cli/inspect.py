"""``avtool inspect``: what a data set, a model or a clip is, in a screenful."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from avtool.cli.common import DASH_NOTE, Debug, Force, Json, examples, guarded, print_json

EPILOG = examples(
    "avtool inspect data/prepared/synth --sheet sheet.png",
    "avtool inspect data/prepared/synth --verify --json",
    "avtool inspect runs/tiny-20250101-120000",
    "avtool inspect clip.mp4",
    next_command="avtool pretrain --recipe tiny --dry-run",
)
CLIPS = 24
Row = tuple[str, str]
"""What a line is about, and what it says."""


@guarded
def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="A prepared data set, a run, checkpoint or pulled model, or a clip."
        ),
    ],
    *,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all of a data set and compare its checksums.")
    ] = False,
    sheet: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Contact sheet of random clips of a data set to write.")
    ] = None,
    clips: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Clips in the sheet.", show_default=str(CLIPS))
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Seed that they are drawn from.", show_default="0")
    ] = None,
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    from avtool.errors import UsageError

    if sheet is None and (clips, seed, force) != (None, None, False):
        raise UsageError(
            "--clips, --seed and --force go with --sheet", hint="add --sheet sheet.png, or leave them out"
        )
    from avtool.inspect import inspect as run
    from avtool.inspect import kind_of, write_sheet

    if sheet is not None and (kind := kind_of(path)) != "data set":
        raise UsageError(f"{path} is a {kind}: --sheet goes with a data set", hint="leave it out")
    found = run(path, verify=verify)
    if sheet is not None:
        ids = write_sheet(path, sheet, clips=clips or CLIPS, seed=seed or 0, force=force)
        found["sheet"] = {"path": str(sheet), "ids": ids}
    if as_json:
        print_json(found)
    else:
        _print(found)


inspect.__doc__ = f"""Say what a data set, a model or a clip is.

    Nothing is changed. {DASH_NOTE}
    """


def _print(found: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = {"data set": _dataset, "model": _model, "clip": _clip}[found["what"]](found)
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name, style="bold"), Text(value))
    Console(width=80, highlight=False).print(table)


def _dataset(found: Mapping[str, Any]) -> Iterable[Row]:
    from avtool.media import tools_in_words

    settings, lasts, size = found["settings"], found["durations"], found["bytes"]
    yield "data set", f"{found['name']} in {found['path']}"
    yield "format", f"{found['format']}, checksum {found['checksum']}"
    yield "made with", "; ".join(map(tools_in_words, found["made_with"] or [{}]))
    yield "clips", _listed(found["counts"])
    yield "splits", _listed(found["splits"])
    yield "classes", _class_words(found)
    for label, count in found["classes"]["most"].items():
        yield f"{count:>8,}", label
    yield (
        "length",
        f"{lasts['shortest']:.1f} to {lasts['longest']:.1f} s, median {lasts['median']:.1f} s, "
        f"{lasts['sum'] / 3600:,.2f} h in all",
    )
    yield "frames", f"{found['frames']:,}"
    yield "settings", ", ".join(f"{name} {_short(value)}" for name, value in settings.items())
    if any(found["with"].values()):
        yield "clips with", _listed({name: count for name, count in found["with"].items() if count})
    yield (
        "on disk",
        f"{_bytes(size['all'])}: {found['shards']:,} tar {_bytes(size['shards'])} "
        f"({_bytes(size['per_clip_second'])} a second of clip), index {_bytes(size['index'])}",
    )
    report = found["report"]
    if report is None:
        yield "report", "there is no report.json"
    else:
        yield "report", _listed({**report["reasons"], **report["notes"]}) or "nothing to report"
    if found["verified"]:
        yield (
            "verified",
            f"{found['verified']['files']} files, {_bytes(found['verified']['bytes'])}, all as prepared",
        )
    if "sheet" in found:
        yield "sheet", f"{len(found['sheet']['ids'])} clips in {found['sheet']['path']}"


def _class_words(found: Mapping[str, Any]) -> str:
    classes = found["classes"]
    parts = [f"{classes['count']:,}"]
    if classes["no_clip"]:
        parts.append(f"{classes['no_clip']:,} of them without a clip")
    if found["without_label"]:
        parts.append(f"{found['without_label']:,} clips without a label")
    words = ", ".join(parts)
    return f"{words}; clips in the {len(classes['most'])} largest:" if classes["most"] else words


def _model(found: Mapping[str, Any]) -> Iterable[Row]:
    counts = dict(found["parameters"])
    yield "model", f"{found['kind']} in {found['checkpoint']}"
    yield "origin", found["origin"]
    yield (
        "weights",
        f"{_bytes(found['bytes'])}, {'/'.join(found['precisions'])}, format {found['format']}, "
        f"{'with' if found['resumable'] else 'without'} the trainer's state",
    )
    yield "parameters", f"{counts.pop('all'):,}"
    for part, count in counts.items():
        yield f"{count:>11,}", part
    yield "settings", ", ".join(f"{name} {_short(value)}" for name, value in found["model"].items())
    yield "spectrogram", ", ".join(f"{name} {_short(value)}" for name, value in found["spectrogram"].items())
    if found["run"]:
        yield from _run(found["run"])


def _run(run: Mapping[str, Any]) -> Iterable[Row]:
    facts = run["facts"]
    yield "run", run["folder"]
    yield "step", f"{run['step']:,}; checkpoints: {', '.join(run['checkpoints'])}"
    if command := facts.get("command"):
        yield "command", " ".join(command)
    if data := facts.get("data"):
        yield "trained on", f"{data.get('name')}, {data.get('clips')} clips, in {data.get('folder')}"
    if recipe := run["recipe"]:
        optim, train = recipe.get("optim", {}), recipe.get("train", {})
        shown = {
            "task": recipe.get("task"),
            "seed": recipe.get("seed"),
            "epochs": recipe.get("epochs"),
            "max_steps": recipe.get("max_steps"),
            "base_lr": optim.get("base_lr"),
            **{name: train.get(name) for name in ("batch_size", "accumulate", "precision")},
        }
        yield (
            "recipe",
            ", ".join(f"{name} {_short(value)}" for name, value in shown.items() if value is not None),
        )
    if run["metrics"]:
        yield (
            "metrics",
            ", ".join(
                f"{name} {'undefined' if value is None else _short(value)}"
                for name, value in run["metrics"].items()
            ),
        )


def _clip(found: Mapping[str, Any]) -> Iterable[Row]:
    rate = f", {found['bit_rate'] / 1000:,.0f} kbit/s" if found["bit_rate"] else ""
    yield "clip", found["path"]
    yield "container", f"{found['container']}, {_seconds(found['duration'])}, {_bytes(found['bytes'])}{rate}"
    for stream in found["streams"]:
        yield stream["type"], ", ".join(_stream_words(stream))
    decoded = found["decoded"]
    if decoded["refused"]:
        yield "refused", f"{decoded['refused']}: {decoded['detail']}"
        return
    (width, height), (was_wide, was_high) = decoded["size"], decoded["source_size"]
    if found["duration"] and decoded["seconds"] < found["duration"]:
        yield "decoded", f"the first {decoded['seconds']:g} s"
    yield (
        "frames",
        f"{decoded['frames']:,} of {width} x {height} at {decoded['frame_rate']:g} a second "
        f"(upright {was_wide} x {was_high})",
    )
    yield (
        "sound",
        f"{decoded['samples'] / decoded['sample_rate']:.2f} s of {decoded['sample_rate']} Hz mono, "
        f"{decoded['dbfs']:.1f} dBFS",
    )
    yield "flags", ", ".join(decoded["flags"]) or "none"


def _stream_words(stream: Mapping[str, Any]) -> Iterable[str]:
    yield stream["codec"]
    if "width" in stream:
        yield f"{stream['width']} x {stream['height']}"
        yield f"{stream['fps']:.2f} frames/s" if stream["fps"] else "no frame rate"
        yield str(stream["pixels"])
        if stream["rotation"]:
            yield f"rotated by {stream['rotation']} degrees"
    if "rate" in stream:
        yield f"{stream['rate']} Hz"
        yield f"{stream['channels']} channels ({stream['layout']})"
    yield _seconds(stream["duration"])
    if stream["bit_rate"]:
        yield f"{stream['bit_rate'] / 1000:,.0f} kbit/s"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "x".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _seconds(value: float | None) -> str:
    return "no length given" if value is None else f"{value:.2f} s"


def _bytes(count: float) -> str:
    """In the largest unit that leaves a number of at least one: 8.4 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
