"""Talk on stderr: lines, warnings and progress bars (live on a terminal, sparse plain lines elsewhere)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

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


@dataclass
class Bar:
    """Progress through ``total`` units (None: the end is not known), of which ``start`` were done before."""

    description: str
    total: int | None
    unit: str
    start: int = 0
    brief: bool = False
    fields: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.done = self._done_then = self.start
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
        parts = [f"{count} {self.unit}", f"{rate:.1f} {self.unit}/s", *self._shown()]
        if at_end:
            parts.append(f"{_clock(now - self._began)} in all")
        elif self.total is not None and rate > 0:
            parts.append(f"{_clock((self.total - self.done) / rate)} left")
        say(f"{self.description}: {', '.join(parts)}")
        self._then, self._done_then = now, self.done

    def _shown(self) -> list[str]:
        return [f"{name} {value}" for name, value in self.fields.items()]


class _LiveBar(Bar):
    """The same on a terminal, drawn by Rich in one line: description, bar (which takes what the rest leaves), count,
    rate, fields, time left."""

    def __post_init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        super().__post_init__()
        whole = Column(no_wrap=True)
        description, *texts = (
            TextColumn(f"{{task.{name}}}", markup=False, table_column=whole)
            for name in ("description", "fields[count]", "fields[rate]", "fields[shown]")
        )
        left = TimeRemainingColumn(compact=True, elapsed_when_finished=True, table_column=whole)
        self._progress = Progress(
            description,
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=4)),
            *(*texts, left),
            console=Console(stderr=True),
            refresh_per_second=4,
            expand=True,
            transient=self.brief,
        )
        self._task = self._progress.add_task(
            self.description, total=self.total, completed=self.start, count="", rate="", shown=""
        )
        self._show()
        self._progress.start()

    def _show(self) -> None:
        speed = self._progress.tasks[0].speed
        self._progress.update(
            self._task,
            completed=self.done,
            count=f"{self.done}/{'?' if self.total is None else self.total}",
            rate="" if speed is None else f"{speed:.1f} {self.unit}/s",
            shown=" ".join(self._shown()),
        )

    def close(self) -> None:
        self._progress.stop()


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
    bar = (_LiveBar if live else Bar)(description, total, unit, start, brief)
    try:
        yield bar
    finally:
        bar.close()
