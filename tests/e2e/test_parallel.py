"""What DistributedDataParallel makes of a step: messages that overlap the backward pass, and gradients of models with
BatchNorm, each of whose processes normalises by its own share on a CPU."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import run_ranks


@pytest.fixture(scope="module")
def facts(synth: Callable[[int], Path]) -> dict[str, Any]:
    """What ``two_processes.py`` finds."""
    program = Path(__file__).with_name("two_processes.py")
    done = run_ranks(2, [program, synth(40)], env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
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
