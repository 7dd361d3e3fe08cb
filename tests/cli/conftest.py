"""Run the command line as a user does: as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests import processes

Avtool = Callable[..., subprocess.CompletedProcess[str]]


FAILS = {
    "torchaudio": "OSError('libcudart.so.13: cannot open shared object file: No such file or directory')",
    "torchvision": "RuntimeError('operator torchvision::nms does not exist')",
}
"""What the wheels of torchaudio 2.11.0 and torchvision 0.28.0 raise beside the CPU build of torch 2.13.0."""


def broken_packages(folder: Path, names: Sequence[str]) -> str:
    """A folder for PYTHONPATH in which ``names`` fail as they do beside a CPU build of torch."""
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "__init__.py").write_text(f"raise {FAILS[name]}\n")
    return str(folder)


@pytest.fixture
def avtool(tmp_path: Path) -> Avtool:
    """Run ``avtool ARGS`` in an empty folder; returns exit code, stdout and stderr, decoded with ``errors``. The
    packages ``without`` do not load, as they fail beside a CPU build of torch."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AVTOOL_")}
    environment |= {"COLUMNS": "80", "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def run(
        *args: str, errors: str | None = None, without: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        command = ["-m", "avtool", *args]
        if not without:
            return processes.run(command, cwd=tmp_path, env=environment, timeout=120, errors=errors)
        path = os.pathsep.join(
            [broken_packages(tmp_path / "broken", without), environment.get("PYTHONPATH", "")]
        )
        return subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run
