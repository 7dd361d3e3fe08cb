"""Evaluation by named protocols: the Python API behind ``avtool evaluate``.

One file a task; ``TASKS`` lists the protocols of each. Adding a protocol is a function and its line.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avtool.data import parts
from avtool.data.dataset import PreparedDataset
from avtool.devices import resolve_device
from avtool.distributed import joined, local_device
from avtool.errors import DataError, UsageError
from avtool.evaluate.classification import SETS, evaluate_classification, evaluate_knn
from avtool.evaluate.context import Context
from avtool.evaluate.localization import PROTOCOLS as LOCALIZATION
from avtool.evaluate.localization import evaluate_localization
from avtool.evaluate.pointing import Localization, keep_localization, kept_localization, measure_pointing
from avtool.evaluate.retrieval import evaluate_retrieval
from avtool.evaluate.segmentation import PROTOCOLS as SEGMENTATION
from avtool.evaluate.segmentation import evaluate_segmentation, fitting_protocols
from avtool.evaluate.separation import PROTOCOL as SEPARATION
from avtool.evaluate.separation import evaluate_separation
from avtool.evaluate.slavc import PROTOCOL as SLAVC
from avtool.evaluate.table import Table
from avtool.files import atomic_file, check_output, json_text
from avtool.model.build import CLASSIFIERS
from avtool.model.config import Config, read_model_config
from avtool.places import resolve_checkpoint
from avtool.progress import quiet
from avtool.tasks.names import ClassNames

__all__ = ["Localization", "Table", "evaluate", "keep_localization", "kept_localization", "measure_pointing"]

TASKS = {
    "localize": (*LOCALIZATION, SLAVC),
    "classify": ("top1", "top5", "mAP", "AUC", "knn"),
    "retrieve": ("recall",),
    "segment": SEGMENTATION,
    "separate": (SEPARATION,),
}
"""The protocols of each task."""
KINDS = {
    "autoencoder": "classify",
    "classifier": "classify",
    "linear_probe": "classify",
    "localization": "localize",
    "separation": "separate",
    "segmentation": "segment",
}
"""What a model of each kind is evaluated for where nothing else is said."""
_AVERAGED = ("classify", "retrieve")
"""Tasks whose results are averaged over the windows of a clip."""


def evaluate(
    model: Path,
    data: Path,
    *,
    task: str | None = None,
    protocols: Sequence[str] = (),
    split: str = "test",
    fold: tuple[int, int] | None = None,
    windows: int = 1,
    maps: Sequence[str] = (),
    object_prior: Path | None = None,
    batch_size: int = 32,
    workers: int = 0,
    seed: int = 0,
    device: str = "auto",
    out: Path | None = None,
    save_predictions: Path | None = None,
    force: bool = False,
) -> list[Table]:
    """Tables of the ``protocols`` of ``task`` (None: what the model is for) on one split of prepared data.

    ``model`` is a run (its best weights), a checkpoint or a converted folder. ``fold`` (k, n): only the clips of that
    fold by recording, which a run with ``data.fold`` did not see. ``object_prior``: torchvision's weights of an
    ImageNet ResNet, with which localization is reported beside that without. ``out``: also write metrics.json there;
    ``save_predictions``: an .npz of what the numbers were made of. UsageError for unknown names, DataError where the
    model's head and the data do not fit, before any weights are loaded.

    Under ``torchrun`` the processes share the samples, and the numbers are those of one process. Rank 0 has the tables,
    writes the files and raises what fails anywhere; the others return [].
    """
    tables: list[Table] = []
    # What is gathered lies in the computer's own memory, whatever device it was computed on.
    job = joined(torch.device("cpu"))
    with job as world, world.as_one(), quiet(not world.main):
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
        task = task or KINDS[config.kind]
        chosen_protocols = _protocols(task, protocols, config, checkpoint)
        for option, given, tasks in (("--windows", windows > 1, _AVERAGED), ("--map", maps, ("localize",))):
            if given and task not in tasks:
                raise UsageError(
                    f"{option} changes nothing in {task}", hint=f"it is for {' and '.join(tasks)}"
                )
        if object_prior is not None and not set(chosen_protocols) & set(LOCALIZATION):
            raise UsageError(
                f"--object-prior changes nothing in {', '.join(chosen_protocols)}",
                hint=f"--task localize --protocol {','.join(LOCALIZATION)}",
            )
        dataset = PreparedDataset(data, split)
        context = Context(
            checkpoint=checkpoint,
            config=config,
            dataset=dataset,
            chosen=_clips(dataset, fold),
            part=_part(dataset, fold),
            device=local_device(resolve_device(device)),
            batch_size=batch_size,
            workers=workers,
            seed=seed,
            windows=windows,
            maps=maps,
            object_prior=object_prior,
            world=world,
        )
        tables = _FAMILIES[task](context, chosen_protocols)
        if world.main and save_predictions is not None:
            with atomic_file(save_predictions) as partial, partial.open("wb") as file:
                np.savez_compressed(file, **context.predictions)
        if world.main and out is not None:
            content = metrics(tables, model=checkpoint, data=dataset, fold=fold)
            with atomic_file(out) as partial:
                partial.write_text(json_text(content, indent=2) + "\n", encoding="utf-8")
    return tables


def metrics(
    tables: Sequence[Table], *, model: Path, data: PreparedDataset, fold: tuple[int, int] | None = None
) -> dict[str, Any]:
    """What metrics.json holds: the tables, and what they are of."""
    return {
        "model": str(model),
        "data": {
            "name": data.name,
            "folder": str(data.folder),
            "split": data.split,
            "fold": fold,
            "checksum": data.checksum,
        },
        "tables": [table.as_dict() for table in tables],
    }


def _protocols(task: str, wanted: Sequence[str], config: Config, checkpoint: Path) -> tuple[str, ...]:
    if task not in TASKS:
        raise UsageError(f"there is no task {task!r} to evaluate", hint=f"one of {', '.join(TASKS)}")
    if unknown := [name for name in wanted if name not in TASKS[task]]:
        raise UsageError(
            f"{task} has no protocol {unknown[0]!r}", hint=f"choose among {', '.join(TASKS[task])}"
        )
    if wanted:
        return tuple(dict.fromkeys(wanted))
    if task == "localize":
        return tuple(LOCALIZATION)  # slavc-extended makes sounds of its own, and needs cosines
    if task == "segment":
        return fitting_protocols(config)
    if task == "classify":
        if config.kind not in CLASSIFIERS:
            return ("knn",)
        names = ClassNames.read(checkpoint, count=config.model["classes"])
        return SETS if names is not None and names.several else ("top1", "top5")
    return TASKS[task]


def _clips(dataset: PreparedDataset, fold: tuple[int, int] | None) -> np.ndarray:
    everything = np.arange(len(dataset))
    if fold is None:
        return everything
    labels = [dataset.label_id(i) for i in range(len(dataset))]
    chosen = everything[parts.fold(parts.recordings(dataset), labels, *fold)]
    if not len(chosen):
        raise DataError(
            f"--fold {fold[0]}/{fold[1]} of split {dataset.split} of {dataset.folder} holds no clip",
            hint="choose fewer folds: no class has as many recordings",
        )
    return chosen


def _part(dataset: PreparedDataset, fold: tuple[int, int] | None) -> str:
    """What is judged, in words."""
    return f"{dataset.name}, split {dataset.split}" + ("" if fold is None else f", fold {fold[0]}/{fold[1]}")


def _classify(context: Context, protocols: Sequence[str]) -> list[Table]:
    tables = []
    if heads := [name for name in protocols if name != "knn"]:
        if context.config.kind not in CLASSIFIERS:
            raise UsageError(
                f"{context.checkpoint} has no classification head: it is of kind {context.config.kind}",
                hint=f"avtool finetune classify --recipe tiny-classify --from {context.checkpoint}, or --protocol knn",
            )
        tables += evaluate_classification(context, heads)
    if "knn" in protocols:
        tables += evaluate_knn(context, *_reference(context))
    return tables


def _reference(context: Context) -> tuple[PreparedDataset, np.ndarray]:
    """Training clips that may be nearest neighbours: another split's, or of one split those that are not judged."""
    dataset = context.dataset
    others = [name for name, clips in dataset.splits.items() if clips and name != dataset.split]
    if dataset.split != "all" and others:
        other = PreparedDataset(dataset.folder, "train" if "train" in others else others[0])
        return other, np.arange(len(other))
    rest = np.setdiff1d(np.arange(len(dataset)), context.chosen)
    if not len(rest):
        raise DataError(
            f"{dataset.folder} leaves no clips to be neighbours: all are judged",
            hint="choose --split test, or --fold 1/5",
        )
    return dataset, rest


_FAMILIES: dict[str, Any] = {
    "localize": evaluate_localization,
    "classify": _classify,
    "retrieve": evaluate_retrieval,
    "segment": evaluate_segmentation,
    "separate": evaluate_separation,
}
