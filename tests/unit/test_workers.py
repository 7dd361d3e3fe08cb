"""Worker processes: every task gets one answer, whatever happens to the process that works on it."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from avtool.data import workers
from avtool.errors import AvtoolError


def square(folder: Path, deadly: dict[int, int], number: int) -> int:
    """number squared, noted in ``folder``; the process dies of a number as often as ``deadly`` says."""
    path = folder / str(number)
    with path.open("a") as file:
        file.write("x")
    if path.stat().st_size <= deadly.get(number, 0):
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def times(folder: Path, number: int) -> int:
    return (folder / str(number)).stat().st_size


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_task_is_done_once(tmp_path, jobs):
    done = list(workers.run_all(partial(square, tmp_path, {}), range(20), jobs=jobs))
    assert sorted(done) == [(number, number**2) for number in range(20)]
    assert {times(tmp_path, number) for number in range(20)} == {1}
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_killed_worker_loses_only_the_task_it_was_at(tmp_path, jobs):
    done = list(workers.run_all(partial(square, tmp_path, {4: 1, 9: 1}), range(20), jobs=jobs))
    assert sorted(done) == [(number, number**2) for number in range(20)]
    assert [number for number in range(20) if times(tmp_path, number) != 1] == [4, 9]
    assert times(tmp_path, 4) == times(tmp_path, 9) == 2


def test_a_task_that_kills_every_worker_is_given_up_by_name(tmp_path):
    done = dict(workers.run_all(partial(square, tmp_path, {4: 99}), range(10), jobs=2))
    assert done.pop(4) == workers.Crash("killed by SIGKILL") and times(tmp_path, 4) == workers.ATTEMPTS
    assert done == {number: number**2 for number in range(10) if number != 4}


def test_tasks_are_taken_as_they_can_be_handed_out(tmp_path):
    taken = iter(range(1000))
    results = workers.run_all(partial(square, tmp_path, {2: 1}), taken, jobs=2)
    assert [next(results)[0] < 20 for _ in range(3)] == [True] * 3
    assert next(taken) < 20
    results.close()


def hang(seconds: float, number: int) -> int:
    """number squared, unless it is 4, of which there is no end within the limit of ``seconds``."""
    with workers.time_limit(seconds):
        while number == 4:
            time.sleep(0.01)
    return number**2


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_task_that_hangs_is_ended_and_given_up_by_name(jobs):
    done = dict(workers.run_all(partial(hang, 0.2), range(10), jobs=jobs))
    assert done.pop(4) == workers.Crash("stopped at its time limit", at_time_limit=True)
    assert done == {number: number**2 for number in range(10) if number != 4}


def hang_without_an_alarm(seconds: float, number: int) -> int:
    """The same on a system that has no alarm to set."""
    for name in ("setitimer", "SIGALRM"):
        if hasattr(signal, name):
            delattr(signal, name)
    return hang(seconds, number)


def test_a_system_without_alarm_and_forkserver_gives_the_same(monkeypatch):
    left = {name: getattr(signal, name) for name in dir(signal) if name not in ("pthread_sigmask", "SIGALRM")}
    monkeypatch.setattr(workers, "signal", SimpleNamespace(**left))
    monkeypatch.setattr(workers, "START_METHOD", "spawn")
    done = dict(workers.run_all(partial(hang_without_an_alarm, 0.2), range(6), jobs=1))
    assert done.pop(4) == workers.Crash("stopped at its time limit", at_time_limit=True)
    assert done == {number: number**2 for number in range(6) if number != 4}


def test_a_limit_holds_for_its_block_alone_and_only_in_a_worker():
    assert dict(workers.run_all(outlive, [1], jobs=1)) == {1: 1}
    assert outlive(2) == 2
    with workers.time_limit(0.05):
        time.sleep(0.15)


def outlive(number: int) -> int:
    with workers.time_limit(0.05):
        pass
    time.sleep(0.15)
    return number


def full_disk(number: int) -> int:
    raise OSError(errno.ENOSPC, "No space left on device", "x")


def test_what_the_work_raises_is_raised_and_no_process_is_left():
    with pytest.raises(OSError, match="No space left") as caught:
        list(workers.run_all(full_disk, range(10), jobs=2))
    assert caught.value.errno == errno.ENOSPC
    assert multiprocessing.active_children() == []


def test_no_process_is_left_where_the_caller_stops(tmp_path):
    results = workers.run_all(partial(square, tmp_path, {}), range(100), jobs=2)
    next(results)
    results.close()
    assert multiprocessing.active_children() == []


def test_workers_that_do_not_start_end_in_an_error(monkeypatch):
    monkeypatch.setattr(workers, "_serve", not_serving)
    with pytest.raises(AvtoolError, match="do not start: ended with exit code 3"):
        list(workers.run_all(abs, range(3), jobs=1))


def not_serving(pipe: object, work: object) -> None:
    os._exit(3)


def blas_threads(_: int) -> set[int]:
    np.ones((200, 200)) @ np.ones((200, 200))
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.mark.skipif(not blas_threads(0), reason="this NumPy's products have no threads to be held")
def test_numpy_has_one_thread_in_a_worker():
    """Its threads wait by spinning, on the cores of the other workers."""
    assert [threads for _, threads in workers.run_all(blas_threads, range(2), jobs=2)] == [{1}, {1}]
