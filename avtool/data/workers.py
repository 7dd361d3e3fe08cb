"""Worker processes that may die: the work of one that was killed is done again by another.

A clip can bring down the process that decodes it (a defect of a codec, memory that runs out) or hold it for ever, and
the rest of a data set must not go with it. The standard pools give up everything once one of their processes is gone.
"""

import gc
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import connection, get_all_start_methods, get_context
from typing import Any, Generic, TypeVar

from threadpoolctl import threadpool_limits

from avtool.errors import AvtoolError

Task = TypeVar("Task")
Result = TypeVar("Result")

ATTEMPTS = 2
"""A task whose worker dies this many times is given up."""
AHEAD = 2
"""Tasks a worker is given at a time: the next one waits in its pipe while it works."""
START_ATTEMPTS = 5
READY = "ready"
START_METHOD = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
TIMED_OUT = 124
"""Exit code of a worker that has ended itself at its time limit, where the system has no alarm that does it."""
AT_TIME_LIMIT = {TIMED_OUT} | ({-signal.SIGALRM} if hasattr(signal, "SIGALRM") else set())


@dataclass(frozen=True)
class Crash:
    """In place of a result: every worker that took the task died of it; ``how`` the last one did, and whether that was
    at its ``time_limit``."""

    how: str
    at_time_limit: bool = False


class _Expendable:
    """Whether this process is a worker, whose task another can take over."""

    here = False


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """In a worker: a block that takes longer is ended together with the process, whatever it hangs in (a decoder heeds
    no exception). In any other process there is no limit."""
    if not _Expendable.here:
        yield
        return
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)
        stop: Callable[[], object] = partial(signal.setitimer, signal.ITIMER_REAL, 0)
    else:  # not a Unix
        alarm = threading.Timer(seconds, os._exit, (TIMED_OUT,))
        alarm.start()
        stop = alarm.cancel
    try:
        yield
    finally:
        stop()


def expendable(work: Callable[[Task], Result], task: Task) -> Result:
    """``work(task)`` in a process that the task may bring down."""
    _Expendable.here = True
    return work(task)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_all(
    work: Callable[[Task], Result], tasks: Iterable[Task], *, jobs: int
) -> Iterator[tuple[Task, Result | Crash]]:
    """``work(task)`` for every task in ``jobs`` processes, as results come in, in no fixed order.

    ``work`` and its results are pickled; of ``tasks`` no more are taken than can be handed out. An exception it raises
    is raised here and ends the work. What a dead worker had begun is begun again by another, ATTEMPTS times at the
    most.
    """
    line = Line(tasks, peek=jobs)
    team = _Team(work, len(line.first))
    try:
        while team.hand_out(line):
            for worker in team.with_news():
                try:
                    news = worker.pipe.recv()
                except (EOFError, ConnectionError):
                    yield from team.bury(worker, line)
                    continue
                if isinstance(news, BaseException):
                    raise news
                if news == READY:
                    team.failed_starts, worker.ready = 0, True
                else:
                    yield worker.tasks.popleft()[0], news[0]
    finally:
        team.dismiss()


class Line(Generic[Task]):
    """The tasks that wait, each with how many workers died of it: those handed back untouched, the ones that come, and
    at the end those that killed."""

    def __init__(self, tasks: Iterable[Task], *, peek: int = 0) -> None:
        self.coming = iter(tasks)
        self.first: deque[tuple[Task, int]] = deque((task, 0) for task in islice(self.coming, peek))
        self.again: deque[tuple[Task, int]] = deque()

    def take(self) -> tuple[Task, int] | None:
        """The next one; None where there is none left."""
        if self.first:
            return self.first.popleft()
        for task in self.coming:
            return task, 0
        return self.again.popleft() if self.again else None


class _Worker(Generic[Task]):
    """A process, the pipe to it, and the tasks it was given, the one it works on first."""

    def __init__(self, work: Callable[[Task], Any]) -> None:
        context: Any = get_context(START_METHOD)
        if START_METHOD == "forkserver":
            context.set_forkserver_preload(["avtool.data.prepare"])
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        with _interrupts_held():
            self.process.start()
        theirs.close()
        self.tasks: deque[tuple[Task, int]] = deque()
        self.ready = False

    def crash(self) -> Crash:
        self.process.join()
        code = self.process.exitcode or 0
        if code in AT_TIME_LIMIT:
            return Crash("stopped at its time limit", at_time_limit=True)
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return Crash(how)


class _Team(Generic[Task]):
    """The workers."""

    def __init__(self, work: Callable[[Task], Any], size: int) -> None:
        self.work, self.failed_starts = work, 0
        self.workers: list[_Worker[Task]] = [_Worker(work) for _ in range(size)]

    def hand_out(self, line: Line[Task]) -> bool:
        """Give tasks to the workers, the idle ones first; whether any has something to do."""
        for held in range(AHEAD):
            for worker in self.workers:
                if len(worker.tasks) == held and (entry := line.take()):
                    worker.tasks.append(entry)
                    with suppress(ConnectionError):  # it has died; its pipe says so next
                        worker.pipe.send(entry[0])
        return any(worker.tasks for worker in self.workers)

    def with_news(self) -> list[_Worker[Task]]:
        """Wait for workers that have something to say, or are dead."""
        pipes: dict[Any, _Worker[Task]] = {worker.pipe: worker for worker in self.workers}
        return [pipes[pipe] for pipe in connection.wait(list(pipes))]

    def bury(self, worker: _Worker[Task], line: Line[Task]) -> Iterator[tuple[Task, Crash]]:
        """Put another in the place of a dead worker. What it was at goes last in line, what it had not begun first."""
        self.workers.remove(worker)
        worker.pipe.close()
        crash = worker.crash()
        if not worker.ready:
            self.failed_starts += 1
            if self.failed_starts >= START_ATTEMPTS:
                raise AvtoolError(
                    f"worker processes do not start: {crash.how}",
                    hint='a script that calls avtool needs: if __name__ == "__main__":',
                )
        elif worker.tasks:
            task, died = worker.tasks.popleft()
            if died + 1 >= ATTEMPTS:
                yield task, crash
            else:
                line.again.append((task, died + 1))
        line.first.extendleft(reversed(worker.tasks))
        self.workers.append(_Worker(self.work))

    def dismiss(self) -> None:
        """End all workers at once: nothing they hold is lost but their own time."""
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.join()
            worker.pipe.close()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C is the parent's to handle: it waits for the block's end, and processes started in it never see it."""
    if not hasattr(signal, "pthread_sigmask"):  # not a Unix
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: connection.Connection, work: Callable[[Any], Any]) -> None:
    """A worker's life: it ends when its parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("SIGTERM", "SIGALRM"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    gc.freeze()  # what was imported stays, and is not looked through again and again
    threadpool_limits(1, "blas")  # NumPy's threads wait by spinning, on the cores of the other workers
    try:
        pipe.send(READY)
        while True:
            task = pipe.recv()
            try:
                answer: Any = (expendable(work, task),)
            except Exception as error:  # noqa: BLE001 - raised again by the parent
                answer = error
            pipe.send(answer)
    except (EOFError, ConnectionError):
        return
