"""Run by test_parallel.py under torchrun: what a backward pass over two processes does, as JSON of rank 0."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch.profiler import profile

from avtool.config.recipes import load_recipe
from avtool.data.dataset import PreparedDataset
from avtool.distributed import World, process_group, share_batch_norm
from avtool.engine.run import Run
from avtool.replicas import in_parallel

CPU = torch.device("cpu")
SMALL = (
    "model.image_size=[32,32]", "model.audio_size=[32,64]", "model.dim=128", "model.heads=4", "model.depth=1",
    "train.eval_clips=7",
)  # fmt: skip
MEASURED = {
    "pretrain": ("tiny", "model.decoder={dim: 16, depth: 1, heads: 2}"),
    "classify": ("tiny-classify",),
    "unimodal": ("tiny-localize", "localize.clusters=null"),
    "joint": ("tiny-localize", "localize.clusters=null", "localize.encoding=joint"),
    "separate": ("tiny-separate",),
    "segment": ("tiny-segment",),
}


def new_run(name: str, data: Path, world: World, *settings: str) -> Run:
    recipe = load_recipe(name, ["data.workers=0", "train.precision=float32", *settings])
    if recipe.task != "pretrain":
        recipe = recipe.model_copy(update={"init": recipe.init.model_copy(update={"model": "none"})})
    dataset = PreparedDataset(data, recipe.data.split)
    folder = data / "none"
    return Run(recipe, dataset, folder=folder, device=CPU, world=world)


def gradients(run: Run) -> dict[str, torch.Tensor]:
    found = {
        name: parameter.grad.clone()
        for name, parameter in run.task.named_parameters()
        if parameter.grad is not None
    }
    run.optimizer.zero_grad()
    return found


def apart_from_halves(name: str, data: Path, world: World, *settings: str) -> float:
    """By how much the gradient over both processes differs from the mean of both halves' own, relative to its norm."""
    settings = ("train.batch_size=8", "train.accumulate=1", *settings)
    run = new_run(name, data, world, *settings)
    share_batch_norm(run.task, world, CPU)
    model = in_parallel(run.task, world, CPU, replicas=1)
    model(next(run.batches()))["loss"].backward()
    shared = gradients(run)
    alone = new_run(name, data, World(), *settings)
    batch = next(alone.batches())
    for half in (slice(0, 4), slice(4, 8)):
        (alone.task({key: value[half] for key, value in batch.items()})["loss"] / 2).backward()
    halves = gradients(alone)
    assert shared.keys() == halves.keys()
    difference = torch.stack([(shared[key] - halves[key]).norm() for key in shared]).norm()
    return (difference / torch.stack([value.norm() for value in halves.values()]).norm()).item()


def messages_in_backward(data: Path, world: World) -> dict[str, int]:
    """All-reduces of a pretraining step: how many, and how many began before the last gradient was computed."""
    run = new_run("tiny", data, world, "train.batch_size=4", "train.accumulate=1")
    model = in_parallel(run.task, world, CPU, replicas=run.replicas)
    for traced in (False, True):  # the first backward pass orders the buckets
        loss = model(next(run.batches()))["loss"]
        if not traced:
            loss.backward()
            continue
        with profile() as trace:
            loss.backward()
    events = [event for event in trace.events() if event.name]
    sent = [
        event.time_range.start for event in events if "all_reduce" in event.name or "allreduce" in event.name
    ]
    computed = max(event.time_range.end for event in events if "Backward" in event.name)
    return {"all": len(sent), "overlapping": sum(start < computed for start in sent)}


def apart_in_measures(name: str, data: Path, world: World, *settings: str) -> float:
    """The largest relative difference between measures of held-out clips that both processes share and one's own."""
    settings = (*SMALL, "train.batch_size=4", "data.validation=0.4", *settings)
    shared = new_run(name, data, world, *settings)._measure(7)
    alone = new_run(name, data, World(), *settings)._measure(7)
    assert shared.keys() == alone.keys() and alone["clips"] > 4
    return max(abs(shared[key] - alone[key]) / max(abs(alone[key]), 1e-6) for key in alone)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    with process_group(CPU) as job:
        facts = {
            "separate": apart_from_halves("tiny-separate", folder, job),
            "segment": apart_from_halves("tiny-segment", folder, job),
            "measures": {
                task: apart_in_measures(name, folder, job, *settings)
                for task, (name, *settings) in MEASURED.items()
            },
            "messages": messages_in_backward(folder, job),
        }
        if job.main:
            print(json.dumps(facts))
