"""What goes on around the steps: how fast they are, and signals that end a run."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from avtool.data.loader import STOP_SIGNALS
from avtool.progress import say


class Meter:
    """Speed, and the shares of time that went by waiting for data and beside the work, since it was last read."""

    def __init__(self, *, clips_per_step: int) -> None:
        self.clips_per_step = clips_per_step
        self.steps, self.waited, self.worked, self.since = 0, 0.0, 0.0, time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The block waits for data."""
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began

    @contextmanager
    def working(self) -> Iterator[None]:
        """The block is the task's or the optimizer's: passes, averaging, the check of gradients, the step. An
        accelerator's time is seen where the host waits for it, at that check."""
        began = time.perf_counter()
        yield
        self.worked += time.perf_counter() - began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The block is no part of the training that is timed."""
        began = time.perf_counter()
        yield
        self.since += time.perf_counter() - began

    def read(self) -> dict[str, float]:
        """``elapsed`` seconds, ``samples_per_second``, and as shares of the time ``waiting`` and ``overhead``, what was
        neither waiting nor working: transfers, logs, display, checkpoints; then begin anew."""
        now = time.perf_counter()
        elapsed = now - self.since
        result = {
            "elapsed": elapsed,
            "samples_per_second": self.steps * self.clips_per_step / elapsed,
            "waiting": self.waited / elapsed,
            "overhead": max(0.0, 1 - (self.waited + self.worked) / elapsed),
        }
        self.steps, self.waited, self.worked, self.since = 0, 0.0, 0.0, now
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
