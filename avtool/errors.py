"""Exceptions that a user can act on: what was wrong, the way out, and the exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, recipe or table, 130 interrupted.
"""

import difflib
import errno
import shutil
from collections.abc import Iterable
from pathlib import Path


class AvtoolError(Exception):
    """Something failed that the user can mend.

    ``message`` names the thing and what is wrong with it, in one line; ``hint`` is the way out, best an exact
    command to type next.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint:
            self.add_note(f"hint: {hint}")  # where a script of the user's does not catch it


class MediaError(AvtoolError):
    """A clip, image or sound file cannot be used."""


class DataError(AvtoolError):
    """A data set, prepared or not, is missing or broken."""


class CheckpointError(AvtoolError):
    """A checkpoint is missing, truncated or of another shape."""


class TrainingError(AvtoolError):
    """Training cannot start or must stop."""


class NotFinite(CheckpointError, ValueError):
    """What is to be scored holds NaN or infinity: it is of a model that diverged."""

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="use an earlier checkpoint")


class UsageError(AvtoolError):
    """The command line asks for something that cannot be done."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe is unknown, or a key or value in it is wrong."""


class TableError(UsageError):
    """A csv or json table does not have the form it should."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest of the ``known`` names, where one is near, and all of them."""
    known = list(known)
    near = "".join(f"did you mean {near}? " for near in difflib.get_close_matches(name, known, n=1))
    return f"{near}there are {', '.join(known)}"


def check_choice(name: str, value: str, known: Iterable[str]) -> None:
    """UsageError, with the nearest and all that there are, where ``value`` of the option ``name`` is not ``known``."""
    known = list(known)
    if value not in known:
        raise UsageError(f"{name} {value} is not known", hint=did_you_mean(value, known))


def explain(error: BaseException) -> AvtoolError | None:
    """``error`` as a sentence with a way out, or None where it is a defect of the program."""
    if isinstance(error, AvtoolError):
        return error
    if isinstance(error, OSError):
        return _explain_os_error(error)
    text = str(error)
    first = text.partition("\n")[0]
    # torch's own error, by its name: torch is not imported for it
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return AvtoolError(
            f"out of memory: {first or 'the machine has no more'}",
            hint="lower train.batch_size and raise train.accumulate by as much",
        )
    if isinstance(error, RuntimeError) and text.startswith("DataLoader worker"):
        # where torch sees a death while it waits for a batch, only the cause of its error says which signal it was
        cause = str(error.__cause__).partition("\n")[0]
        first = cause if cause.startswith("DataLoader worker") else first
        way = more_shared_memory() if "Bus error" in first else "was there memory enough, in /dev/shm too?"
        return AvtoolError(
            f"a process that loads data has died: {first.rstrip(' .')}",
            hint=f"{way}; fewer data.workers take less; a run goes on with --resume",
        )
    if isinstance(error, RuntimeError) and any(words in text for words in _SAID_OF_LOST):
        return AvtoolError(LOST, hint=LOST_HINT)
    return None


def in_words(error: BaseException) -> AvtoolError:
    """``error`` as a sentence, a defect of the program as one too."""
    text = " ".join(str(error).split()) or "no message"
    return explain(error) or AvtoolError(
        f"{type(error).__name__}: {text}",
        hint="this is a defect of avtool; add --debug for the traceback",
    )


def more_shared_memory(needed: int = 0) -> str:
    """The way to a larger /dev/shm, of at least ``needed`` bytes."""
    return f"start the container with more (docker run --shm-size={max(2, -(-needed // 2**30))}g)"


LOST = "another process of this job has ended"
LOST_HINT = "its own error, or torchrun's report, says why; a run goes on with --resume"
_SAID_OF_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "NCCL communicator was aborted",
)
"""What gloo and nccl say of a process that they wait for."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""Of an OSError: the disk takes no more."""
FULL_HINT = (
    "free some space and give the same command again (a training run: with --resume), or choose another --out"
)
_OS_ERRORS = {
    errno.ENOSPC: ("no space left on the disk while writing {name}", FULL_HINT),
    errno.EDQUOT: ("disk quota exceeded while writing {name}", FULL_HINT),
    errno.EACCES: ("no permission for {name}", "choose another place, or change its permissions"),
    errno.EROFS: ("{name} is on a read-only file system", "choose another --out"),
    errno.ENOENT: ("{name} does not exist", "check the path"),
    errno.EISDIR: ("{name} is a folder, a file is needed", "check the path"),
    errno.ENAMETOOLONG: ("the name {name} is longer than the file system takes", "choose a shorter one"),
    errno.ENOTDIR: ("a part of the path {name} is a file, not a folder", "check the path"),
}
"""What went wrong with the file ``name``, and the way out."""


def _explain_os_error(error: OSError) -> AvtoolError | None:
    if error.errno not in _OS_ERRORS:
        return None
    message, hint = _OS_ERRORS[error.errno]
    message = message.format(name=error.filename if error.filename is not None else "the output")
    if error.errno == errno.ENOSPC and isinstance(error.filename, str):
        message += f" ({in_bytes(free_bytes(Path(error.filename)))} are free)"
    return AvtoolError(message, hint=hint)


def free_bytes(path: Path) -> int:
    """Free bytes of the disk that ``path`` is on, or will be."""
    path = path.absolute()
    return shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists())).free


def in_bytes(size: float) -> str:
    """A number of bytes in the largest unit that leaves at least one, as 8.4 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"


def in_mebibytes(size: float) -> str:
    """A number of bytes as memory is counted, as 64 MiB."""
    return f"{size / 2**20:,.0f} MiB"
