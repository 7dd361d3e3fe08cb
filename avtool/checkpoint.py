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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from avtool.errors import CheckpointError
from avtool.features import LogMel
from avtool.files import atomic_folder
from avtool.model.build import build_empty
from avtool.model.mae import MaskedAutoencoder

FORMAT = 1
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class Config:
    """What config.json holds.

    ``model`` and ``spectrogram`` are flat keyword arguments of the model (``avtool.model.build``) and of ``LogMel``;
    ``origin`` says in words where the weights come from.
    """

    model: dict[str, Any]
    spectrogram: dict[str, Any]
    origin: str
    format: int = FORMAT

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
        return cls(**content)


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


def _check_weight_file(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"no weights at {path}", hint="check the path")
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise CheckpointError(f"{path} is empty", hint="fetch or write it again")
    if head.startswith(_LFS_POINTER):
        raise CheckpointError(
            f"{path} is a Git LFS pointer of {path.stat().st_size} bytes, not the weights themselves",
            hint="run 'git lfs pull' in that repository, or fetch the file itself",
        )
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise CheckpointError(
            f"{path} is an HTML page, not weights", hint="fetch the file itself, not its web page"
        )


def check_fit(weights: Mapping[str, Tensor], module: nn.Module, *, source: Path, hint: str) -> None:
    """CheckpointError that names every missing, unexpected or mis-shaped key of ``weights`` for ``module``."""
    wanted = module.state_dict()
    problems = [f"missing {key}" for key in wanted if key not in weights]
    problems += [f"unexpected {key}" for key in weights if key not in wanted]
    problems += [
        f"{key} is {tuple(weights[key].shape)}, not {tuple(wanted[key].shape)}"
        for key in wanted
        if key in weights and weights[key].shape != wanted[key].shape
    ]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise CheckpointError(f"the weights of {source} do not fit: {shown}", hint=hint)


def save_checkpoint(
    folder: Path, *, model: nn.Module, config: Config, trainer: Mapping[str, Any] | None = None
) -> None:
    """Write a whole checkpoint folder, or nothing. CheckpointError where the disk does not take it."""
    with atomic_folder(folder) as partial:
        weights = {key: value.detach().contiguous() for key, value in model.state_dict().items()}
        (partial / "config.json").write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")
        try:
            save_file(weights, partial / "model.safetensors")
            if trainer is not None:
                torch.save(dict(trainer), partial / "trainer.pt")
        except (SafetensorError, RuntimeError) as error:  # what both make of a failed write, a full disk above all
            raise CheckpointError(
                f"cannot write {folder}: {str(error).splitlines()[0]} "
                f"({shutil.disk_usage(folder.parent).free / 1e6:,.0f} MB are free)",
                hint="free some space and go on with --resume; earlier checkpoints are whole",
            ) from error


def load_trainer(folder: Path) -> dict[str, Any]:
    """The trainer's state of a run's checkpoint."""
    return read_pickled_weights(folder / "trainer.pt")


def load_autoencoder(
    folder: Path, *, device: str | torch.device = "cpu"
) -> tuple[MaskedAutoencoder, LogMel, Config]:
    """The model in evaluation mode, and the spectrogram that it hears through, on ``device``.

    Weights are memory-mapped, and no weight is initialised only to be overwritten.
    """
    config = Config.read(folder)
    weights = read_safetensors(folder / "model.safetensors")
    try:
        model = build_empty(config.model)
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
