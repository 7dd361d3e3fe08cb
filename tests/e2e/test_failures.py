"""What ends a run from outside: a full disk, a dead loader's worker, a shard cut short, a loss that is not finite."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from avtool.checkpoint import load_trainer
from avtool.places import CHECKPOINTS, checkpoints_of
from avtool.tracking import METRICS, read_metrics
from tests.processes import DEVNULL, PIPE, Process

SMALL = (
    "train.batch_size=4", "train.accumulate=1", "train.log_every=1", "train.precision=float32", "train.save_every=2",
    "model.image_size=[32,32]", "model.audio_size=[32,64]", "model.dim=24", "model.depth=2",
    "model.decoder={dim: 16, depth: 1, heads: 2}", "train.eval_clips=2",
)  # fmt: skip
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
DIES = """
import os
import torch
from avtool.cli import main
from avtool.tasks.pretrain.train import Pretraining
forward = Pretraining.forward

def poisoned(self, batch):
    losses = forward(self, batch)
    if os.environ.get("RANK", "1") == "1" and batch["epoch"][0] == 1:
        losses["loss"] = losses["loss"] * float("nan")
    return losses

Pretraining.forward = poisoned
main()
"""
PROCESSES = [1, pytest.param(2, marks=pytest.mark.proof)]


@pytest.fixture(scope="module")
def data(synth: Callable[[int], Path]) -> Path:
    return synth(20)


def command(
    processes: int, data: Path, out: Path, *options: str, program: tuple[str, ...] = ("-m", "avtool")
) -> list[str]:
    launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}")
    return [
        *(launcher if processes > 1 else ()), *program, "pretrain", "--recipe", "tiny", *SMALL,
        *options, "--data", str(data), "--out", str(out), "--device", "cpu", "--threads", "1",
    ]  # fmt: skip


def start(arguments: list[str]) -> Process:
    return Process(arguments, env=ENVIRONMENT, stdout=DEVNULL, stderr=PIPE)


def error_of(process: Process | subprocess.Popen[str]) -> str:
    """What a run that fails says. All its processes have ended then: stderr is closed."""
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1, said
    return said


def until_saved(process: Process, out: Path) -> None:
    while len(checkpoints_of(out)) < 2:
        assert process.poll() is None, process.stderr
        time.sleep(0.01)


def check_whole(out: Path) -> int:
    """The step of the newest checkpoint; nothing half-written lies about, and the log is whole."""
    newest = checkpoints_of(out)[-1]
    assert {path.name for path in (out / CHECKPOINTS).iterdir()} == {
        path.name for path in checkpoints_of(out)
    }
    assert not list(out.glob(".*"))
    assert len((out / METRICS).read_text().splitlines()) == len(read_metrics(out))
    return load_trainer(newest)["step"]


def children(process: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.parametrize("processes", PROCESSES)
def test_a_loader_worker_that_is_killed_ends_the_run(processes: int, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(command(processes, data, out, "data.workers=2", "max_steps=100000"))
    until_saved(process, out)
    rank = process.pid if processes == 1 else children(process.pid)[-1]
    worker = children(rank)[0]
    os.kill(worker, signal.SIGKILL)
    said = error_of(process)
    # "is killed by signal", or, where the signal was handled before the loader was waited for, "exited unexpectedly"
    assert re.search(
        rf"error: a process that loads data has died: DataLoader worker \(pid(\(s\))? {worker}\) ", said
    )
    assert "goes on with --resume" in said and "defect" not in said
    assert processes > 1 or "Traceback" not in said  # torchrun shows one of its own
    step = check_whole(out)
    resumed = command(
        1, data, out, "data.workers=2", "max_steps=100000", "--resume", "--stop-after", str(step + 2)
    )
    assert start(resumed).wait(timeout=60) == 0
    assert check_whole(out) == step + 2


@pytest.mark.parametrize("processes", PROCESSES)
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.proof)])
def test_a_shard_cut_short_while_it_is_read_is_named_with_its_clip(
    processes: int, workers: int, data: Path, tmp_path: Path
) -> None:
    copy, out = shutil.copytree(data, tmp_path / "copy"), tmp_path / "run"
    options = (f"data.workers={workers}", "max_steps=100000")
    process = start(command(processes, copy, out, *options))
    until_saved(process, out)
    (shard,) = (copy / "shards").glob("train-*.tar")
    os.truncate(shard, 1000)
    said = error_of(process)
    assert f"error: {shard} does not have the" in said and "; clip synth" in said
    assert "hint: put it back as it was, or make the data anew" in said and "defect" not in said
    step = check_whole(out)
    resumed = command(1, copy, out, *options, "--resume", "--stop-after", str(step + 2))
    assert f"{shard} does not have the" in error_of(start(resumed))
    shutil.copy(data / "shards" / shard.name, shard)
    assert start(resumed).wait(timeout=60) == 0
    assert check_whole(out) == step + 2


@pytest.mark.proof
def test_a_shard_that_is_removed_is_read_on_while_it_is_open(data: Path, tmp_path: Path) -> None:
    copy, out = shutil.copytree(data, tmp_path / "copy"), tmp_path / "run"
    options = ("data.workers=0", "train.eval_clips=0")
    process = start(command(1, copy, out, *options, "max_steps=60"))
    until_saved(process, out)
    (shard,) = (copy / "shards").glob("train-*.tar")
    shard.unlink()
    assert process.wait(timeout=60) == 0
    assert check_whole(out) == 60
    again = error_of(start(command(1, copy, tmp_path / "again", *options, "max_steps=2")))
    assert f"{shard} is missing; clip synth" in again


@pytest.mark.parametrize("processes", PROCESSES)
def test_a_loss_that_is_not_finite_in_one_process_stops_all_before_the_step(
    processes: int, data: Path, tmp_path: Path
) -> None:
    driver, out = tmp_path / "driver.py", tmp_path / "run"
    driver.write_text(DIES)
    typed = command(processes, data, out, "data.workers=0", "max_steps=20", program=(str(driver),))
    said = error_of(start(typed))
    assert "error: step 5: loss is not finite; the batch's clips: " in said
    names = said.partition("the batch's clips: ")[2].partition("\n")[0].split(", ")
    assert len(set(names)) == 4
    assert "earlier checkpoints are good" in said
    assert check_whole(out) == 4


def _no_mount() -> str:
    """Why no small disk can be mounted here; empty where it can."""
    if shutil.which("unshare") is None:
        return "there is no unshare"
    tried = subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/tmp"],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if tried.returncode == 0 else f"no tmpfs can be mounted: {tried.stderr.strip()}"


ON_A_SMALL_DISK = """
mount -t tmpfs -o size="$1" none "$2" || exit 77
shift 2; kept=$1; shift
"$@"; status=$?
cp -a . "$kept"
exit $status
"""


@pytest.mark.parametrize("processes", PROCESSES)
@pytest.mark.parametrize(
    ("size", "says"),
    [
        ("2000k", "is not written: No space left on device"),
        pytest.param("300k", "a checkpoint takes", marks=pytest.mark.proof),
    ],
)
def test_a_full_disk_is_named_and_leaves_what_was_whole(
    processes: int, size: str, says: str, data: Path, tmp_path: Path
) -> None:
    if why := _no_mount():
        pytest.skip(why)
    small, kept = tmp_path / "small", tmp_path / "kept"
    small.mkdir()
    options = ("data.workers=0", "max_steps=20", "train.keep=9")
    typed = command(processes, data, small / "run", *options)
    process = subprocess.Popen(
        ["unshare", "-rm", "sh", "-c", f"{ON_A_SMALL_DISK.replace('cp -a .', f'cp -a {small}/.')}", "sh", size,
         str(small), str(kept), sys.executable, *typed],
        env=ENVIRONMENT, stdout=DEVNULL, stderr=PIPE, text=True,
    )  # fmt: skip
    said = error_of(process)
    assert says in said and "free some space" in said and "defect" not in said
    assert re.search(r"\d (bytes|[kMG]B) are free", said)
    out = kept / "run"
    if "a checkpoint takes" in said:  # before anything is written, and by one process
        assert said.count("error: ") == 1
        assert not out.exists()
        return
    step = check_whole(out)
    assert 0 < step < 20
    assert start(command(1, data, out, *options, "--resume")).wait(timeout=60) == 0
    assert check_whole(out) == 20
