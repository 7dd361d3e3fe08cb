"""The work of a preparation on a Ray cluster: the only user of Ray (extra ``ray``).

Every machine of the cluster needs avtool, with the same versions of what it reads clips with, and must see the source's
files under the same path. The outcomes come back to the calling process, which alone writes.
"""

import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from avtool import media
from avtool.data.workers import ATTEMPTS, Crash, Line, expendable
from avtool.errors import AvtoolError
from avtool.libraries import need_extra

Task = TypeVar("Task")
Result = TypeVar("Result")

AHEAD = 2
"""Tasks handed to Ray at a time, for each of its CPUs."""
KNOCK_SECONDS = 10.0


def check() -> None:
    """Raise UsageError where Ray is not installed."""
    need_extra("ray", extra="ray", purpose="--engine ray")


def run_all(
    work: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    jobs: int | None,
    address: str | None,
    admit: Callable[[media.Tools, str], None],
) -> Iterator[tuple[Task, Result | Crash]]:
    """``work(task)`` for every task, as results come in, in no fixed order.

    On the cluster at ``address`` (None: one that is started on this machine, with ``jobs`` CPUs; else ``jobs``
    bounds how many tasks run at a time). A task whose process dies is begun again, ATTEMPTS times at the most.
    ``admit`` is told the versions of each machine's tools, and its name in words, before a result of it is used.
    """
    import ray

    started = _start(address, jobs)
    remote = ray.remote(num_cpus=1, max_retries=0)(work_on)
    room = AHEAD * int(ray.cluster_resources().get("CPU", 1)) if address is None or jobs is None else jobs
    shared, line = ray.put(work), Line(tasks)
    running: dict[Any, tuple[Task, int]] = {}
    admitted: dict[str, media.Tools] = {}
    try:
        while True:
            while len(running) < room and (entry := line.take()):
                running[remote.remote(shared, entry[0])] = entry
            if not running:
                return
            for done in ray.wait(list(running))[0]:
                task, died = running.pop(done)
                try:
                    yield task, _checked(ray.get(done), admitted, admit)
                except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
                    if died + 1 < ATTEMPTS:
                        line.again.append((task, died + 1))
                    else:
                        yield task, Crash(f"{type(error).__name__} (killed, or stopped at its time limit)")
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error
    finally:
        if started:
            ray.shutdown()


def work_on(work: Callable[[Any], Any], task: Any) -> tuple[str, media.Tools, Any]:
    """What runs on a machine of the cluster: its name, the versions of its tools, and the result or the exception."""
    try:
        result = expendable(work, task)
    except Exception as error:  # noqa: BLE001 - raised again by the calling process, once it knows the versions
        result = error
    return socket.gethostname(), media.tool_versions(), result


def _checked(
    answer: tuple[str, media.Tools, Any],
    admitted: dict[str, media.Tools],
    admit: Callable[[media.Tools, str], None],
) -> Any:
    """The result in a worker's answer, once its machine is admitted. Raises what the work raised."""
    host, tools, result = answer
    if admitted.get(host) != tools:
        admit(tools, f"Ray's worker on {host}")
        admitted[host] = tools
    if isinstance(result, Exception):
        raise result
    return result


def _start(address: str | None, jobs: int | None) -> bool:
    """Start or join Ray; whether that was needed."""
    import ray

    if ray.is_initialized():
        return False
    if address is not None:
        _knock(address)
    here = address is None
    try:
        ray.init(
            address=address or "local",
            num_cpus=jobs if here else None,
            include_dashboard=False if here else None,
            log_to_driver=False,
            configure_logging=False,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _unreachable(address or "this machine", error) from error
    return True


def _knock(address: str) -> None:
    """Raise AvtoolError where nobody listens at HOST:PORT: Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise _unreachable(address, error) from error


def _unreachable(where: str, error: Exception) -> AvtoolError:
    return AvtoolError(
        f"cannot join Ray at {where}: {' '.join(str(error).split())[:200]}",
        hint="start a cluster with: ray start --head; or leave out --address",
    )
