"""Large files over HTTP: resumable, and named where they are something else than what was asked for."""

import errno
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from avtool.errors import CheckpointError, UsageError
from avtool.files import NO_LOCKS, name_of_other_content, take_lock
from avtool.progress import progress_bar, say

ATTEMPTS = 5
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
POLL = 0.2
"""Seconds between two looks at a lock that another process holds."""
_BLOCK = 1 << 20
ELSEWHERE = "use another address: --base-url or $AVTOOL_WEIGHTS_URL"
"""The way out where an address gives something else than the published weights."""


class _BrokenOff(Exception):
    """The connection ended, or never came about; what came until then is kept."""


@contextmanager
def only_one(target: Path, *, what: str) -> Iterator[None]:
    """Make ``target`` in one process at a time: another one that comes here waits, and says so.

    The lock is an empty file beside ``target``, which stays. CheckpointError where the file system has no locks. Where
    nothing can be written beside ``target``, nobody can make it either, and nothing is locked.
    """
    lock = target.with_name(target.name + ".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = take_lock(lock)
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise CheckpointError(
                f"cannot lock {lock}: {error.strerror}", hint="set AVTOOL_CACHE to a folder on a local disk"
            ) from error
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        yield
        return
    if held is None:
        say(f"{what}: waiting for another process that is fetching it")
        while (held := take_lock(lock)) is None:
            time.sleep(POLL)
    try:
        yield
    finally:
        held.release()


def partial_path(target: Path) -> Path:
    """Where ``target`` grows until it is whole."""
    return target.with_name(target.name + ".part")


def download(
    url: str,
    target: Path,
    *,
    size: int | None,
    what: str,
    by_hand: str,
    elsewhere: str = ELSEWHERE,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Fetch ``url`` into ``target``; until it is whole it grows beside it as ``.part``, and a later call goes on there.

    ``size``: its bytes, None where they are not known. ``by_hand`` is the way out in words where there is no network,
    ``elsewhere`` where the address gives something else. ``headers`` are for that address alone: where it sends us on,
    they stay behind. CheckpointError where it cannot be had, or where what came is a page, a pointer or of another
    size: nothing of that is kept.
    """
    if not re.match(r"https?://", url):
        raise UsageError(f"{url} is no http or https address", hint=elsewhere)
    part = partial_path(target)
    part.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(ATTEMPTS):
        before = _size(part)
        try:
            _fetch(url, part, size=size, what=what, elsewhere=elsewhere, headers=headers or {})
            part.replace(target)
            return
        except _BrokenOff as broken:
            reason = str(broken)
        if _size(part) <= before:
            break
        say(f"{what}: broken off after {_size(part):,} bytes ({reason})")
    kept = (
        f"; {_size(part):,} bytes are kept and the same command goes on from there" if part.exists() else ""
    )
    raise CheckpointError(f"cannot fetch {url}: {reason}{kept}", hint=f"try again, or {by_hand}")


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _fetch(
    url: str, part: Path, *, size: int | None, what: str, elsewhere: str, headers: Mapping[str, str]
) -> None:
    """One connection: the rest of ``part``, or all of it where the server sends no parts."""
    have = _size(part)
    if have and have == size:
        return
    request = urllib.request.Request(url, headers={"User-Agent": "avtool", "Accept-Encoding": "identity"})
    for name, value in headers.items():
        request.add_unredirected_header(name, value)
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            start, total = _extent(answer, have)
            first = answer.read(_BLOCK)
            if start == 0:
                _check_content(first, url, total=total, size=size, elsewhere=elsewhere)
            elif size is not None and total != size:
                part.unlink()
                raise CheckpointError(f"{url} has {total} bytes now, not {size:,}", hint="start again")
            with part.open("r+b" if start else "wb") as file:
                file.seek(start)
                _copy(answer, file, first, what=what, start=start, total=total or size)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            if error.headers.get("Content-Range") != f"bytes */{have}":  # what came is of another file
                part.unlink()
                _fetch(url, part, size=size, what=what, elsewhere=elsewhere, headers=headers)
            return
        raise _BrokenOff(f"the server answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _BrokenOff(str(error.reason)) from error
    except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise _BrokenOff(str(error) or type(error).__name__) from error


def _extent(answer: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """Where in the file the answer begins, and the file's length, if the server says."""
    if answer.status == http.client.PARTIAL_CONTENT:
        said = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if said is None or int(said[1]) != have:
            raise http.client.HTTPException("the server sends another part than was asked for")
        return have, None if said[2] == "*" else int(said[2])
    length = answer.headers.get("Content-Length")
    return 0, int(length) if length else None


def _check_content(first: bytes, url: str, *, total: int | None, size: int | None, elsewhere: str) -> None:
    """CheckpointError where the file begins as a page or pointer, or is not ``size`` bytes long."""
    if found := name_of_other_content(first):
        raise CheckpointError(
            f"{url} gives {found} of {total or len(first)} bytes, not the file itself", hint=elsewhere
        )
    if size is not None and total not in (None, size):
        raise CheckpointError(
            f"{url} is {total:,} bytes long, not {size:,}: it is another file than the published one",
            hint=elsewhere,
        )


def _blocks(count: int) -> int:
    return -(-count // _BLOCK)


def _copy(
    answer: http.client.HTTPResponse,
    file: BinaryIO,
    block: bytes,
    *,
    what: str,
    start: int,
    total: int | None,
) -> None:
    done, whole = start, None if total is None else _blocks(total)
    with progress_bar(what, total=whole, unit="MiB", start=_blocks(start)) as bar:
        while block:
            file.write(block)
            bar.advance(_blocks(done + len(block)) - _blocks(done))
            done += len(block)
            block = answer.read(_BLOCK)
    if total is not None and done < total:
        raise http.client.HTTPException(f"the connection ended after {done:,} of {total:,} bytes")
