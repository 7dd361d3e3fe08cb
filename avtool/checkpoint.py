"""Checkpoint folders, and reading weight files that may be anything.

A checkpoint is a folder with ``model.safetensors`` (weights), ``config.json`` (what to build, and what the model's
input is) and, in a run, ``trainer.pt`` (what a resume needs). It is written under a temporary name and renamed, so one
that is there is whole.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from avtool.errors import CheckpointError
from avtool.features import LogMel
from avtool.files import atomic_folder
from avtool.model.build import AUTOENCODER, VIT, build_empty_model, check_settings, complete_settings

FORMAT = 1
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class Config:
    """What config.json holds.

    ``kind`` is one of ``avtool.model.build``; ``model`` and ``spectrogram`` are flat keyword arguments of that model
    and of ``LogMel``; ``origin`` says in words where the weights come from. Defaults are filled in where a checkpoint
    is written, and every key has to be there where one is read.
    """

    model: dict[str, Any]
    spectrogram: dict[str, Any]
    origin: str
    kind: str = AUTOENCODER
    format: int = FORMAT

    def complete(self) -> Config:
        """The same with every default of the model's settings spelt out."""
        return replace(self, model=complete_settings(self.kind, self.model))

    @classmethod
    def read(cls, folder: Path) -> Config:
        """CheckpointError where config.json is missing, is not JSON, or has other keys than it should."""
        path = folder / "config.json"
        if not path.is_file():
            raise CheckpointError(f"{folder} has no config.json", hint="name a folder that avtool wrote")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path} is not JSON: {error}", hint="take an undamaged copy") from error
        known = cls.__dataclass_fields__.keys()
        if not isinstance(content, dict) or set(content) != set(known):
            have = set(content) if isinstance(content, dict) else set()
            raise CheckpointError(
                f"{path} does not fit this version: unknown keys {sorted(have - set(known))}, "
                f"missing keys {sorted(set(known) - have)}",
                hint="take the folder of an avtool run, or install the version that wrote it",
            )
        if content["format"] != FORMAT:
            raise CheckpointError(
                f"{path} is of format {content['format']}; this version reads format {FORMAT}",
                hint="install the avtool version that wrote it",
            )
        return cls(**content)._checked(path)

    def _checked(self, path: Path) -> Config:
        hint = "take an undamaged copy, or correct that file"
        for name in ("model", "spectrogram"):
            if not isinstance(getattr(self, name), dict):
                raise CheckpointError(f"{path}: {name} is no table of keys and values", hint=hint)
        try:
            check_settings(self.kind, self.model)
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{path} describes no model: {error}", hint=hint) from error
        return self


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Weights, memory-mapped. CheckpointError names a Git LFS pointer, a truncated file or a file of another kind."""
    _check_weight_file(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is truncated or no safetensors file ({error})", hint="fetch or write it again"
        ) from error


def read_pickled_weights(path: Path) -> dict[str, Any]:
    """The content of a .pth file, read with ``weights_only``. CheckpointError as in ``read_safetensors``, and where the
    pickle asks for more than tensors and plain containers."""
    _check_weight_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{path} cannot be read safely, it holds more than weights or is damaged ({reason})",
            hint="save its state dict alone with torch.save, or fetch the file again",
        ) from error
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
    ) as error:  # whatever a damaged zip leads torch to
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} is truncated or damaged ({reason})", hint="fetch the file again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, not a dict of weights", hint="save a state dict"
        )
    return content


def name_of_other_content(head: bytes) -> str | None:
    """What a file that begins with ``head`` is, if it is one of the things that are found in place of weights."""
    if head.startswith(_LFS_POINTER):
        return "a Git LFS pointer"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    return None


_WAYS_OUT = {
    "a Git LFS pointer": "run 'git lfs pull' in that repository, or fetch the file itself",
    "an HTML page": "fetch the file itself, not its web page",
}


def _check_weight_file(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"no weights at {path}", hint="check the path")
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise CheckpointError(f"{path} is empty", hint="fetch or write it again")
    if found := name_of_other_content(head):
        raise CheckpointError(
            f"{path} is {found} of {path.stat().st_size} bytes, not weights", hint=_WAYS_OUT[found]
        )


def misfits(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Every missing, unexpected and mis-shaped key of ``weights``, in words."""
    problems = [f"missing {key}" for key in wanted if key not in weights]
    problems += [f"unexpected {key}" for key in weights if key not in wanted]
    return problems + [
        f"{key} is {tuple(weights[key].shape)}, not {tuple(wanted[key].shape)}"
        for key in wanted
        if key in weights and weights[key].shape != wanted[key].shape
    ]


def check_fit(weights: Mapping[str, Tensor], module: nn.Module, *, source: Path, hint: str) -> None:
    """CheckpointError that names every missing, unexpected or mis-shaped key of ``weights`` for ``module``."""
    if problems := misfits(weights, module.state_dict()):
        raise CheckpointError(f"the weights of {source} do not fit: {'; '.join(problems)}", hint=hint)


def save_checkpoint(
    folder: Path, *, model: nn.Module, config: Config, trainer: Mapping[str, Any] | None = None
) -> None:
    """Write a whole checkpoint folder, or nothing. CheckpointError where the disk does not take it."""
    with atomic_folder(folder) as partial:
        weights = {key: value.detach().contiguous() for key, value in model.state_dict().items()}
        content = json.dumps(asdict(config.complete()), indent=2)
        (partial / "config.json").write_text(content + "\n", encoding="utf-8")
        try:
            save_file(weights, partial / "model.safetensors")
            # safetensors lets the owner alone read it, whatever the umask says
            (partial / "model.safetensors").chmod((partial / "config.json").stat().st_mode)
            if trainer is not None:
                torch.save(dict(trainer), partial / "trainer.pt")
        except (
            SafetensorError,
            RuntimeError,
        ) as error:  # what both make of a failed write, a full disk above all
            raise CheckpointError(
                f"cannot write {folder}: {str(error).splitlines()[0]} "
                f"({shutil.disk_usage(folder.parent).free / 1e6:,.0f} MB are free)",
                hint="free some space and go on with --resume; earlier checkpoints are whole",
            ) from error


def load_trainer(folder: Path) -> dict[str, Any]:
    """The trainer's state of a run's checkpoint."""
    return read_pickled_weights(folder / "trainer.pt")


def load_model(folder: Path, *, device: str | torch.device = "cpu") -> tuple[nn.Module, LogMel, Config]:
    """The model of any kind that has an ``encoder``, in evaluation mode, and the spectrogram that it hears through, on
    ``device``.

    Weights are memory-mapped, and no weight is initialised only to be overwritten. CheckpointError where weights and
    config.json do not fit each other, and for the encoder of one modality alone.
    """
    config = Config.read(folder)
    if config.kind == VIT:
        raise CheckpointError(
            f"{folder} holds the encoder of one modality alone, a starting point for pretraining",
            hint=f"avtool pretrain --recipe factorized init.image={folder} (or init.audio), or name another model",
        )
    weights = read_safetensors(folder / "model.safetensors")
    try:
        model = build_empty_model(config.kind, config.model)
        log_mel = LogMel(**config.spectrogram)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder / 'config.json'} describes no model: {error}", hint="take an undamaged copy"
        ) from error
    check_fit(
        weights,
        model,
        source=folder / "model.safetensors",
        hint="take model.safetensors and config.json from the same folder",
    )
    model.load_state_dict(weights, assign=True)
    return model.to(device).eval(), log_mel.to(device), config
