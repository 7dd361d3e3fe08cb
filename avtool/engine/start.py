"""What a run starts from: its clips; random weights, a pretrained encoder, or its own newest checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from torch import Tensor

from avtool.checkpoint import check_finite, check_fit, load_trainer
from avtool.config.checkpoint import Config, config_of, read_model_config
from avtool.config.model import Spectrogram
from avtool.config.recipes import load_recipe
from avtool.config.schema import Recipe
from avtool.config.types import keys, leaves
from avtool.config.values import Key, explain
from avtool.data import parts
from avtool.data.dataset import PreparedDataset
from avtool.distributed import World
from avtool.errors import CheckpointError, DataError, RecipeError, UsageError
from avtool.model.encoder import encoder_of
from avtool.places import checkpoints_of, resolve_checkpoint
from avtool.progress import say, warn
from avtool.registry import PRETRAIN, TASKS, resolve
from avtool.tasks.training import Training
from avtool.tracking import read_run_facts
from avtool.weight_files import read_safetensors
from avtool.weights import NONE, find_starting_weights, load_vit

ENCODER = "encoder."
VALIDATION = "validation"
SIZES: tuple[Key, ...] = (
    ("model", "image_size"), ("model", "audio_size"), *(("spectrogram", name) for name in Spectrogram.model_fields),
)  # fmt: skip
"""What fine-tuning may have otherwise than the model that it starts from."""
STARTS: tuple[Key, ...] = (("init", "image"), ("init", "audio"))


@dataclass(frozen=True)
class Clips:
    """Which clips a run uses: ``training`` of its split, and ``held_out`` of ``held_out_of``, called ``part``.

    ``left_out``: how many cannot be trained on, by reason. Pretraining is measured on another split, fine-tuning on a
    part of its own, by recording: the split that results are reported on chooses nothing.
    """

    training: np.ndarray
    held_out: np.ndarray
    held_out_of: PreparedDataset
    part: str
    left_out: dict[str, int]

    @classmethod
    def of(cls, recipe: Recipe, dataset: PreparedDataset) -> Clips:
        """DataError where fewer than a batch are left to train on."""
        usable, left_out = resolve(TASKS[recipe.task].training).select_clips(recipe, dataset)
        if recipe.data.fold:
            usable = usable[~parts.fold(*parts.recordings(dataset, usable), *recipe.data.fold)]
        if recipe.task == PRETRAIN:
            other = _other_split(recipe, dataset)
            held_out = np.arange(len(other) if other else 0)
            clips = cls(usable, held_out, other or dataset, other.split if other else "", left_out)
        else:
            chosen = parts.held_out(*parts.recordings(dataset, usable), recipe.data.validation)
            clips = cls(usable[~chosen], usable[chosen], dataset, VALIDATION, left_out)
        clips._check(recipe, dataset)
        return clips

    def _check(self, recipe: Recipe, dataset: PreparedDataset) -> None:
        count, needed = len(self.training), f"a batch needs {recipe.train.batch_size}"
        if count >= recipe.train.batch_size:
            return
        found = f"{dataset.folder} has {count} clips of split {dataset.split} to train on"
        if self.part == VALIDATION and len(self.held_out) > count:
            raise DataError(
                f"{found}, for {len(self.held_out)} are held out; {needed}",
                hint=f"data.validation=0.1, less than {recipe.data.validation:g}",
            )
        reasons = "".join(f", {number} {reason}" for reason, number in self.left_out.items())
        ways = [f"set train.batch_size={count}" + (" or less" if count > 1 else "")] if count else []
        if len(dataset) < sum(dataset.splits.values()):
            ways.append("take every split: data.split=all")
        raise DataError(f"{found}{reasons}; {needed}", hint=", or ".join(ways) or "use more data")


def _other_split(recipe: Recipe, dataset: PreparedDataset) -> PreparedDataset | None:
    others = [name for name, clips in dataset.splits.items() if clips and name != recipe.data.split]
    if not others or recipe.data.split == "all":
        return None
    return PreparedDataset(dataset.folder, "test" if "test" in others else others[0])


@dataclass(frozen=True)
class Saved:
    """What a checkpoint folder holds."""

    folder: Path
    weights: dict[str, Tensor]
    trainer: dict[str, Any]


def newest_checkpoint(recipe: Recipe, out: Path, *, force: bool, world: World) -> Saved | None:
    """What to go on from, chosen by rank 0. UsageError where the run was made by another recipe, unless ``force``;
    CheckpointError where a process does not see the checkpoints that rank 0 sees."""
    saved = _newest_whole(out) if world.main else None
    there = [folder.name for folder in checkpoints_of(out)]
    seen, chosen = world.gather((there, saved and saved.folder.name))[0]
    if there != seen:
        here, first = (names[-1] if names else "no checkpoint" for names in (there, seen))
        raise CheckpointError(
            f"process {world.rank} sees {here} in {out}, process 0 sees {first}",
            hint="every host needs the same --out, in a file system that they share; where it lags, start again",
        )
    if chosen is None:
        say(f"no whole checkpoint in {out}: starting afresh")
        return None
    saved = saved or _read(checkpoints_of(out)[there.index(chosen)])
    differences = _differences(load_recipe(str(out / "recipe.yaml")).model_dump(), recipe.model_dump())
    if differences and not force:
        raise UsageError(
            f"{out} was made by another recipe: {'; '.join(differences)}",
            hint="resume with the settings it was started with, or add --force to go on with these",
        )
    say(f"resuming from {saved.folder}")
    return saved


def _newest_whole(out: Path) -> Saved | None:
    for folder in reversed(checkpoints_of(out)):
        try:
            return _read(folder)
        except CheckpointError as error:
            warn(f"{folder} is damaged ({error.message}): trying the one before")
    return None


def _read(folder: Path) -> Saved:
    return Saved(folder, read_safetensors(folder / "model.safetensors"), load_trainer(folder))


def check_same_data(out: Path, dataset: PreparedDataset) -> None:
    """UsageError where the run in ``out`` was begun with other prepared data than ``dataset``."""
    before = read_run_facts(out).get("data", {})
    if before.get("checksum", dataset.checksum) != dataset.checksum:
        raise UsageError(
            f"{out} was trained on other data, those in {before['folder']}, than {dataset.folder} holds now",
            hint=f"resume with the data it was started with, or add --force to go on with {dataset.folder}",
        )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    earlier = leaves(before)
    return [
        f"{'.'.join(key)} was {earlier.get(key)}, is now {value}"
        for key, value in leaves(now).items()
        if earlier.get(key) != value
    ]


def starting_model(recipe: Recipe, *, allow_random: bool) -> tuple[Recipe, Path | None]:
    """The recipe with the encoder and the spectrogram of the checkpoint that ``init.model`` names (see ``_fitted``),
    and that checkpoint; None in pretraining and for random weights, which have to be allowed. Nothing but config.json
    is read."""
    named = recipe.init.model
    if recipe.task == PRETRAIN:
        return recipe, None
    if named is None:
        raise UsageError(
            "no pretrained model given",
            hint="--from RUN (avtool pretrain), --from deepavfusion-vggsound (avtool pull), or as a control random "
            "weights: --from none --allow-random",
        )
    if named == NONE:
        if not allow_random:
            raise UsageError(
                "fine-tuning would start from random fusion weights (init.model is none)",
                hint="name a pretrained model with --from, or add --allow-random where that is what you want",
            )
        return recipe, None
    checkpoint = resolve_checkpoint(Path(named))
    return _fitted(recipe, read_model_config(checkpoint), checkpoint), checkpoint


def _fitted(recipe: Recipe, config: Config, checkpoint: Path) -> Recipe:
    """The recipe with the encoder and the spectrogram of ``config``, but in the sizes that were asked for: its
    positions are fixed, for any grid. RecipeError names what else was asked for and cannot be had of that model."""
    content, wanted = config.model_dump(mode="json"), leaves(recipe.model_dump(mode="json"))
    own = leaves({section: content[section] for section in ("model", "spectrogram")})
    typed = [key for key, where in recipe.asked.items() if where.startswith("argument")]
    other = [key for key in recipe.asked if key in own and wanted[key] != own[key]]
    wrong = {key: f"{checkpoint} has {'.'.join(key)} {own[key]}" for key in other if key not in SIZES} | {
        key: f"both encoders start from {checkpoint}"
        for key in typed
        if key in STARTS and wanted[key] not in (None, NONE)
    }
    if wrong:
        raise RecipeError(
            "; ".join(f"{recipe.asked[key]}: {what}" for key, what in wrong.items()),
            hint=f"set it to that or leave it out; fine-tuning can change {', '.join(map('.'.join, SIZES))}",
        )
    if unused := [".".join(key) for key in typed if key in wanted and key[0] == "model" and key not in own]:
        warn(f"{', '.join(unused)}: of no use here, for fine-tuning has no decoders")
    for section, name in other:
        content[section][name] = wanted[section, name]
    kind = config_of(config.kind)
    try:
        fitted = kind.model_validate(content)
    except ValidationError as error:
        found = explain(error, content, dict(keys(kind)))
        raise RecipeError(f"with the sizes of {checkpoint}, {found.message}", hint=found.hint) from None
    if other:
        changed = "; ".join(f"{'.'.join(key)} is {wanted[key]}, was {own[key]}" for key in other)
        say(f"other sizes than those of {checkpoint}, with positions made anew: {changed}")
    model = recipe.model.model_copy(update=dict(fitted.model))
    return recipe.model_copy(update={"model": model, "spectrogram": fitted.spectrogram})


def load_start(task: Training, recipe: Recipe, checkpoint: Path | None) -> list[str]:
    """Load what the recipe's ``init`` names into a new task's model; the names or prefixes of what starts from
    weights, as ``encoder.image``."""
    if checkpoint is None:
        return _load_vits(task, recipe)
    file = checkpoint / "model.safetensors"
    weights = {
        name.removeprefix(ENCODER): value
        for name, value in read_safetensors(file).items()
        if name.startswith(ENCODER)
    }
    encoder = encoder_of(task.model)
    check_fit(weights, encoder, source=file, hint="take an undamaged copy")
    check_finite(weights, source=file)
    encoder.load_state_dict(weights)
    say(f"the encoder starts from {checkpoint}")
    return [ENCODER.rstrip(".")]


def _load_vits(task: Training, recipe: Recipe) -> list[str]:
    named, problems = {}, []
    for part in ("image", "audio"):
        try:
            named[part] = find_starting_weights(f"init.{part}", getattr(recipe.init, part) or NONE)
        except CheckpointError as error:
            problems.append(error)
    if problems:  # all at once, so that one more round is enough
        raise CheckpointError(
            "; ".join(error.message for error in problems), hint="; ".join(error.hint for error in problems)
        )
    pretrained = []
    for part, start in named.items():
        if start is not None:
            note = load_vit(getattr(encoder_of(task.model), part), start)
            say(f"the {part} encoder starts from {start}{note and ', '}{note}")
            pretrained.append(f"encoder.{part}")
    return pretrained
