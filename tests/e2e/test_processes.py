"""Several processes are one: the same losses, a run that changes their number, a rank that is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from avtool.places import checkpoints_of
from avtool.tracking import read_metrics
from tests.processes import run, run_ranks

SMALL = (
    "train.batch_size=4", "train.accumulate=2", "train.log_every=1", "train.precision=float32",
    "model.image_size=[32,32]", "model.audio_size=[32,64]", "model.dim=24", "model.depth=2",
    "model.decoder={dim: 16, depth: 1, heads: 2}", "data.workers=0",
)  # fmt: skip
FINETUNED = (
    "train.batch_size=4",
    "train.accumulate=2",
    "train.log_every=1",
    "train.precision=float32",
    "data.workers=0",
)
JOINT = ("localize.clusters=null", "localize.encoding=joint")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def data(synth: Callable[[int], Path]) -> Path:
    return synth(20)


@pytest.fixture(scope="module")
def pretrained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretrained") / "run"
    assert (
        avtool(1, "pretrain", "--recipe", "tiny", *SMALL, "max_steps=2", data=data, out=out).returncode == 0
    )
    return out


@pytest.fixture(scope="module")
def wider(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose encoder every task takes."""
    out = tmp_path_factory.mktemp("wider") / "run"
    width = ("model.dim=128", "model.heads=4", "max_steps=2")
    assert avtool(1, "pretrain", "--recipe", "tiny", *SMALL, *width, data=data, out=out).returncode == 0
    return out


def avtool(processes: int, *arguments: str, data: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = ["-m", "avtool", *arguments, "--data", data, "--out", out, "--threads", "1"]
    if processes == 1:
        return run(command, env=ENVIRONMENT, timeout=300)
    return run_ranks(processes, command, env=ENVIRONMENT, timeout=300)


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(run) if "loss" in row]


TASKS = {
    "pretrain": ("pretrain", "--recipe", "tiny", *SMALL),
    "classify": ("finetune", "classify", "--recipe", "tiny-classify", *FINETUNED, "classify.cutmix=1"),
    "unimodal": (
        "finetune",
        "localize",
        "--recipe",
        "tiny-localize",
        *FINETUNED,
        "localize.clusters.count=4",
    ),
    "joint": ("finetune", "localize", "--recipe", "tiny-localize", *FINETUNED, *JOINT),
}
"""Whose models have no BatchNorm: probes, separation and segmentation have, of statistics of a share."""


def compare_two_and_one(task: str, steps: int, data: Path, folder: Path, *options: str) -> None:
    for processes in (1, 2):
        done = avtool(
            processes, *TASKS[task], f"max_steps={steps}", *options, data=data, out=folder / str(processes)
        )
        assert done.returncode == 0, done.stderr
    one, two = losses(folder / "1"), losses(folder / "2")
    assert len(one) == len(two) == steps
    assert two == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize("task", ["pretrain", "unimodal"])
def test_two_processes_with_half_the_batch_each_are_one(
    task: str, data: Path, pretrained: Path, tmp_path: Path
) -> None:
    start = () if task == "pretrain" else ("--from", str(pretrained))
    compare_two_and_one(task, 20 if task == "pretrain" else 6, data, tmp_path, *start)


@pytest.mark.proof
@pytest.mark.parametrize("task", [task for task in TASKS if task != "pretrain"])
def test_two_processes_fine_tune_as_one_for_twenty_steps(
    task: str, data: Path, wider: Path, tmp_path: Path
) -> None:
    compare_two_and_one(task, 20, data, tmp_path, "--from", str(wider))


def test_a_run_of_two_goes_on_with_one_and_only_one_talks(data: Path, tmp_path: Path) -> None:
    command = ("pretrain", "--recipe", "tiny", *SMALL, "max_steps=6")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert avtool(1, *command, data=data, out=whole).returncode == 0
    first = avtool(2, *command, "--stop-after", "3", data=data, out=parts)
    assert first.returncode == 0, first.stderr
    assert first.stderr.count("pretraining on") == 1
    assert first.stdout.split() == [str(parts)]
    second = avtool(1, *command, "--resume", data=data, out=parts)
    assert "begun by 2 processes, goes on with 1" in second.stderr
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)


def test_processes_that_cannot_share_a_batch_say_so(data: Path, tmp_path: Path) -> None:
    done = avtool(
        2, "pretrain", "--recipe", "tiny", *SMALL, "train.batch_size=3", data=data, out=tmp_path / "run"
    )
    assert done.returncode != 0
    assert done.stderr.count("2 processes cannot share a batch of 3 clips evenly") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.proof
@pytest.mark.parametrize(
    "rendezvous", ["--rdzv-backend=c10d --rdzv-endpoint=localhost:{}", "--master-port={}"]
)
def test_a_killed_rank_is_started_again_and_the_job_finishes(
    rendezvous: str, data: Path, tmp_path: Path
) -> None:
    """Under torchrun with restarts: --resume finds the newest checkpoint, or starts afresh."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out = tmp_path / "run"
    typed = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", *rendezvous.format(port).split(),
        "--max-restarts=3", "-m", "avtool", "pretrain", "--recipe", "tiny", *SMALL, "max_steps=200",
        "train.save_every=5", "--data", str(data), "--out", str(out), "--threads", "1", "--resume",
    ]  # fmt: skip
    with subprocess.Popen(typed, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as job:
        while not checkpoints_of(out):
            assert job.poll() is None
        os.kill(_ranks(job.pid)[1], signal.SIGKILL)
        assert job.wait(timeout=300) == 0
    assert checkpoints_of(out)[-1].name == "step-00000200"
    whole = tmp_path / "whole"
    command = ("pretrain", "--recipe", "tiny", *SMALL, "max_steps=200", "train.save_every=5")
    assert avtool(2, *command, data=data, out=whole).returncode == 0
    assert losses(out) == losses(whole)


def _ranks(parent: int) -> list[int]:
    """The processes that a launcher started."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(child) for child in children]
