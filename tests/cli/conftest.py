"""Run the command line as a user does: as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Avtool = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def avtool(tmp_path: Path) -> Avtool:
    """Run ``avtool ARGS`` in an empty folder; returns exit code, stdout and stderr, decoded with
    ``errors``."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AVTOOL_")}
    environment |= {"COLUMNS": "80", "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def run(*args: str, errors: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "avtool", *args]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            errors=errors,
            timeout=120,
            check=False,
        )

    return run
