"""Several processes share an evaluation: every sample once, in order, and one voice where it fails. Threads stand in
for the processes."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avtool import distributed
from avtool.config.recipes import dump_recipe, load_recipe
from avtool.distributed import ProcessError, World
from avtool.engine import start
from avtool.engine.start import Saved, newest_checkpoint
from avtool.errors import CheckpointError, DataError, UsageError
from avtool.places import checkpoint_folder
from avtool.tasks.context import Context
from tests.models import described


class Threads:
    """``torch.distributed`` for threads: everything that is sent is pickled, as between processes."""

    def __init__(self, size: int) -> None:
        self.barrier, self.sent = threading.Barrier(size, timeout=20), [b""] * size
        self.own = threading.local()

    def all_gather_object(self, found: list[Any], value: Any) -> None:
        self.sent[self.own.rank] = pickle.dumps(value)
        self.barrier.wait()
        found[:] = map(pickle.loads, self.sent)
        self.barrier.wait()

    def gather_object(self, value: Any, found: list[Any] | None) -> None:
        everything: list[Any] = [None] * len(self.sent)
        self.all_gather_object(everything, value)
        if found is not None:
            found[:] = everything

    def run(self, job: Callable[[World], Any]) -> list[Any]:
        """What ``job`` returns or raises in each of the processes."""

        def one(rank: int) -> Any:
            self.own.rank = rank
            try:
                return job(World(rank, len(self.sent)))
            except Exception as error:  # noqa: BLE001 - it is what is looked at
                return error

        with ThreadPoolExecutor(len(self.sent)) as pool:
            return list(pool.map(one, range(len(self.sent))))


@pytest.fixture
def in_processes(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[World], Any]], list[Any]]:
    def run(size: int, job: Callable[[World], Any]) -> list[Any]:
        threads = Threads(size)
        monkeypatch.setattr(distributed, "dist", threads)
        return threads.run(job)

    return run


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares_are_everything_once_in_order_and_differ_by_one_at_most(size: int) -> None:
    for count in range(20):
        shares = [range(count)[World(rank, size).shard(count)] for rank in range(size)]
        assert [sample for share in shares for sample in share] == list(range(count))
        lengths = list(map(len, shares))
        assert max(lengths) - min(lengths) <= 1


class Numbers:
    """Views that are numbers; ``seen`` are those that were asked for."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def sample(self, index: int) -> dict[str, np.ndarray]:
        self.seen.append(index)
        return {"image": np.float32(index)}


def each(world: World, views: Numbers, numbers: np.ndarray, averaged: int) -> dict[Any, np.ndarray]:
    config = described("classifier", {"classes": 2})
    context = Context(
        Path(),
        config,
        None,
        np.arange(0),
        torch.device("cpu"),
        batch_size=4,
        world=world,  # type: ignore[arg-type]
    )

    def compute(batch: dict[str, torch.Tensor]) -> dict[Any, torch.Tensor]:
        return {
            "number": batch["image"],
            ("of", "two"): torch.stack([batch["image"], -batch["image"]], dim=1),
        }

    return context.each(views, numbers, compute, averaged=averaged)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize(("count", "averaged"), [(0, 1), (1, 1), (3, 1), (11, 1), (7, 3)])
def test_every_sample_is_computed_once_and_comes_back_in_order(
    size: int, count: int, averaged: int, in_processes: Callable[..., list[Any]]
) -> None:
    numbers, views = np.random.default_rng(0).permutation(count * averaged), Numbers()
    first, *others = in_processes(size, lambda world: each(world, views, numbers, averaged))
    assert sorted(views.seen) == list(range(count * averaged))
    assert others == [{}] * (size - 1)
    if not count:
        assert first == {}
        return
    expected = numbers.reshape(count, averaged).mean(axis=1)
    np.testing.assert_allclose(first["number"], expected, rtol=1e-6)
    np.testing.assert_allclose(first["of", "two"], np.stack([expected, -expected], axis=1), rtol=1e-6)


@pytest.mark.parametrize("place", ["before", "between", "after"])
@pytest.mark.parametrize("failing", [(0,), (1,), (0, 1, 2)])
def test_an_error_anywhere_is_raised_once_by_the_first_process(
    failing: tuple[int, ...], place: str, in_processes: Callable[..., list[Any]]
) -> None:
    def job(world: World) -> str:
        with world.fail_together():
            for at in ("before", "between", "after"):
                if at == place and world.rank in failing:
                    raise DataError("the disk is gone", hint="mount it")
                if at != "after":
                    world.gather(at)
        return "left"

    first, *others = in_processes(3, job)
    assert (first.message, first.hint, first.exit_code) == ("the disk is gone", "mount it", 1)
    assert f"process {failing[0]}" in "".join(first.__notes__)
    assert others == ["left", "left"]


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [(ZeroDivisionError("by nothing"), "ZeroDivisionError: by nothing", 1), (UsageError("no"), "no", 2)],
)
def test_a_defect_and_a_wrong_use_keep_their_words_and_exit_codes(
    error: Exception, message: str, code: int, in_processes: Callable[..., list[Any]]
) -> None:
    def job(world: World) -> None:
        with world.fail_together():
            if world.rank:
                raise error

    first, other = in_processes(2, job)
    assert (first.message, first.exit_code) == (message, code)
    assert other is None


def test_a_process_that_is_gone_is_said(
    in_processes: Callable[..., list[Any]],
) -> None:
    def job(world: World) -> None:
        with world.fail_together():
            if world.rank:
                distributed.dist.barrier.abort()  # type: ignore[attr-defined]
            else:
                world.gather(None)

    first, other = in_processes(2, job)
    assert first.message == "another process of this job has ended"
    assert other is None


def resumed(out: Path, world: World) -> Saved | None:
    with world.fail_together() as failed:
        found = newest_checkpoint(load_recipe("tiny"), out, force=False, world=world)
    return None if failed else found


def test_rank_0_chooses_the_checkpoint_to_resume_from(
    in_processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest one can be read by rank 1 alone: both go on from the one before."""

    def read(folder: Path) -> Saved:
        if folder.name == "step-00000002" and threading.current_thread() in readers[:1]:
            raise CheckpointError("cut short", hint="")
        return Saved(folder, {}, {})

    monkeypatch.setattr(start, "_read", read)
    write_run(tmp_path, 1, 2)
    readers: list[threading.Thread] = []

    def job(world: World) -> Saved | None:
        if world.main:
            readers.append(threading.current_thread())
        return resumed(tmp_path, world)

    assert [saved.folder.name for saved in in_processes(2, job)] == ["step-00000001"] * 2


def test_processes_that_see_other_checkpoints_end_with_one_message(
    in_processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "_read", lambda folder: Saved(folder, {}, {}))
    for rank, steps in enumerate(((1, 2), (1, 2), (1,))):
        write_run(tmp_path / str(rank), *steps)
    error, *others = in_processes(3, lambda world: resumed(tmp_path / str(world.rank), world))
    assert others == [None, None]
    assert isinstance(error, ProcessError)
    assert "process 2 sees step-00000001 in" in error.message
    assert "process 0 sees step-00000002" in error.message


def write_run(out: Path, *steps: int) -> None:
    for step in steps:
        folder = checkpoint_folder(out, step)
        folder.mkdir(parents=True)
        for name in ("config.json", "model.safetensors"):
            (folder / name).touch()
    (out / "recipe.yaml").write_text(dump_recipe(load_recipe("tiny")))


def test_rows_and_totals_are_those_of_all_in_order_and_some_may_have_none(in_processes) -> None:
    def job(world: World) -> tuple[list[int], dict[str, float]]:
        own = range(5)[world.shard(5)] if world.rank != 1 else range(0)
        rows = world.gather_rows([torch.tensor([number]) for number in own])
        return rows.tolist(), world.all_reduce_sum({f"of {world.rank % 2}": 1.0, "all": 2.0} if own else {})

    for size, rows in ((1, [0, 1, 2, 3, 4]), (3, [0, 3, 4])):
        for found, totals in in_processes(size, job):
            assert found == rows
            assert totals["all"] == 2.0 * (1 if size == 1 else 2)
