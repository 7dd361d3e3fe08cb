"""A run that is killed at random moments, some of them inside a save, ends with the weights of an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from avtool.places import checkpoints_of, step_of
from avtool.weight_files import read_safetensors
from tests.processes import DEVNULL, Process

SMALL = (
    "train.batch_size=4", "train.accumulate=1", "train.log_every=1", "train.precision=float32", "train.save_every=2",
    "model.image_size=[32,32]", "model.audio_size=[32,64]", "model.dim=24", "model.depth=2",
    "model.decoder={dim: 16, depth: 1, heads: 2}", "data.workers=0", "train.eval_clips=2",
)  # fmt: skip

DRIVER = """
import sys, time
from pathlib import Path
from avtool import checkpoint
from avtool.cli import main

write, seconds, mark = checkpoint.save_file, float(sys.argv.pop(1)), Path(sys.argv.pop(1))

def slowly(weights, path, metadata):
    write(weights, path, metadata)
    mark.touch()
    time.sleep(seconds)
    mark.unlink()

checkpoint.save_file = slowly
main()
"""


@pytest.fixture(scope="module")
def data(synth: Callable[[int], Path]) -> Path:
    return synth(20)


class Runner:
    """Starts the same run again and again."""

    def __init__(self, folder: Path, data: Path, steps: int) -> None:
        self.out, self.mark, self.driver = folder / "run", folder / "saving", folder / "driver.py"
        self.driver.write_text(DRIVER)
        self.arguments = [
            "pretrain", "--recipe", "tiny", *SMALL, f"max_steps={steps}", "--data", str(data), "--out", str(self.out),
            "--resume", "--device", "cpu", "--threads", "1",
        ]  # fmt: skip

    def start(self, slow: float) -> Process:
        self.mark.unlink(missing_ok=True)
        command = [self.driver, str(slow), self.mark, *self.arguments]
        return Process(command, stderr=DEVNULL, stdout=DEVNULL)

    def saved(self) -> int:
        """The step of the newest checkpoint."""
        return max((step_of(path) for path in self.out.glob("checkpoints/step-*")), default=0)

    def kill(self, generator: random.Random, *, inside_a_save: bool, at_most: int) -> str:
        """Start it, kill it at a random moment or in a save, and say what that hit.

        The moment is drawn in steps, of which there are ``at_most``, so that no machine is too slow to get anywhere or
        so fast that the run ends by itself; where none is drawn, somewhere in the beginning."""
        before = self.saved()
        with self.start(0.5 if inside_a_save else 0.0) as process:
            if inside_a_save:
                while not self.mark.exists() and process.poll() is None:
                    time.sleep(0.002)
            else:
                steps = generator.randint(0, at_most)
                while self.saved() < before + steps and process.poll() is None:
                    time.sleep(0.002)
                time.sleep(generator.uniform(0, 0.1) if steps else generator.uniform(0.5, 3))
            saving = self.mark.exists()
            assert process.poll() is None, f"it ended by itself, with exit code {process.returncode}"
            os.kill(process.pid, signal.SIGKILL)
        return f"{'inside a save' if saving else 'outside saves'}: from step {before} to step {self.saved()}"


def kill_and_compare(folder: Path, data: Path, *, kills: int, in_saves: int, steps: int) -> list[str]:
    generator = random.Random(0)
    runner = Runner(folder, data, steps)
    which = [True] * in_saves + [False] * (kills - in_saves)
    generator.shuffle(which)
    hits = [runner.kill(generator, inside_a_save=inside, at_most=steps // (2 * kills)) for inside in which]
    with runner.start(0) as process:
        assert process.wait(timeout=300) == 0
    (folder / "whole").mkdir()
    undisturbed = Runner(folder / "whole", data, steps)
    with undisturbed.start(0) as process:
        assert process.wait(timeout=300) == 0
    ours, theirs = (
        read_safetensors(checkpoints_of(out)[-1] / "model.safetensors")
        for out in (runner.out, undisturbed.out)
    )
    assert checkpoints_of(runner.out)[-1].name == f"step-{steps:08d}"
    assert all(torch.equal(value, ours[name]) for name, value in theirs.items())
    assert not [path for path in runner.out.rglob("*") if "partial" in path.name]
    return hits


def test_two_kills_lose_nothing(data: Path, tmp_path: Path) -> None:
    hits = kill_and_compare(tmp_path, data, kills=2, in_saves=1, steps=16)
    assert sum(hit.startswith("inside") for hit in hits) >= 1


@pytest.mark.proof
def test_twenty_kills_lose_nothing(data: Path, tmp_path: Path) -> None:
    hits = kill_and_compare(tmp_path, data, kills=20, in_saves=8, steps=200)
    print("", *hits, sep="\n")
    assert len(hits) == 20
    assert sum(hit.startswith("inside") for hit in hits) >= 5
