"""Training: one loop from a recipe and prepared data to a run folder, for pretraining and every task after it."""

import shutil
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import torch

from avtool.config.checkpoint import read_config
from avtool.config.recipes import dump_recipe
from avtool.config.schema import Recipe
from avtool.data.dataset import PreparedDataset
from avtool.devices import check_compiler, keep_freed_memory, precision_name, resolve_device
from avtool.distributed import World, local_device, process_group
from avtool.engine import loop
from avtool.engine.cost import speed_in_words
from avtool.engine.dry import dry_run
from avtool.engine.run import OthersFailed, Run
from avtool.engine.start import check_same_data, newest_checkpoint, starting_model
from avtool.errors import UsageError
from avtool.files import check_output
from avtool.loggers import check_loggers, chosen
from avtool.places import BEST
from avtool.progress import quiet, say
from avtool.registry import PRETRAIN
from avtool.tasks.settings import say_filled_up
from avtool.tracking import RUN_JSON, write_run_facts
from avtool.weights import NONE

__all__ = ["Run", "dry_run", "starting_model", "train"]


def train(
    recipe: Recipe,
    *,
    data: Path,
    out: Path,
    allow_random: bool = False,
    device: str = "auto",
    resume: bool = False,
    stop_after: int | None = None,
    force: bool = False,
    command: list[str] | None = None,
) -> Path:
    """Train by ``recipe`` on the prepared data in ``data`` and return the run folder ``out``.

    With ``resume``, go on from the newest whole checkpoint of ``out``, or start afresh where there is none.
    ``stop_after`` ends early after that step; the schedule stays as it is. On SIGINT or SIGTERM a checkpoint
    is written, then KeyboardInterrupt is raised. Under ``torchrun`` every process takes its share of each batch.

    A recipe of a task after pretraining starts from the encoder that ``init.model`` names, which takes the place of its
    own but for sizes that were asked for; with ``allow_random`` that may be ``none``. The weights with the best
    validation measure are then kept in the run's ``best``, the last ones in its checkpoints.

    AvtoolError where the recipe, the data, the weights and the machine do not fit together; nothing is written before
    that is known.
    """
    target = local_device(resolve_device(device))
    with process_group(target) as world, quiet(not world.main):
        with world.fail_together() as failed:
            recipe, checkpoint = starting_model(recipe, allow_random=allow_random)
            check_output(out, force=force or resume, markers=(RUN_JSON,))
            dataset = PreparedDataset(data, recipe.data.split)
            _check(recipe, dataset, target, world)
            keep_freed_memory(target)
            saved = newest_checkpoint(recipe, out, force=force, world=world) if resume else None
            if saved and not force:
                check_same_data(out, dataset)
            if saved and (before := saved.trainer.get("processes", 1)) != world.size:
                say(
                    f"begun by {before} processes, goes on with {world.size}: batches and steps stay the same"
                )
            run = Run(
                recipe, dataset, folder=out, device=target, saved=saved, checkpoint=checkpoint, world=world
            )
            run.check_room()
        if not failed:  # else it was another process, and rank 0 says so
            with suppress(OthersFailed), ExitStack() as ending:
                ending.push(partial(_close_log, run))
                _train(run, data, stop_after=stop_after, command=command or [])
        return out


def _check(recipe: Recipe, dataset: PreparedDataset, device: torch.device, world: World) -> None:
    """AvtoolError where recipe, data, machine and the number of processes do not fit together."""
    started = recipe.init.model not in (None, NONE)
    dataset.check_rate(
        recipe.spectrogram.sample_rate,
        str(recipe.init.model) if started else "the recipe's spectrogram",
        hint="" if started else f"spectrogram.sample_rate={dataset.sample_rate}",
    )
    if recipe.train.batch_size % world.size:
        raise UsageError(
            f"{world.size} processes cannot share a batch of {recipe.train.batch_size} clips evenly",
            hint=f"set train.batch_size to a multiple of {world.size}",
        )
    if recipe.train.compile:
        check_compiler(device)
    check_loggers(chosen(recipe.train))


def _train(run: Run, data: Path, *, stop_after: int | None, command: list[str]) -> None:
    out, steps = run.folder, run.schedule.max_steps
    stop = min(steps, stop_after or steps)
    finished = run.step >= stop
    with run.world.fail_together() as failed:
        if run.world.main and not finished:
            _begin(run, data, command)
    if failed:
        raise OthersFailed
    if run.owes_measures():
        run.evaluate()
    if finished:
        done = "finished" if stop == steps else f"already past --stop-after {stop}"
        say(f"{out} is {done}: {run.step} of {steps} steps are done")
        return
    loop.train(run, run.batches(), stop=stop)
    run.evaluate()
    if run.best is not None:
        say(f"best: {out / BEST}, of step {run.best['step']:.0f}")
    elif run.task.monitor and len(run.clips.held_out):
        say(f"no best checkpoint: {run.task.monitor} was never a number; the last one is used")
    if run.world.main:
        say(f"{run.step:,} steps done: {speed_in_words(run)}")


def _close_log(run: Run, kind: type[BaseException] | None, *_: object) -> None:
    """Close the log, where there is one, at the end of a block that an error of ``kind`` ended (None: none)."""
    if "log" in vars(run):
        run.log.close(failed=kind is not None)


def _begin(run: Run, data: Path, command: list[str]) -> None:
    """Say what starts, and write what a run folder begins with."""
    recipe, clips, dataset, precision = run.recipe, run.clips, run.dataset, precision_name(run.precision)
    if run.folder.exists() and run.resumed_from is None:
        shutil.rmtree(run.folder)
    run.folder.mkdir(parents=True, exist_ok=True)
    try:
        _ = run.log  # loggers may not begin: then nothing stays of what was not begun
    except BaseException:
        if run.resumed_from is None:
            shutil.rmtree(run.folder)
        raise
    write_run_facts(
        run.folder,
        recipe_yaml=dump_recipe(recipe),
        command=command,
        resumed_from=run.resumed_from,
        data={
            "folder": str(data),
            "name": dataset.name,
            "checksum": dataset.checksum,
            "clips": len(dataset),
            "trained_on": len(clips.training),
            "held_out": len(clips.held_out),
            "left_out": clips.left_out,
        },
        init=recipe.init.model_dump(exclude_none=True),
        started_from=run.started_from
        and {"folder": str(run.started_from), "origin": read_config(run.started_from).origin},
        **run.facts,
        device=str(run.device),
        precision=precision,
        threads=torch.get_num_threads(),
        processes=run.world.size,
    )
    left_out = "".join(f", {count} left out {reason}" for reason, count in clips.left_out.items())
    verb = "pretraining" if recipe.task == PRETRAIN else f"fine-tuning ({recipe.task})"
    say(
        f"{verb} on {len(clips.training)} clips of {dataset.name}{left_out}, {run.schedule.max_steps} steps of "
        f"{recipe.train.batch_size * recipe.train.accumulate} clips ({run.device}, {precision}), into {run.folder}"
    )
    say_filled_up(recipe, dataset)
    if run.task.monitor and not len(clips.held_out):
        share = recipe.data.validation
        why = f": data.validation={share:g} rounds to no recording of any class" if share else ""
        say(
            f"no validation set to choose the best checkpoint on{why}; only the last one is kept "
            "(a larger data.validation holds some out)"
        )
