"""Where things are looked for when the command line does not say: data, runs, models, cache."""

import os
import re
import shutil
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from avtool.errors import CheckpointError, UsageError
from avtool.hub import CONFIG, WEIGHTS, fetch_model, is_hub_name

RUNS = Path("runs")
"""Where new runs are written, and the newest is looked for."""
DEMO = Path("avtool-demo")
"""What ``avtool demo`` makes where it is not told another place."""
DEMO_LOCALIZER = DEMO / "localizer"
"""The run that the demo ends with: a model that localizes."""
CHECKPOINTS = "checkpoints"
BEST = "best"
"""Of a fine-tuned run, the weights with the best validation measure."""
SHARED_MEMORY = Path("/dev/shm")
"""Where Linux keeps the memory that processes share. In Docker it holds 64 MB where nothing else is said."""
_STEP = re.compile(r"step-\d+")


def path_in_environment(name: str, *, folder: bool = False) -> Path | None:
    """The path in environment variable ``name``, ~ expanded; None where it is not set or empty. UsageError where there
    is no such home folder, and where a ``folder`` is meant and a file is in its place."""
    value = os.environ.get(name)
    if not value:
        return None
    try:
        path = Path(value).expanduser()
    except RuntimeError as error:
        raise UsageError(
            f"${name} is {value}, and there is no such home folder", hint=f"set {name} to a whole path"
        ) from error
    if folder and path.exists() and not path.is_dir():
        hint = f"set {name} to a folder, or unset {name}"
        raise UsageError(f"${name} is {path}, a file: a folder is needed", hint=hint)
    return path


def from_home(path: Path) -> Path:
    """The path with the home folder for its ~, which no shell expands in a table or in --out=~/x."""
    return path.expanduser() if path.parts[:1] == ("~",) else path


def data_root() -> Path:
    """$AVTOOL_DATA, else ./data."""
    return path_in_environment("AVTOOL_DATA", folder=True) or Path("data")


def source_folder(name: str) -> Path:
    """Where the raw files of data set ``name`` are looked for."""
    return data_root() / name


def prepared_folder(name: str) -> Path:
    """Where the prepared data set ``name`` is written and read."""
    return data_root() / "prepared" / name


def cache_root() -> Path:
    """$AVTOOL_CACHE, else $XDG_CACHE_HOME/avtool, else ~/.cache/avtool."""
    if explicit := path_in_environment("AVTOOL_CACHE", folder=True):
        return explicit
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "avtool"


def pulled_models() -> Path:
    """Where published models lie, each under its name, once they are fetched and converted."""
    return cache_root() / "models"


def shared_memory() -> tuple[int, int] | None:
    """Bytes of /dev/shm in all, and free; None where there is no such place, or it has no limit of its own."""
    if not SHARED_MEMORY.is_dir():
        return None
    usage = shutil.disk_usage(SHARED_MEMORY)
    return (usage.total, usage.free) if usage.total else None


def new_run_folder(recipe: str) -> Path:
    """./runs/RECIPE-DATE, with a counter where several runs start within one second."""
    name = f"{recipe}-{datetime.now():%Y%m%d-%H%M%S}"
    folder, count = RUNS / name, 1
    while folder.exists():
        count += 1
        folder = RUNS / f"{name}-{count}"
    return folder


def is_checkpoint(folder: Path) -> bool:
    """Whether ``folder`` is a whole checkpoint: written under a temporary name, so that one that is there is whole."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).exists()


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where a run's checkpoint after ``step`` lies."""
    return run / CHECKPOINTS / f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint of a run."""
    return int(checkpoint.name.removeprefix("step-"))


def checkpoints_of(run: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    folder = run / CHECKPOINTS
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _STEP.fullmatch(path.name) and is_checkpoint(path))


def run_of(checkpoint: Path) -> Path | None:
    """The run that a checkpoint folder is of, by its place; None where it is of none."""
    if checkpoint.parent.name == CHECKPOINTS:
        return checkpoint.parent.parent
    return checkpoint.parent if checkpoint.name == BEST else None


def newest_of(runs: Iterable[Path]) -> Path | None:
    """Of ``runs`` the one with the most recently written checkpoint; None where none has any."""
    dated = [(done[-1].stat().st_mtime_ns, run) for run in runs if (done := checkpoints_of(run))]
    return max(dated)[1] if dated else None


def newest_run() -> Path | None:
    """The newest of the runs under ./runs and the demo's localizer."""
    return newest_of([*(RUNS.iterdir() if RUNS.is_dir() else ()), DEMO_LOCALIZER])


def _is_pulled(path: Path) -> bool:
    return not path.name.startswith(".") and is_checkpoint(path)


def resolve_checkpoint(path: Path) -> Path:
    """The checkpoint folder meant by ``path``: a run (its best weights, where they were chosen, else its newest
    checkpoint), a checkpoint or a converted folder, or, where there is no such path, the name of a pulled model, or
    ``owner/name`` or ``owner/name@revision`` on the hub (see ``avtool.hub``)."""
    if not path.exists():
        if len(path.parts) == 1 and _is_pulled(pulled_models() / path):
            return pulled_models() / path
        if is_hub_name(path):
            return fetch_model(str(path))
        hint = "avtool pretrain --recipe tiny makes one; avtool pull --list names published ones"
        if is_hub_name(Path(f"{path}@main")):
            hint += f"; {path.parent} is a folder here: {path}@main asks the hub"
        raise CheckpointError(f"no model at {path}", hint=hint)
    if not path.is_dir():
        raise CheckpointError(
            f"{path} is a file; a run folder or a checkpoint folder is needed",
            hint="name the folder that holds model.safetensors and config.json; avtool convert makes one of a "
            "checkpoint of another program",
        )
    if is_checkpoint(path):
        return path
    if is_checkpoint(path / BEST):
        return path / BEST
    if (path / BEST).exists():
        raise CheckpointError(
            f"{path / BEST} lacks model.safetensors or config.json",
            hint=f"take an undamaged copy, or name one of {path / CHECKPOINTS} yourself",
        )
    if path.name == CHECKPOINTS:
        path = path.parent
    if done := checkpoints_of(path):
        return done[-1]
    raise CheckpointError(
        f"{path} holds no checkpoint (neither model.safetensors with config.json nor {CHECKPOINTS}/step-*)",
        hint="name a run folder of avtool pretrain, or a checkpoint folder",
    )


def find_model(explicit: Path | None) -> tuple[Path, str]:
    """The checkpoint folder to use and in words where it came from: ``--model``, or what ``usual_model`` finds."""
    if explicit is not None:
        return resolve_checkpoint(explicit), "--model"
    if usual := usual_model():
        return usual
    raise UsageError(
        f"no model given, $AVTOOL_MODEL is not set, there is no run under ./{RUNS} and none was pulled",
        hint="avtool demo, avtool pretrain --recipe tiny, or avtool pull deepavfusion-vggsound",
    )


def usual_model() -> tuple[Path, str] | None:
    """The same where no model is named: $AVTOOL_MODEL, the newest run (the demo's among them) or the model pulled
    last; None where there is none of these."""
    if named := path_in_environment("AVTOOL_MODEL"):
        try:
            return resolve_checkpoint(named), "$AVTOOL_MODEL"
        except CheckpointError as error:
            raise CheckpointError(
                f"$AVTOOL_MODEL: {error.message}",
                hint="set AVTOOL_MODEL to a run, a checkpoint folder or a pulled name, or give --model",
            ) from error
    if run := newest_run():
        words = f"the demo in ./{DEMO}" if run == DEMO_LOCALIZER else f"the newest run under ./{RUNS}"
        return resolve_checkpoint(run), words
    root = pulled_models()
    pulled = filter(_is_pulled, root.iterdir() if root.is_dir() else ())
    newest = max(pulled, key=lambda path: path.stat().st_mtime_ns, default=None)
    return (newest, "avtool pull") if newest else None
