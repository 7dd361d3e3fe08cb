"""Talk on stderr: lines, warnings and progress bars (live on a terminal, sparse plain lines elsewhere)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

PLAIN_SECONDS = 10.0
"""Where stderr is not a terminal, a bar prints at most one line in this many seconds."""


_quiet = False


def say(message: str) -> None:
    """One line to stderr."""
    if not _quiet:
        print(message, file=sys.stderr, flush=True)


@contextmanager
def quiet(wanted: bool = True) -> Iterator[None]:
    """Nothing is said inside the block, where ``wanted``: of several processes one talks."""
    global _quiet  # noqa: PLW0603 - talk goes to one stderr, whoever speaks
    before, _quiet = _quiet, wanted or _quiet
    try:
        yield
    finally:
        _quiet = before


def warn(message: str) -> None:
    """One line to stderr that begins with ``warning:``."""
    say(f"warning: {message}")


class Bar:
    """Progress through ``total`` units (None: the end is not known), of which ``start`` were done before."""

    def __init__(
        self, description: str, total: int | None, unit: str, start: int = 0, *, brief: bool = False
    ) -> None:
        self.description = description
        self.brief = brief
        self.total = total
        self.unit = unit
        self.done = self._done_then = start
        self.start = start
        self.fields: dict[str, str] = {}
        self._began = self._then = time.monotonic()

    def advance(self, n: int = 1, **fields: str) -> None:
        """``n`` more units are done; ``fields`` (``loss="0.812"``) are shown beside rate and time left."""
        self.done += n
        self.fields.update(fields)
        self._show()

    def close(self) -> None:
        """Show how far it came and at what rate over all; a brief one that showed nothing before ends in silence."""
        if not self.brief or self._then != self._began:
            self._print_line(self._began, self.start, at_end=True)

    def _show(self) -> None:
        if time.monotonic() - self._then >= PLAIN_SECONDS:
            self._print_line(self._then, self._done_then)

    def _print_line(self, since: float, done_since: int, *, at_end: bool = False) -> None:
        now = time.monotonic()
        rate = (self.done - done_since) / max(now - since, 1e-9)
        count = f"{self.done}" if self.total is None else f"{self.done}/{self.total}"
        parts = [f"{count} {self.unit}", f"{rate:.1f} {self.unit}/s", *_shown(self.fields)]
        if at_end:
            parts.append(f"{_clock(now - self._began)} in all")
        elif self.total is not None and rate > 0:
            parts.append(f"{_clock((self.total - self.done) / rate)} left")
        say(f"{self.description}: {', '.join(parts)}")
        self._then, self._done_then = now, self.done


class _LiveBar(Bar):
    """The same on a terminal, drawn by Rich."""

    def __init__(
        self, description: str, total: int | None, unit: str, start: int = 0, *, brief: bool = False
    ) -> None:
        from rich.console import Console
        from rich.progress import Progress

        super().__init__(description, total, unit, start, brief=brief)
        self._progress: Progress = Progress(
            *_columns(),
            console=Console(stderr=True),
            refresh_per_second=4,
            expand=True,
            transient=brief,
        )
        self._task = self._progress.add_task(
            description, total=total, completed=start, rate="", count=self._count(), shown=""
        )
        self._progress.start()

    def _count(self) -> str:
        return f"{self.done}/{'?' if self.total is None else self.total}"

    def _show(self) -> None:
        speed = self._progress.tasks[0].speed
        self._progress.update(
            self._task,
            completed=self.done,
            count=self._count(),
            rate="" if speed is None else f"{speed:.1f} {self.unit}/s",
            shown=" ".join(_shown(self.fields)),
        )

    def close(self) -> None:
        self._progress.stop()


def _columns() -> list[ProgressColumn]:
    """Description, bar (which takes what the rest leaves of the line), count, rate, fields, time left."""
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.table import Column

    def text(template: str) -> TextColumn:
        return TextColumn(template, markup=False, table_column=Column(no_wrap=True))

    return [
        text("{task.description}"),
        BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=4)),
        text("{task.fields[count]}"),
        text("{task.fields[rate]}"),
        text("{task.fields[shown]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True, table_column=Column(no_wrap=True)),
    ]


def _shown(fields: dict[str, str]) -> list[str]:
    return [f"{name} {value}" for name, value in fields.items()]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def progress_bar(
    description: str, *, total: int | None, unit: str, start: int = 0, brief: bool = False
) -> Iterator[Bar]:
    """A bar on stderr for the length of the ``with`` block.

    ``unit`` is the plural name of what is counted ("clips", "samples"), ``total`` how many there are, and
    ``start`` how many were done in an earlier run. On a terminal a live bar that fits 80 columns; elsewhere a
    plain line at most every ten seconds and one at the end, also where the block is left by an exception. A
    ``brief`` one leaves nothing behind: no live bar, and no last line where there was none before.
    """
    live = not _quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    bar = (_LiveBar if live else Bar)(description, total, unit, start, brief=brief)
    try:
        yield bar
    finally:
        bar.close()
