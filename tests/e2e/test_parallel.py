"""What DistributedDataParallel makes of a step: messages that overlap the backward pass, and gradients of models with
BatchNorm, each of whose processes normalises by its own share on a CPU."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from avtool.data.prepare import prepare


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``two_processes.py`` finds."""
    data = tmp_path_factory.mktemp("data") / "synth"
    prepare("synth", out=data, clips=40, seed=0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}",
        str(Path(__file__).with_name("two_processes.py")), str(data),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "do not match bucket view" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_gradients_are_averaged_while_the_backward_pass_goes_on(facts: dict[str, Any]) -> None:
    messages = facts["messages"]
    assert 0 < messages["overlapping"] < messages["all"]  # the last bucket is ready with the last gradient


def test_held_out_clips_are_shared_and_measured_as_by_one_process(facts: dict[str, Any]) -> None:
    assert len(facts["measures"]) == 6
    assert {task: apart for task, apart in facts["measures"].items() if apart > 1e-4} == {}


@pytest.mark.parametrize("task", ["separate", "segment"])
def test_with_batch_norm_the_gradient_is_the_mean_of_those_of_the_shares(
    task: str, facts: dict[str, Any]
) -> None:
    assert facts[task] < 1e-5
