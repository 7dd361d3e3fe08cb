"""What goes on around the steps: how fast they are, and signals that end a run."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from avtool.data.loader import STOP_SIGNALS
from avtool.progress import say


class Meter:
    """Speed and the share of time that went by waiting for data, since it was last read."""

    def __init__(self, *, clips_per_step: int) -> None:
        self.clips_per_step = clips_per_step
        self.steps, self.waited, self.since = 0, 0.0, time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The block waits for data."""
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The block is no part of the training that is timed."""
        began = time.perf_counter()
        yield
        self.since += time.perf_counter() - began

    def read(self) -> dict[str, float]:
        """``elapsed`` seconds, ``samples_per_second``, and ``waiting``, a share of the time; then begin anew."""
        now = time.perf_counter()
        elapsed = now - self.since
        result = {
            "elapsed": elapsed,
            "samples_per_second": self.steps * self.clips_per_step / elapsed,
            "waiting": self.waited / elapsed,
        }
        self.steps, self.waited, self.since = 0, 0.0, now
        return result


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Collect the first of STOP_SIGNALS instead of dying of it in the middle of a step; the second one kills."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, previous[number])
        say("stopping after this step, with a checkpoint; once more ends at once and loses what is not saved")

    previous = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
