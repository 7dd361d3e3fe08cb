"""Processes of Python that start warm: each is a fork of one process that has imported torch and avtool.

Importing torch takes seconds, and most of what these tests start as a process is over in less. ``Process`` and ``run``
take what ``subprocess.Popen`` and ``subprocess.run`` take after ``sys.executable``: ``-m MODULE``, ``-c CODE`` or a
script, and its arguments. What a fork has that a new process has not: modules are imported already, so that tests of
what is imported, or of packages that do not load, start real ones."""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import IO, Any

ROOT = Path(__file__).parents[1]
IMPORTED = (
    "torch._dynamo",
    "torch.distributed.optim",
    "torchaudio",
    "cv2",
    "matplotlib.figure",
    "avtool.engine",
    "avtool.predict",
    "avtool.evaluate",
)


class Process:
    """A started process, with the parts of ``subprocess.Popen`` that tests use; text is read as text."""

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        start_new_session: bool = False,
        errors: str | None = None,
        installed: tuple[str, ...] = (),
    ) -> None:
        self.returncode: int | None = None
        self.stdout, out = _stream(stdout, 1, errors)
        self.stderr, err = _stream(stderr, 2, errors)
        self._status, status = os.pipe()
        asked = {
            "arguments": list(map(str, arguments)),
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "session": start_new_session,
        }
        try:
            socket.send_fds(_server(installed), [json.dumps(asked).encode()], [out, err, status])
        finally:
            for given, end in ((stdout, out), (stderr, err)):
                if given in (PIPE, DEVNULL):
                    os.close(end)
            os.close(status)
        self._told = os.fdopen(self._status)
        self.pid = int(self._told.readline())
        self._waiter = threading.Thread(target=self._wait, daemon=True)
        self._waiter.start()

    def _wait(self) -> None:
        with self._told:
            self._code = int(self._told.readline())

    def poll(self) -> int | None:
        if not self._waiter.is_alive():
            self.returncode = self._code
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._waiter.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired(["python"], timeout or 0)
        return self._code

    def communicate(self, timeout: float | None = None) -> tuple[str | None, str | None]:
        said: dict[int, str] = {}

        def read(number: int, stream: IO[str]) -> None:
            with stream:
                said[number] = stream.read()

        readers = [
            threading.Thread(target=read, args=(number, stream), daemon=True)
            for number, stream in enumerate((self.stdout, self.stderr))
            if stream is not None
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(timeout)
            if reader.is_alive():
                raise subprocess.TimeoutExpired(["python"], timeout or 0)
        self.wait(timeout)
        return said.get(0), said.get(1)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait()


def run(
    arguments: Sequence[str | Path],
    *,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    errors: str | None = None,
    installed: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """What a process printed and how it ended. ``installed``: folders of packages that it finds as well."""
    process = Process(
        arguments, cwd=cwd, env=env, stdout=PIPE, stderr=PIPE, errors=errors, installed=installed
    )
    try:
        out, err = process.communicate(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(list(map(str, arguments)), process.wait(), out, err)


def run_ranks(
    count: int, arguments: Sequence[str | Path], *, env: Mapping[str, str], timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """``count`` processes with the variables that torchrun sets; what they printed together, and the first exit code
    that is not 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    told |= {"LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0"}
    ranks = [
        Process(
            arguments, env={**env, **told, "RANK": str(k), "LOCAL_RANK": str(k)}, stdout=PIPE, stderr=PIPE
        )
        for k in range(count)
    ]
    said = [rank.communicate(timeout) for rank in ranks]
    code = next((rank.returncode for rank in ranks if rank.returncode), 0)
    out, err = ("".join(part or "" for part in parts) for parts in zip(*said, strict=True))
    return subprocess.CompletedProcess(list(map(str, arguments)), code, out, err)


def _stream(given: int | IO[Any] | None, inherited: int, errors: str | None) -> tuple[IO[str] | None, int]:
    """What the caller reads from, and what the process writes to."""
    if given == PIPE:
        reader, writer = os.pipe()
        return os.fdopen(reader, encoding="utf-8", errors=errors), writer
    if given == DEVNULL:
        return None, os.open(os.devnull, os.O_WRONLY)
    return None, inherited if given is None else given if isinstance(given, int) else given.fileno()


@functools.cache
def _server(installed: tuple[str, ...]) -> socket.socket:
    """The process that forks, one for all tests that have the same ``installed``; it ends when this process does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        path = [str(ROOT), *installed]
        code = (
            f"import sys; sys.path[:1] = {path}; from tests.processes import serve; serve({theirs.fileno()})"
        )
        subprocess.Popen([sys.executable, "-c", code], pass_fds=[theirs.fileno()], stdin=DEVNULL)
    return ours


def serve(number: int) -> None:
    """Fork for every request that comes over the socket ``number``, until it is closed."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # so that collecting in a fork copies none of it
    with socket.socket(fileno=number) as channel:
        while True:
            asked, descriptors, _, _ = socket.recv_fds(channel, 1 << 20, 3)
            if not asked:
                return
            if os.fork() == 0:
                break
            for descriptor in descriptors:
                os.close(descriptor)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
    out, err, status = descriptors
    if child := os.fork():  # this one only tells how it ends
        os.close(out)
        os.close(err)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        os.write(status, f"{child}\n".encode())
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(status, f"{code}\n".encode())
        os._exit(0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    for descriptor in descriptors:
        os.close(descriptor)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    _end(_code(**json.loads(asked)))


def _code(arguments: list[str], cwd: str, env: dict[str, str], session: bool) -> int:
    """Run as ``python ARGUMENTS`` would; the exit code."""
    import torch

    if session:
        os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    torch.set_num_threads(int(env.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    first, *rest = arguments
    path = [entry for entry in env.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = [cwd if first in ("-m", "-c") else str(Path(first).parent), *path, *sys.path]
    try:
        if first == "-m":
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif first == "-c":
            sys.argv = ["-c", *rest[1:]]
            sys.modules["__main__"] = main = types.ModuleType("__main__")
            exec(compile(rest[0], "<string>", "exec"), main.__dict__)
        else:
            sys.argv = arguments
            runpy.run_path(first, run_name="__main__")
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - it is shown as Python does
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def _end(code: int) -> None:
    """End as Python does, but for taking down all that is imported, which takes a second."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
