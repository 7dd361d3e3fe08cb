"""Checkpoint folders.

A checkpoint is a folder with ``model.safetensors`` (weights), ``config.json`` (what to build, and what the model's
input is) and, in a run, ``trainer.pt`` (what a resume needs). It is written under a temporary name and renamed, so one
that is there is whole; whether it is still as it was written is checked before it is gone on with.
"""

import itertools
import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save, save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from avtool import __version__
from avtool.config.checkpoint import Config, read_config, read_model_config
from avtool.errors import FULL, CheckpointError, explain, in_bytes
from avtool.features import LogMel
from avtool.files import atomic_folder, is_unicode, json_text
from avtool.model.build import build_empty_model
from avtool.registry import kinds
from avtool.weight_files import DAMAGED, check_weight_file, read_pickled_weights, read_safetensors

_MODEL_SUM = "model_crc32"
"""The key of trainer.pt that holds the sum of the weights beside it; its own records have theirs, as in any zip."""
NAMED = 3
"""Misfits that are named; how many more there are is said."""


def misfits(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """What is missing, unexpected, mis-shaped or no floating point in ``weights``, in words: the parts of a model of
    which there is nothing at all, then key by key."""
    absent = {_part(key) for key in wanted} - {_part(key) for key in weights}
    problems = [f"there is nothing of {', '.join(sorted(absent))}"] if absent else []
    problems += [f"missing {key}" for key in wanted if key not in weights and _part(key) not in absent]
    problems += [f"unexpected {key}" for key in weights if key not in wanted]
    there = {key: (weights[key], value) for key, value in wanted.items() if key in weights}
    return problems + [
        f"{key} is {tuple(have.shape)}, not {tuple(want.shape)}"
        if have.shape != want.shape
        else f"{key} is {str(have.dtype).removeprefix('torch.')}, not floating point"
        for key, (have, want) in there.items()
        if have.shape != want.shape or (want.is_floating_point() and not have.is_floating_point())
    ]


def _part(key: str) -> str:
    """The part of a model that a weight is of: ``encoder.fusion_blocks`` of ``encoder.fusion_blocks.0.norm.bias``."""
    return ".".join(itertools.takewhile(lambda name: not name.isdigit(), key.split(".")[:2]))


def check_fit(weights: Mapping[str, Tensor], module: nn.Module, *, source: Path | str, hint: str) -> None:
    """CheckpointError that says how ``weights`` misfit ``module``: the first few keys, and how many more. No value is
    read."""
    if problems := misfits(weights, module.state_dict()):
        more = [f"and {len(problems) - NAMED} more"] if len(problems) > NAMED else []
        raise CheckpointError(
            f"the weights of {source} do not fit: {'; '.join(problems[:NAMED] + more)}", hint=hint
        )


def check_finite(weights: Mapping[str, Tensor], *, source: Path | str) -> None:
    """CheckpointError where a weight is no number, as a run that diverged leaves them."""
    for key, value in weights.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise CheckpointError(
                f"{source}: {key} holds values that are not finite",
                hint="use other weights, or an earlier checkpoint",
            )


def save_checkpoint(
    folder: Path,
    *,
    model: nn.Module,
    config: Config,
    trainer: Mapping[str, Any] | None = None,
    beside: Callable[[Path], None] | None = None,
) -> None:
    """Write a whole checkpoint folder, or nothing; ``beside`` writes more into it. CheckpointError where the disk does
    not take it."""
    hint = "go on with --resume from what was saved before, which is whole"
    try:
        with atomic_folder(folder) as partial:
            try:
                _write_checkpoint(partial, model, config, trainer)
            except (SafetensorError, RuntimeError):
                (partial / "more").write_bytes(bytes(1 << 20))  # where the disk is full, this says so
                raise
            if beside is not None:
                beside(partial)
    except OSError as error:
        if error.errno not in FULL:
            raise
        free = in_bytes(shutil.disk_usage(folder.parent).free)
        needed = in_bytes(size_of([model.state_dict(), trainer]))
        raise CheckpointError(
            f"{folder} is not written: {error.strerror} ({free} are free, it takes about {needed})",
            hint=f"free some space and {hint}",
        ) from error
    except (SafetensorError, RuntimeError) as error:
        if explain(error) is not None:  # what happened to come up while this was written
            raise
        raise CheckpointError(f"{folder} is not written: {str(error).splitlines()[0]}", hint=hint) from error


def _write_checkpoint(
    folder: Path, model: nn.Module, config: Config, trainer: Mapping[str, Any] | None
) -> None:
    weights = {key: value.detach().contiguous() for key, value in model.state_dict().items()}
    content = json_text(config.model_dump(), indent=2)
    (folder / "config.json").write_text(content + "\n", encoding="utf-8")
    file = folder / "model.safetensors"
    metadata = {"format": "pt", "avtool": __version__, "kind": config.kind}
    if task := kinds().get(config.kind):
        metadata["task"] = task.name
    write_safetensors(file, weights, metadata)
    if trainer is not None:
        torch.save({**trainer, _MODEL_SUM: _sum_of(file)}, folder / "trainer.pt")


def write_safetensors(file: Path, weights: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write ``weights``, each contiguous and in memory of its own, and ``metadata``: the same are the same bytes."""
    file.touch()
    mode = file.stat().st_mode
    if is_unicode(file):
        save_file(weights, file, metadata)
        file.chmod(mode)  # safetensors lets the owner alone read it, whatever the umask says
    else:
        file.write_bytes(save(weights, metadata))
    _order_metadata(file)


def _order_metadata(file: Path) -> None:
    """Sort what a safetensors file says of itself, which is written in any order: the same model is the same bytes."""
    with file.open("r+b") as content:
        size = int.from_bytes(content.read(8), "little")
        header = json.loads(content.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json_text(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
        assert len(text) == size
        content.seek(8)
        content.write(text)


def size_of(content: Any) -> int:
    """Bytes of all tensors in nested ``content``."""
    return sum(leaf.nbytes for leaf in tree_leaves(content) if isinstance(leaf, Tensor))


def load_trainer(folder: Path) -> dict[str, Any]:
    """The trainer's state of a run's checkpoint, to go on from. CheckpointError where config.json, the weights or
    trainer.pt are not as they were written."""
    read_config(folder)
    file, model = folder / "trainer.pt", folder / "model.safetensors"
    check_weight_file(file)
    try:
        with zipfile.ZipFile(file) as records:
            broken = records.testzip()
    except DAMAGED as error:
        raise CheckpointError(f"{file} is truncated or damaged ({error})", hint=_GO_BACK) from error
    if broken is not None:
        raise CheckpointError(f"{file} is damaged: {broken} in it is not as it was written", hint=_GO_BACK)
    trainer = read_pickled_weights(file)
    if trainer.pop(_MODEL_SUM, None) not in (None, _sum_of(model)):
        raise CheckpointError(f"{model} is damaged: it is not as it was written", hint=_GO_BACK)
    return trainer


_GO_BACK = "remove that folder, and go on from an earlier checkpoint"


def _sum_of(file: Path) -> int:
    """CRC-32 of a file."""
    total = 0
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            total = zlib.crc32(block, total)
    return total


def load_model(folder: Path, *, device: str | torch.device = "cpu") -> tuple[nn.Module, LogMel, Config]:
    """The model of any kind that has an ``encoder``, in evaluation mode, and the spectrogram that it hears through, on
    ``device``.

    Weights are memory-mapped, and no weight is initialised only to be overwritten. CheckpointError where weights and
    config.json do not fit each other, and for the encoder of one modality alone.
    """
    config = read_model_config(folder)
    model, weights = empty_model_and_weights(folder, config)
    with _described(folder):
        log_mel = LogMel(**config.log_mel)
    model.load_state_dict(weights, assign=True)
    return model.to(device).eval(), log_mel.to(device), config


def empty_model_and_weights(folder: Path, config: Config) -> tuple[nn.Module, dict[str, Tensor]]:
    """The model that ``config`` describes, on the meta device, and the weights in ``folder``, memory-mapped, which fit
    it. CheckpointError where they do not."""
    file = folder / "model.safetensors"
    weights = read_safetensors(file)
    with _described(folder):
        model = build_empty_model(config.kind, config.settings)
    hint = "take model.safetensors and config.json from the same folder"
    if suspect := _suspect(weights, model.state_dict()):
        hint += f", or correct {suspect} in {folder / 'config.json'}"
    check_fit(weights, model, source=file, hint=hint)
    return model, weights


@contextmanager
def _described(folder: Path) -> Iterator[None]:
    """CheckpointError where what is built in the block cannot be, because config.json does not describe it."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{folder / 'config.json'} describes no model: {reason}", hint="take an undamaged copy"
        ) from error


_TELLING = (
    ("encoder.image.patch_embed.proj.weight", 0, "model.dim"),
    ("encoder.image.patch_embed.proj.weight", 2, "model.patch_size"),
    ("encoder.image.blocks.0.mlp.fc1.weight", 0, "model.mlp_ratio"),
    ("encoder.fusion_tokens", 1, "model.fusion.tokens"),
    ("image_decoder.embed.weight", 0, "head.decoder.dim"),
    ("image_decoder.pos_embed", 1, "model.image_size"),
    ("audio_decoder.pos_embed", 1, "model.audio_size"),
    ("image_head.weight", 0, "head.classes"),
)
"""A tensor, a dimension of it, and the key that it follows from; keys that others follow from stand first."""


def _suspect(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """The key of config.json that the weights contradict, where one tensor tells."""
    for name, dimension, key in _TELLING:
        have, want = (getattr(tensors.get(name), "shape", ())[dimension:] for tensors in (weights, wanted))
        if have and want and have[0] != want[0]:
            return key
    return None
