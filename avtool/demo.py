"""``avtool demo``: the public commands, printed and run, on clips that avtool renders itself."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from avtool import __version__, places
from avtool.data import synth
from avtool.errors import AvtoolError, UsageError
from avtool.files import check_output, write_json
from avtool.progress import say
from avtool.tasks.localize.pointing import PointingResult, keep_localization, measure_pointing
from avtool.tracking import RUN_JSON, read_run_facts


@dataclass(frozen=True)
class Size:
    """How many ``clips`` a demo renders, and the settings of its two trainings."""

    clips: int
    pretrain: tuple[str, ...]
    localize: tuple[str, ...]


FULL = Size(8000, ("max_steps=20",), ("max_steps=1000",))
"""Seven to ten minutes on two cores, by how fast they are."""
OF_BEFORE = ("max_steps=250",), ("max_steps=500",)
"""The settings of the demo of a version that wrote no demo.json."""
_FEW = ("max_steps=2", "train.batch_size=4", "train.accumulate=1", "train.eval_clips=0", "data.workers=0")
SMALL = Size(10, _FEW, (*_FEW, "localize.clusters=null"))
"""Only to see that everything runs."""

DEMO_JSON = "demo.json"
"""What says that a folder is a demo's, and how far it came."""
RUNS = ("pretrained", "localizer")
MADE = ("data", "pretrained", "clip.mp4", "other.mp4", "before.png", "localizer", "heatmap.png")
"""What a demo makes in its folder, in this order."""
UNFINISHED = f"{MADE[0]}.unfinished"
"""What a preparation leaves that was stopped."""
HELD_OUT, HELD_OUT_CLIP = "test", 4  # the first clip of that split, of which every fifth clip is
INTERRUPTED = 130
_GRACE = 5.0  # seconds in which an interrupted command may end by itself, as Ctrl-C reaches it too


@dataclass(frozen=True)
class Demo:
    """What the demo made: files, and the measurement behind its table."""

    data: Path
    pretrained: Path
    localizer: Path
    heatmap: Path
    result: PointingResult


def demo(
    out: Path | None = None,
    *,
    small: bool = False,
    force: bool = False,
    device: str = "auto",
    seed: int = 0,
    threads: int | None = None,
    command: Sequence[str] = (),
) -> Demo:
    """Go from nothing to a heat map in ``out`` (None: ./avtool-demo) with the commands a user would type; print a small
    table.

    Each command is printed and run by itself. Whatever it leaves is whole, also where it is interrupted, and demo.json
    says what it is. With ``force`` what an earlier demo made in ``out`` is removed first, and nothing else. ``small``:
    few clips and steps, whose map means nothing.

    UsageError where ``out`` is no demo's, or holds what one made and ``force`` is not given or something else is among
    it; AvtoolError where a command fails.
    """
    out, size = out or places.DEMO, SMALL if small else FULL
    there = _check(out, force=force)
    facts = {"command": [*command], "avtool": __version__, "seed": seed, **asdict(size), "finished": False}
    note = _Note(out / DEMO_JSON, facts, dict.fromkeys(there))
    out.mkdir(parents=True, exist_ok=True)
    try:
        note.write()  # before anything goes, so that what is left of it is still known
        for path in (out / name for name in there):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        note.made.clear()
        made = _make(out, size, note, device=device, seed=seed, threads=threads)
    except BaseException:
        _leave(out, note)
        raise
    note.facts |= {"finished": True, "pointing": asdict(made.result)}
    note.list_made()
    note.write()
    _print(made, small=small)
    return made


@dataclass
class _Note:
    """demo.json: ``facts``, and what the demo ``made``: names, noted before they are there, and all that is in each
    (None: it is being made, or who made it was killed)."""

    path: Path
    facts: dict[str, Any]
    made: dict[str, list[str] | None]

    def begin(self, name: str) -> None:
        self.list_made()
        self.made[name] = None
        self.write()

    def list_made(self) -> None:
        self.made = {name: sorted(_inside(self.path.with_name(name))) for name in self.made}

    def write(self) -> None:
        write_json(self.path, {**self.facts, "made": self.made})


def _inside(folder: Path) -> set[str]:
    """The files and folders in ``folder``, relative to it; none where it is a file or is not there."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def _listed(made: Any) -> dict[str, set[str] | None]:
    """demo.json's ``made``, also as a version wrote it that named the folders alone."""
    if isinstance(made, list):
        return dict.fromkeys(made)
    return {name: inside if inside is None else {*inside} for name, inside in made.items()}


def _check(out: Path, *, force: bool) -> list[str]:
    """What an earlier demo made in ``out``. UsageError where it is not for a demo to write in, or holds such things and
    ``force`` is not given; AvtoolError where its demo.json is broken."""
    note, before = out / DEMO_JSON, (f"{RUNS[-1]}/{RUN_JSON}",) if _is_of_before(out) else ()
    check_output(out, force=True, markers=(DEMO_JSON, *before))
    there = [name for name in (UNFINISHED, *MADE) if os.path.lexists(out / name)]
    if before:
        made, finished = dict.fromkeys(MADE), MADE[-1] in there
    elif not note.exists():
        return []
    else:
        try:
            facts = json.loads(note.read_text(encoding="utf-8"))
            made, finished = _listed(facts["made"]), facts.get("finished")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AvtoolError(
                f"{note} is broken, and nothing else says what a demo made there",
                hint="choose another --out, or remove the folder yourself",
            ) from error
    others = [out / name for name in there if name not in made and name != UNFINISHED]
    if there and not others and not force:
        raise UsageError(
            f"{out} holds what {'a' if finished else 'an unfinished'} demo made: {', '.join(there)}",
            hint="add --force to replace these, or choose another --out",
        )
    known = {name: listed for name, listed in made.items() if listed is not None}
    others += [
        out / name / path for name in there if name in known for path in _inside(out / name) - known[name]
    ]
    if others:
        raise UsageError(
            f"{min(others)} is there, and no demo made it", hint="choose another --out, or move it away"
        )
    return there


def _is_of_before(out: Path) -> bool:
    """Whether a version that wrote no demo.json made all there is in ``out``, as the commands in its runs say."""
    if not out.is_dir() or not {path.name for path in out.iterdir()} <= {*MADE}:
        return False
    try:
        commands = [read_run_facts(out / name).get("command", ()) for name in RUNS]
    except AvtoolError:  # nothing says so
        return False
    return all({*wanted} <= {*command} for wanted, command in zip(OF_BEFORE, commands, strict=True))


def _leave(out: Path, note: _Note) -> None:
    """Say what is kept of a demo that breaks off; where it made nothing, leave nothing."""
    if there := [name for name in (UNFINISHED, *note.made) if os.path.lexists(out / name)]:
        note.made = dict.fromkeys(there)
        note.list_made()
        note.write()
        say(f"{out} keeps {', '.join(there)}; with --force the demo begins anew")
        return
    note.path.unlink(missing_ok=True)
    if not any(out.iterdir()):
        out.rmdir()


def _make(out: Path, size: Size, note: _Note, *, device: str, seed: int, threads: int | None) -> Demo:
    """Run the commands one after the other, and measure between them."""
    data, run, clip, other, before, localizer, heatmap = (out / name for name in MADE)
    tensors = ["--device", device] if device != "auto" else []
    tensors += ["--threads", str(threads)] if threads is not None else []
    seeded = ["--seed", str(seed)]
    note.begin(data.name)
    _run("prepare", "synth", "--out", data, "--clips", size.clips, *seeded)
    note.begin(run.name)
    pretrain = "pretrain", "--recipe", "tiny", "--data", data, "--out", run
    _run(*pretrain, *seeded, *tensors, *size.pretrain)
    heard, own = [], {*synth.cast_of(seed, HELD_OUT_CLIP).labels}
    unlike = next(n for n in count(HELD_OUT_CLIP + 5, 5) if not own & {*synth.cast_of(seed, n).labels})
    for path, number in ((clip, HELD_OUT_CLIP), (other, unlike)):
        note.begin(path.name)
        scene = synth.describe(seed, number)
        synth.write_video(path, synth.Stage(scene), synth.stems_of(scene))
        heard.append(" and ".join(thing.kind.replace("_", " ") for thing in scene.sounding))
    say(f"\nIn {clip} you hear: {heard[0]}; in {other}: {heard[1]}. Before it has learned to localize:")
    note.begin(before.name)
    look = "localize", clip, "--other-sound", other, *tensors
    _run(*look, "--model", run, "--out", before)
    note.begin(localizer.name)
    finetune = "finetune", "localize", "--recipe", "tiny-localize", "--from", run, "--data", data
    _run(*finetune, "--out", localizer, *size.localize, *seeded, *tensors)
    say("\nHow well do its maps point, on clips that it has not seen?")
    result = measure_pointing(localizer, data, split=HELD_OUT, device=device, seed=seed)
    keep_localization(localizer, result)
    say(f"\nAnd in {clip}, where you hear: {heard[0]}")
    note.begin(heatmap.name)
    _run(*look, "--model", localizer, "--out", heatmap)
    return Demo(data, run, localizer, heatmap, result)


def _run(*words: object) -> None:
    """Print ``avtool WORDS`` and run it in a process of its own, with our stdout and stderr."""
    arguments = [str(word) for word in words]
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
        process.terminate()  # and no SIGINT, which what a script starts in the background ignores
        process.wait()


def _print(made: Demo, *, small: bool) -> None:
    """The table, its note, the paths and what to type next, to stdout."""
    result = made.result
    note = result.warning() or "Above all its controls by more than one standard error."
    if small:
        note += " A small demo: few clips and steps, these numbers mean nothing."
    title = f"{result.protocol} on held-out clips: {result.data}, split {result.split}, n = {result.clips}"
    columns = "map", Column("points to what sounds", justify="right")
    table = Table(*columns, title=title, caption=note, title_justify="left", caption_justify="left")
    table.add_row(f"{result.kind} map of the model", f"{result.score:.1%} ± {result.error:.1%}")
    for name, share in result.controls().items():
        table.add_row(name, f"{share:.1%}")
    console = Console()
    console.print()
    console.print(table)
    paths = {"data": made.data, "pretrained": made.pretrained, "localizer": made.localizer}
    pictures = {"before": made.heatmap.with_name("before.png"), "heat map": made.heatmap}
    for name, words in {**paths, **pictures, "next": what_next(made.localizer)}.items():
        print(f"{name + ':':<12}{words}")
    say(
        "This model has only seen rendered clips: on a clip of your own it shows how to go on, not where the sound is."
    )


def what_next(localizer: Path) -> str:
    """What to type for a clip of one's own: with the model's name where another one would be taken."""
    newest = places.newest_run()
    found = newest is not None and newest.resolve() == localizer.resolve()
    named = [] if found and not os.environ.get("AVTOOL_MODEL") else ["--model", str(localizer)]
    return shlex.join(["avtool", "localize", "clip.mp4", *named, "--out", "heatmap.png"])
