"""Evaluation by named protocols: the Python API behind ``avtool evaluate``. Each task brings its own protocols."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avtool.config.checkpoint import Config, read_model_config
from avtool.data import parts
from avtool.data.dataset import PreparedDataset
from avtool.devices import resolve_device
from avtool.distributed import local_device, process_group
from avtool.errors import CheckpointError, DataError, NotFinite, UsageError
from avtool.files import atomic_file, check_output, sha256_of, write_json
from avtool.hub import WEIGHTS
from avtool.places import resolve_checkpoint, run_of
from avtool.progress import quiet
from avtool.registry import TASKS, kinds, resolve
from avtool.tasks import Evaluation, Task
from avtool.tasks.context import Context
from avtool.tasks.settings import say_filled_up
from avtool.tasks.table import Table
from avtool.tracking import RUN_JSON, keep_evaluation

__all__ = ["Table", "evaluate", "metrics"]

LABEL = "label"
"""What clips can be grouped by beside the columns of their own."""
MOST_GROUPS = 400
NONE = "none"
"""The group of the clips that have nothing in the column."""


def evaluate(
    model: Path,
    data: Path,
    *,
    task: str | None = None,
    protocols: Sequence[str] = (),
    split: str = "test",
    fold: tuple[int, int] | None = None,
    by: str | None = None,
    windows: int = 1,
    maps: Sequence[str] = (),
    object_prior: Path | None = None,
    vggsounder: Path | None = None,
    batch_size: int = 32,
    workers: int = 0,
    seed: int = 0,
    device: str = "auto",
    out: Path | None = None,
    save_predictions: Path | None = None,
    force: bool = False,
    told: Callable[[dict[str, Any]], None] | None = None,
) -> list[Table]:
    """Tables of the ``protocols`` of ``task`` (None: what the model is for) on one split of prepared data.

    ``model`` is a run (its best weights), a checkpoint or a converted folder. ``fold`` (k, n): only the clips of that
    fold by recording, which a run with ``data.fold`` did not see. ``by``: after the tables of all clips also those of
    each group with the same value in this column, "label" or one of the clips' ``extra``. ``object_prior``:
    torchvision's weights of an ImageNet ResNet, with which localization is reported beside that without.
    ``vggsounder``: a csv of labels for that protocol, in place of the package's. ``out``: also write metrics.json
    there, whose content ``told`` gets; a run keeps its tables in its evaluations.jsonl in any case.
    ``save_predictions``: an .npz of what the numbers of all clips were made of (docs/tasks.md). UsageError for unknown
    names, DataError where the model's head and the data do not fit, before any weights are loaded.

    Under ``torchrun`` the processes share the samples, and the numbers are those of one process. Rank 0 has the tables,
    writes the files and raises what fails anywhere; the others return [].
    """
    tables: list[Table] = []
    # What is gathered lies in the computer's own memory, whatever device it was computed on.
    job = process_group(torch.device("cpu"))
    with job as world, world.fail_together(), quiet(not world.main):
        for option, path in (("--out", out), ("--save-predictions", save_predictions)):
            if path is not None:
                check_output(path, force=force, option=option)
        if out is not None and save_predictions is not None and out.resolve() == save_predictions.resolve():
            raise UsageError(
                f"--save-predictions {save_predictions} would replace what --out writes",
                hint="name another file",
            )
        checkpoint = resolve_checkpoint(model)
        config = read_model_config(checkpoint)
        trained_by = kinds()[config.kind]
        judged, evaluation = evaluation_of(task or trained_by.evaluated_by or trained_by.name)
        chosen_protocols = _protocols(judged, evaluation, protocols, config, checkpoint)
        for option, given, meant in (("--windows", windows > 1, "windows"), ("--map", maps, "maps")):
            if given and not getattr(evaluation, meant):
                others = [name for name in EVALUATED if getattr(evaluation_of(name)[1], meant)]
                raise UsageError(
                    f"{option} changes nothing in {judged.name}", hint=f"it is for {' and '.join(others)}"
                )
        if object_prior is not None and not set(chosen_protocols) & set(evaluation.object_prior):
            fitting = {name: found for name in EVALUATED if (found := evaluation_of(name)[1].object_prior)}
            name, usable = next(iter(fitting.items()))
            raise UsageError(
                f"--object-prior changes nothing in {', '.join(chosen_protocols)}",
                hint=f"--task {name} --protocol {','.join(usable)}",
            )
        check_vggsounder(vggsounder, chosen_protocols)
        dataset = PreparedDataset(data, split)
        dataset.check_rate(config.rate, str(checkpoint))
        clips = clips_of(dataset, fold)
        groups = {} if by is None else _groups(dataset, clips, by)
        context = Context(
            checkpoint=checkpoint,
            config=config,
            dataset=dataset,
            chosen=clips,
            part=part_of(dataset, fold),
            device=local_device(resolve_device(device)),
            batch_size=batch_size,
            workers=workers,
            seed=seed,
            windows=windows,
            maps=maps,
            object_prior=object_prior,
            vggsounder=vggsounder,
            world=world,
            keep=save_predictions is not None,
        )
        say_filled_up(config, dataset)
        try:
            tables = evaluation.tables(context, chosen_protocols)
            for value, numbers in groups.items():
                part, group = f"{context.part}, {by} {value}", {str(by): value}
                of_group = replace(
                    context, chosen=numbers, judged=clips, part=part, group=group, predictions={}, keep=False
                )
                tables += _tables_of_group(of_group, judged.name, evaluation, chosen_protocols)
        except NotFinite as error:
            raise CheckpointError(f"{checkpoint}: {error.message}", hint=error.hint) from error
        if world.main and save_predictions is not None:
            with atomic_file(save_predictions) as partial, partial.open("wb") as file:
                predictions: dict[str, Any] = context.predictions
                np.savez_compressed(file, **predictions)
        if world.main:
            _keep(metrics(tables, model=checkpoint, data=dataset, fold=fold), run_of(checkpoint), out, told)
    return tables if world.main else []


def _keep(
    written: dict[str, Any], run: Path | None, out: Path | None, told: Callable[[dict[str, Any]], None] | None
) -> None:
    """What metrics.json holds in the run, in the file ``out``, and for ``told``."""
    if run is not None and (run / RUN_JSON).is_file():
        keep_evaluation(run, written)
    if out is not None:
        write_json(out, written)
    if told is not None:
        told(written)


def metrics(
    tables: Sequence[Table], *, model: Path, data: PreparedDataset, fold: tuple[int, int] | None = None
) -> dict[str, Any]:
    """What metrics.json holds: the tables, and what they are of, ``weights`` by their sha256."""
    what = {"model": str(model), "weights": sha256_of(model / WEIGHTS)}
    return what | {"data": facts_of(data, fold), "tables": [table.as_dict() for table in tables]}


def facts_of(data: PreparedDataset, fold: tuple[int, int] | None) -> dict[str, Any]:
    """What metrics.json says of the data."""
    return {
        "name": data.name,
        "folder": str(data.folder),
        "split": data.split,
        "fold": fold,
        "checksum": data.checksum,
    }


EVALUATED = tuple(name for name, task in TASKS.items() if task.evaluation)
"""The tasks that have protocols."""


def evaluation_of(name: str) -> tuple[Task, Evaluation]:
    """Task ``name``, and how it is evaluated. UsageError where it is not."""
    if name not in EVALUATED:
        raise UsageError(f"there is no task {name!r} to evaluate", hint=f"one of {', '.join(EVALUATED)}")
    task = TASKS[name]
    return task, resolve(task.evaluation)


def _protocols(
    task: Task, evaluation: Evaluation, wanted: Sequence[str], config: Config, checkpoint: Path
) -> tuple[str, ...]:
    if unknown := [name for name in wanted if name not in evaluation.protocols]:
        raise UsageError(
            f"{task.name} has no protocol {unknown[0]!r}",
            hint=f"choose among {', '.join(evaluation.protocols)}",
        )
    if wanted:
        return tuple(dict.fromkeys(wanted))
    return tuple(evaluation.protocols if evaluation.usual is None else evaluation.usual(config, checkpoint))


def check_vggsounder(labels: Path | None, protocols: Sequence[str]) -> None:
    """UsageError where there are ``labels`` for a protocol that is not among ``protocols``."""
    if labels is not None and "vggsounder" not in protocols:
        raise UsageError(
            f"--vggsounder changes nothing in {', '.join(protocols)}", hint="--protocol vggsounder"
        )


def clips_of(dataset: PreparedDataset, fold: tuple[int, int] | None) -> np.ndarray:
    """The numbers (N,) of the clips of a fold, or of all. DataError where it has none."""
    everything = np.arange(len(dataset))
    if fold is None:
        return everything
    chosen = everything[parts.fold(*parts.recordings(dataset, everything), *fold)]
    if not len(chosen):
        raise DataError(
            f"--fold {fold[0]}/{fold[1]} of split {dataset.split} of {dataset.folder} holds no clip",
            hint="choose fewer folds: no class has as many recordings",
        )
    return chosen


def part_of(dataset: PreparedDataset, fold: tuple[int, int] | None) -> str:
    """What is judged, in words."""
    return f"{dataset.name}, split {dataset.split}" + ("" if fold is None else f", fold {fold[0]}/{fold[1]}")


def _groups(dataset: PreparedDataset, clips: np.ndarray, by: str) -> dict[str, np.ndarray]:
    """The ``clips`` (N,) by their value in column ``by``, sorted. UsageError where there is no such column, or it has
    too many values."""
    found, columns = defaultdict[str, list[int]](list), {LABEL}
    for i in clips:
        facts = dataset.facts(int(i))
        values = {LABEL: ";".join(facts["labels"]), **(facts.get("extra") or {})}
        columns |= values.keys()
        found[str(values.get(by) or NONE)].append(int(i))
    if by not in columns:
        raise UsageError(
            f"the clips of {dataset.folder} have no column {by!r} to group them by",
            hint=f"one of {', '.join(sorted(columns))}; a manifest's own columns are kept with its clips",
        )
    if len(found) > MOST_GROUPS:
        raise UsageError(
            f"column {by!r} of {dataset.folder} has {len(found):,} values, at most {MOST_GROUPS} are judged apart",
            hint="choose a column with fewer",
        )
    return {value: np.array(found[value]) for value in sorted(found)}


def _tables_of_group(
    context: Context, task: str, evaluation: Evaluation, protocols: Sequence[str]
) -> list[Table]:
    """The tables of a group of clips; for a protocol that cannot judge them, one without rows that says why."""
    try:
        return evaluation.tables(context, protocols)
    except (DataError, UsageError) as error:
        if len(protocols) > 1:
            each = (_tables_of_group(context, task, evaluation, [name]) for name in protocols)
            return [table for tables in each for table in tables]
        left_out = {f"because {error.message}": len(context.chosen)}
        return [context.table(task, protocols[0], "", [], [], left_out=left_out)]
