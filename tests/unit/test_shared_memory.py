"""/dev/shm that is too small for batches: one sentence, from whichever process meets it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from avtool.cli import doctor
from avtool.data import loader
from avtool.data.loader import SLOTS, Sender
from avtool.errors import DataError, explain
from avtool.places import SHARED_MEMORY, shared_memory

LOADER = """
import sys
import numpy as np
from avtool.commands import command
from avtool.data import loader

batch, workers, race = map(int, sys.argv[1:])
if race:  # every worker finds room, and torch does not
    loader.check_shared_memory = lambda *args: None

class Views:
    def sample(self, epoch, index):
        return {"image": np.full((3, 224, 224), index % 256, np.uint8), "index": index}

def take():
    batches = loader.batches_in_training(Views(), np.arange(640), batch_size=batch, workers=workers, seed=0)
    for _ in range(3):
        found = next(batches)
        assert (found["image"][:, 0, 0, 0] == found["index"] % 256).all()
    print("three batches")

try:
    command()(take)()
except Exception as left:
    sys.exit(left.exit_code)
"""


def small(*arguments: int, size: str = "64m", before: str = "true") -> subprocess.CompletedProcess[str]:
    """A loader in a mount namespace of its own, where /dev/shm holds ``size``; last on stdout, the names left in it."""
    inside = f"mount -t tmpfs -o size={size} tmpfs /dev/shm && {before} && shift 1"
    script = f'{inside}; "$@"; code=$?; ls -x /dev/shm; exit $code'
    command = ["unshare", "-m", "bash", "-c", script, "bash", "-", sys.executable, "-c", LOADER]
    environment = {**os.environ, "PYTHONPATH": str(Path(loader.__file__).parents[2])}
    words = [*command, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, env=environment, timeout=120, check=False)


def may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    tried = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/dev/shm"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def own_mounts() -> None:
    if not may_mount():
        pytest.skip("this user may not mount a small /dev/shm of its own (unshare -m mount -t tmpfs)")


@pytest.mark.usefixtures("own_mounts")
@pytest.mark.parametrize("race", [0, 1])
def test_batches_larger_than_shared_memory_end_in_one_sentence(race: int) -> None:
    done = small(256, 4, race)
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: /dev/shm is full (64 MiB in all, ")
    assert error.endswith(" MiB free): 4 workers with batches of 256 may need 882 MiB")
    assert hint.startswith(
        "hint: start the container with more (docker run --shm-size=2g), or take fewer workers"
    )
    assert done.returncode == 1


@pytest.mark.usefixtures("own_mounts")
@pytest.mark.parametrize("size", ["64m", "0"])  # 0 is no limit, and no free bytes are told either
def test_small_batches_come_through(size: str) -> None:
    done = small(4, 2, 0, size=size)
    assert (done.returncode, done.stdout, done.stderr) == (0, "three batches\n", "")


@pytest.mark.usefixtures("own_mounts")
def test_shared_memory_that_others_have_filled_is_named_before_a_loader_begins() -> None:
    done = small(4, 2, 0, before="(head -c 64M /dev/zero > /dev/shm/other)")
    assert done.stderr.splitlines()[0] == "error: /dev/shm is full (64 MiB in all, 0 MiB free)"
    assert (done.returncode, done.stdout) == (1, "other\n")


@pytest.fixture
def sender(monkeypatch: pytest.MonkeyPatch) -> Sender:
    """One that is in worker 3 of 4."""
    monkeypatch.setattr(loader, "get_worker_info", lambda: SimpleNamespace(id=3, num_workers=4))
    return Sender()


def views(count: int, size: int = 2**20) -> list[dict]:
    return [{"image": np.zeros(size, np.uint8)} for _ in range(count)]


def test_a_worker_says_what_is_free_and_what_is_needed(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "shared_memory", lambda: (64 * 2**20, 3 * 2**20))
    with pytest.raises(DataError) as caught:
        sender.send(views(8))
    assert caught.value.message == (
        "/dev/shm is full (64 MiB in all, 3 MiB free): 4 workers with batches of 8 may need "
        f"{4 * SLOTS * 8} MiB"
    )
    with pytest.raises(DataError) as caught:
        sender.send(views(200))
    assert f"--shm-size={-(-4 * SLOTS * 200 // 1024)}g" in caught.value.hint
    monkeypatch.setattr(loader, "shared_memory", lambda: None)
    receiver = loader.Receiver(sender)
    assert sender.send(views(8)).unpacked()["image"].shape == (8, 2**20) and receiver.slots


def test_another_fault_of_torch_stays_what_it_is(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("unable to open shared memory object: Too many open files (24)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    with pytest.raises(RuntimeError, match="Too many open files"):
        sender.send(views(1))


def test_a_worker_that_ran_out_of_it_while_writing_is_told_the_same_way_out() -> None:
    found = explain(RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible"))
    assert found is not None and "docker run --shm-size=2g" in found.hint
    killed = explain(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "))
    assert killed is not None and "docker" not in killed.hint


def test_doctor_looks_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"shared memory ({SHARED_MEMORY})"
    monkeypatch.setattr("avtool.places.shared_memory", lambda: (64 * 2**20, 2**20))
    found = doctor.examine()
    assert found["places"][name] == "64 MiB, 1 MiB free"
    (said,) = [line for line in found["warnings"] if line.startswith("/dev/shm holds 64 MiB")]
    assert "docker run --shm-size=2g" in said
    monkeypatch.setattr("avtool.places.shared_memory", lambda: (2**30, 2**20))
    assert doctor.shared_memory_found(warnings := []) == {name: "1,024 MiB, 1 MiB free"}
    monkeypatch.setattr("avtool.places.shared_memory", lambda: None)
    assert doctor.shared_memory_found(warnings) == {} and warnings == []


def test_a_place_without_a_limit_or_that_is_not_there_is_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avtool.places.SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=7, free=5))
    assert shared_memory() == (7, 5)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=0, free=0))
    assert shared_memory() is None
    monkeypatch.setattr("avtool.places.SHARED_MEMORY", tmp_path / "nothing")
    assert shared_memory() is None
