"""Outputs that are whole or not there at all: written under a temporary name, then renamed; and JSON that is JSON."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avtool.errors import FULL, UsageError

if TYPE_CHECKING:
    from filelock import BaseFileLock

LFS_POINTER = b"version https://git-lfs"
"""How a file begins that stands for one which Git LFS has not fetched."""
ARCHIVE = re.compile(
    rb"PK[\3\5]|\x1f\x8b|BZh\d|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!|.{257}ustar", re.DOTALL
)
"""How archives and compressed files begin."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""Of an OSError: the disk knows no locks, as some network disks do."""


WAYS_OUT = {
    "a Git LFS pointer": "run 'git lfs pull' in that repository, or fetch the file itself",
    "an HTML page": "fetch the file itself, not its web page",
}


def name_of_other_content(head: bytes) -> str | None:
    """What a file that begins with ``head`` is, if it is one of the things that are found in place of a large file."""
    if head.startswith(LFS_POINTER):
        return "a Git LFS pointer"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    return None


def check_output(
    path: Path,
    *,
    force: bool,
    markers: tuple[str, ...] = (),
    option: str = "--out",
    suffix: str = "",
    others: Iterable[Path | None] = (),
) -> None:
    """Refuse an output path that exists (unless ``force``) or whose parent is not a folder. Writes nothing.
    ``option`` is what the user calls it, ``suffix`` what its name ends in; ``others`` are files that it must not be.

    With ``markers``, ``force`` may replace only an empty folder, or one in which a file of such a name says that avtool
    wrote it: never a folder of the user's own. Without, the output is a file, and a folder in its place is refused.
    """
    another = f"choose another {option}"
    if suffix and path.suffix.lower() != suffix:
        raise UsageError(
            f"{option} {path} is not named {suffix}", hint=f"{option} {path.with_suffix(suffix)}"
        )
    if path.is_dir() and not markers:
        raise UsageError(f"{option} {path} is a folder, a file is needed", hint=another)
    if markers and path.is_symlink() and not path.exists():
        raise UsageError(f"{path} is a link that leads nowhere", hint=another)
    if markers and path.exists():
        empty = path.is_dir() and not any(path.iterdir())
        ours = empty or any((path / marker).is_file() for marker in markers)
        here = path.resolve() in (Path.cwd(), *Path.cwd().parents)
        if not ours or here:
            why = "you are in it" if here else f"without {' or '.join(markers)} it is not what avtool wrote"
            raise UsageError(f"{path} exists and is not replaced, not even with --force: {why}", hint=another)
    if (path.exists() or path.is_symlink()) and not force:
        raise UsageError(f"{path} exists", hint=f"{another}, or add --force to replace it")
    if any(other is not None and _same(path, other) for other in others):
        raise UsageError(
            f"{option} {path} would replace the clip or another file of this command", hint=another
        )
    parent = nearest_parent(path)
    if not parent.is_dir():
        what = "a link that leads nowhere" if parent.is_symlink() else "a file, not a folder"
        raise UsageError(f"cannot write {path}: {parent} is {what}", hint=another)
    closed = not os.access(parent, os.W_OK | os.X_OK) or parent.parts[1:2] in (("proc",), ("sys",))
    if closed and not path.exists():
        raise UsageError(f"cannot write {path}: nothing can be written in {parent}", hint=another)


def nearest_parent(path: Path) -> Path:
    """The innermost of the folders that ``path`` is to lie in that is there."""
    return next(parent for parent in path.absolute().parents if os.path.lexists(parent))


def _same(first: Path, second: Path) -> bool:
    if first.exists() and second.exists():
        return first.samefile(second)
    return first.absolute() == second.absolute()


def printable(path: Path | str) -> str:
    """The path as text that can be drawn and printed anywhere, with ? for what is none."""
    return str(path).encode(errors="replace").decode()


def is_unicode(path: Path) -> bool:
    """Whether the path is text: names are bytes, and libraries that want text take no others."""
    return printable(path) == str(path)


def json_text(value: Any, **options: Any) -> str:
    """``value`` as ``json.dumps`` writes it with ``options``, with null for every number that is not finite: JSON has
    no NaN and no Infinity."""
    return json.dumps(finite(value), allow_nan=False, **options)


def finite(value: Any) -> Any:
    """``value``, nested in dicts and lists as may be, with None for every number that is not finite. Scalars of numpy
    and torch become numbers, tuples lists."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sha256_of(path: Path) -> str:
    """The file's sha256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove_remains(path: Path, kind: str = "partial", *, among: Iterable[Path] | None = None) -> None:
    """Remove what killed processes left of writing or replacing ``path``; ``among`` these (None: all in its folder)."""
    begins = f".{path.name}.{kind}-"
    for remains in path.parent.glob(f".*.{kind}-*") if among is None else among:
        number = remains.name.removeprefix(begins).partition(".")[0]
        if remains.name.startswith(begins) and number.isdigit() and not _is_running(int(number)):
            _remove(remains)


@cache
def _partial_in(folder: Path) -> list[Path]:
    """What was being written in ``folder``, or left so, when this process first wrote there. One look for all files:
    of the thousands of clips that are rendered each would look through all before it."""
    return list(folder.glob(".*.partial-*"))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if os.name == "nt":  # there signal 0 is no question, it is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def take_lock(path: Path) -> BaseFileLock | None:
    """The lock that the file ``path`` stands for, held until it is released or the process ends; None where it is held
    elsewhere.

    OSError where it cannot be taken: FileNotFoundError where its folder is removed just then, one of NO_LOCKS where
    there are none. Nobody else may remove the file: another could have opened it already.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError of a full disk names ``path``: a failed write has no name of its own, or a temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            error.filename = str(path)
        raise


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; renamed to it on success, removed on any exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}{path.suffix}")
    _remove_remains(path, among=_partial_in(path.parent.absolute()))
    try:
        with naming(path):
            yield partial
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any, **options: Any) -> None:
    """Write ``value`` to ``path`` as ``json_text`` with ``options``: all of it, or nothing."""
    with atomic_file(path) as partial:
        partial.write_text(json_text(value, **{"indent": 2, **options}) + "\n", encoding="utf-8")


def write_numpy(path: Path, write: Callable[[io.BytesIO], None]) -> None:
    """What ``write`` puts into a file, as np.save does, at ``path``: all of it, or nothing."""
    content = io.BytesIO()  # so that a full disk is an OSError with its reason
    write(content)
    with atomic_file(path) as partial:
        partial.write_bytes(content.getbuffer())


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``path``; it takes ``path``'s place on success (what was there before is
    removed only then) and is removed on any exception."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    _remove_remains(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with naming(path):
            yield partial
            put_in_place(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def put_in_place(folder: Path, path: Path) -> None:
    """Rename ``folder`` to ``path``; what was there before is removed only then, and put back where that fails."""
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    _remove_remains(path, "old")
    replaces = path.exists() or path.is_symlink()
    if replaces:
        path.replace(old)
    try:
        folder.replace(path)
    except BaseException:
        if replaces:
            old.replace(path)
        raise
    _remove(old)
