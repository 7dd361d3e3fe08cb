"""Where a run's numbers go beside metrics.jsonl: TensorBoard, Weights & Biases, Trackio."""

import os
import sys
import uuid
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Protocol

from avtool.errors import TrainingError
from avtool.files import atomic_file
from avtool.libraries import need_extra

TENSORBOARD, PROJECT = "tensorboard", "avtool"
"""Folder of a run for TensorBoard; and the project that runs are put in elsewhere, unless the environment names one."""
LOGGED_AS = "logged-as.txt"
"""File of a run: the id under which it is known elsewhere, also when it is resumed."""


class Logger(Protocol):
    """Begins, or goes on with, what is logged of the run in a folder that is at ``step``. ``settings``: its recipe."""

    def __init__(self, run: Path, *, step: int, settings: Mapping[str, Any]) -> None: ...

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by names as train/loss."""

    def close(self, *, failed: bool) -> None:
        """Hand over what is not sent yet."""


class TensorBoard:
    """Event files in the run's folder."""

    def __init__(self, run: Path, *, step: int, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run / TENSORBOARD), purge_step=step + 1)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self, *, failed: bool) -> None:
        self.writer.close()


class Wandb:
    """Weights & Biases: online, offline or not at all, as $WANDB_MODE and ``wandb login`` say. Its files lie in the
    run's folder."""

    def __init__(self, run: Path, *, step: int, settings: Mapping[str, Any]) -> None:
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.resolve().name,
            id=logged_as(run),
            resume="allow",
            dir=str(run),
            config=dict(settings),
            reinit="create_new",
            settings=wandb.Settings(console="off"),
        )
        self.run.define_metric("step", hidden=True)
        self.run.define_metric("*", step_metric="step")  # its own counts rows, of which a step can have two

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log({"step": step, **values})

    def close(self, *, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


class Trackio:
    """Trackio: on this machine, or where $TRACKIO_SPACE_ID or $TRACKIO_SERVER_URL says."""

    def __init__(self, run: Path, *, step: int, settings: Mapping[str, Any]) -> None:
        import trackio

        self.trackio = trackio
        with redirect_stdout(sys.stderr):  # stdout is for what a command returns
            self.run = trackio.init(
                project=os.environ.get("TRACKIO_PROJECT", PROJECT),
                name=f"{run.resolve().name}-{logged_as(run)}",  # it resumes by name
                resume="allow",
                config=dict(settings),
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def close(self, *, failed: bool) -> None:
        with redirect_stdout(sys.stderr):
            self.trackio.finish()  # not the run's own, after which it would finish once more when Python ends


LOGGERS: dict[str, tuple[type[Logger], str, str]] = {
    TENSORBOARD: (TensorBoard, "train.tensorboard=false", "see whether TensorBoard's own example runs"),
    "wandb": (Wandb, "train.logger=null", "wandb login, or WANDB_MODE=offline"),
    "trackio": (Trackio, "train.logger=null", "unset TRACKIO_SPACE_ID and TRACKIO_SERVER_URL to log locally"),
}
"""By the name of package and extra: the logger, the setting without it, and what helps where it does not begin."""


def chosen(train: Any) -> list[str]:
    """The names of those that the section ``train`` of a recipe asks for."""
    return [TENSORBOARD] * train.tensorboard + [train.logger] * bool(train.logger)


def check_loggers(names: Iterable[str]) -> None:
    """UsageError where a package is missing."""
    for name in names:
        setting = "train.tensorboard=true" if name == TENSORBOARD else f"train.logger={name}"
        need_extra(name, extra=name, purpose=setting, otherwise=f"leave {LOGGERS[name][1]}")


def open_loggers(
    names: Iterable[str], run: Path, *, step: int, settings: Mapping[str, Any]
) -> dict[str, Logger]:
    """Those of these names. TrainingError with what it says where one does not begin."""
    loggers: dict[str, Logger] = {}
    for name in names:
        kind, without, help_ = LOGGERS[name]
        try:
            loggers[name] = kind(run, step=step, settings=settings)
        except Exception as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise TrainingError(
                f"{name} does not begin to log: {said[:300]}", hint=f"{help_}; or leave {without}"
            ) from error
    return loggers


def logged_as(run: Path) -> str:
    """The id of a run elsewhere: eight letters and digits, drawn when it is first asked for."""
    path = run / LOGGED_AS
    known = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    if not known:
        known = uuid.uuid4().hex[:8]
        with atomic_file(path) as partial:
            partial.write_text(f"{known}\n", encoding="utf-8")
    return known
