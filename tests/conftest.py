"""What tests of any kind share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from avtool.data.prepare import prepare

# Tests run beside each other, and OpenMP's threads would burn the cores that others need while they wait.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A shell ignores Ctrl-C for what it starts with `&`, and programs inherit that: those tested here shall hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def synth(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """``synth(CLIPS)``: the folder of so many prepared clips of synth, seed 0. All tests, in all of pytest-xdist's
    processes, read the same one, so that none may change it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def made(clips: int) -> Path:
        out = shared / f"synth-{clips}"
        with FileLock(f"{out}.lock"):
            if not out.exists():
                prepare("synth", out=out, clips=clips, seed=0)
        return out

    return made
