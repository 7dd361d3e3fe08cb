"""Reading files of weights that may be anything: of other programs, of other kinds, damaged."""

import argparse
import json
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import Tensor

from avtool.errors import CheckpointError
from avtool.files import WAYS_OUT, is_unicode, name_of_other_content
from avtool.progress import say

DAMAGED = (
    ArithmeticError, AttributeError, EOFError, ImportError, LookupError, NotImplementedError, OSError, RuntimeError,
    TypeError, ValueError, zipfile.BadZipFile, zlib.error, pickle.PickleError, struct.error,
)  # fmt: skip
"""Whatever a damaged file leads torch, pickle and zipfile to."""


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Weights, memory-mapped. CheckpointError names a Git LFS pointer, a truncated file or a file of another kind."""
    check_weight_file(path)
    try:
        return load_file(path) if is_unicode(path) else load(path.read_bytes())
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is truncated or no safetensors file ({error})", hint="fetch or write it again"
        ) from error


AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "teacher", "target_encoder")
STATES = (*AVERAGED, "state_dict", "model", "model_state_dict", "module", "student", "encoder")
"""Where checkpoints keep their weights; averaged ones are read where there are some, as timm does."""
_PASSED_OVER = (
    "lightning", "lightning_fabric", "ml_collections", "omegaconf", "pytorch_lightning", "timm", "torch",
    "transformers", "typing", "yacs",
)  # fmt: skip
"""Packages whose objects may lie beside weights: nothing of them is imported or run."""


class PassedOver:
    """Stands for an object of another program, of which nothing is read."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> "PassedOver":
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Nothing is kept."""


def _harmless() -> list[Any]:
    """What a pickle may hold beside tensors and plain containers: plain values as programs leave them, numpy's under
    the names of numpy 1 and 2."""
    multiarray: list[Any] = [made.__reduce__()[0] for made in (np.float64(0), np.zeros(1))]
    numpy = [
        (made, f"numpy.{core}.multiarray.{made.__name__}")
        for core in ("core", "_core")
        for made in multiarray
    ]
    types = {type(np.dtype(code)) for code in "?bhilqBHILQefdUS"}
    paths = [
        (PurePath, f"pathlib{part}.{kind}Path") for part in ("", "._local") for kind in ("Posix", "Windows")
    ]
    plain = [argparse.Namespace, dict, list, int, float, bool, str, np.dtype, np.ndarray]
    return [*plain, *types, *numpy, *paths, (_plain_dict, "collections.defaultdict")]


def _plain_dict(*_default: Any) -> dict[Any, Any]:
    """What a defaultdict is read as."""
    return {}


def read_pickled_weights(path: Path) -> dict[str, Any]:
    """The content of a .pth file, read with ``weights_only``. CheckpointError as in ``read_safetensors``, and where the
    pickle asks for more than tensors, plain containers and values: objects of programs that leave theirs beside weights
    are ``PassedOver``, and none of their code is imported or run."""
    check_weight_file(path)
    allowed, others = _harmless(), list[str]()
    while True:
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
                warnings.simplefilter("ignore")  # what torch advises is no way out here
                content = torch.load(path, map_location="cpu", weights_only=True)
            break
        except pickle.UnpicklingError as error:
            if "operand 149" in str(error):  # a frame, which protocols from 4 on begin with
                raise CheckpointError(
                    f"{path} is refused: it was saved with pickle_protocol 4 or a later one, of which torch reads "
                    "nothing safely",
                    hint="save the state dict again without pickle_protocol: torch.save(model.state_dict(), FILE)",
                ) from error
            name = _asked_for(str(error))
            if name is None or name in others or name.partition(".")[0] not in _PASSED_OVER:
                raise _refused(path, name or ", ".join(others)) from error
            others.append(name)
            module, _, own = name.rpartition(".")
            allowed.append((type(own, (PassedOver,), {"__module__": module}), name))
        except DAMAGED as error:
            if "TorchScript" in str(error):
                raise _refused(path, "TorchScript") from error
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(
                f"{path} is truncated or damaged ({reason})", hint="fetch the file again"
            ) from error
    if not isinstance(content, dict):
        what = others[-1] if isinstance(content, PassedOver) else type(content).__name__
        raise CheckpointError(f"{path} holds a {what}, not a dict of weights", hint="save a state dict")
    return content


def read_state_dict(path: Path, *, key: str | None = None) -> dict[str, Tensor]:
    """The tensors of a file, or of all files of an index, in float32, without what all their names begin with, as
    ``module.``: those under ``key``, a name in the file or the beginning of names; None: all, or under the first of
    ``STATES`` that it has. It says which of several is read, and what else the file holds. CheckpointError where there
    are no tensors of plain numbers, or no way to choose."""
    content = _read(path)
    states = [name for name in content if _is_state(content[name])]
    if not _is_state(content):
        usual = [name for name in STATES if name in states] or states[: len(states) == 1]
        chosen = key if key in states else next(iter(usual), None)
        if chosen is None:
            shown = ", ".join(map(str, list(content)[:5])) or "nothing"
            raise CheckpointError(
                f"{path} holds no state dict (it holds {shown})",
                hint=f"choose one: avtool convert {path} --key {' or '.join(map(str, states))}"
                if states
                else "save the model's state dict with torch.save",
            )
        _say_left(path, chosen, [str(name) for name in content if name != chosen], choice=len(states) > 1)
        content, key = content[chosen], None if key == chosen else key
    _say_left(path, "every tensor", [name for name in content if not isinstance(content[name], Tensor)])
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    for name, value in tensors.items():
        if value.layout is not torch.strided or value.is_meta or value.is_quantized:
            what = "on the meta device" if value.is_meta else "quantized" if value.is_quantized else "sparse"
            raise CheckpointError(f"{path}: {name} is {what}", hint="save dense tensors of plain numbers")
    content = _without_prefix(tensors)
    if key is not None:
        content = part_of(content, key, source=path)
    return {key: value.float() if value.is_floating_point() else value for key, value in content.items()}


def _read(path: Path) -> dict[str, Any]:
    """What is in a file, or in all that an index of Hugging Face's (``x.safetensors.index.json``) names beside it."""
    if re.search(r"-\d+-of-\d*[2-9]\d*\.", path.name):
        index = re.sub(r"-\d+-of-\d+", "", path.name) + _INDEX
        raise CheckpointError(
            f"{path} has only a part of a model", hint=f"name the index of all parts, {index}"
        )
    if path.name.endswith(_INDEX):
        check_weight_file(path)
        try:
            named = json.loads(path.read_bytes())["weight_map"].values()
            shards = sorted({path.with_name(Path(name).name) for name in named})
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} is no index of weights", hint="fetch it again") from error
        return {name: value for shard in shards for name, value in _read_file(shard).items()}
    return _read_file(path)


def _read_file(path: Path) -> dict[str, Any]:
    return read_safetensors(path) if path.suffix == ".safetensors" else read_pickled_weights(path)


_INDEX = ".index.json"


def _say_left(source: Path, chosen: str, others: Collection[str], *, choice: bool = False) -> None:
    if others:
        how = " (avtool convert --key chooses another)" if choice else ""
        say(f"of {source}, {chosen} is read, and not {', '.join(others)}{how}")


def _is_state(content: Any) -> bool:
    """Tensors by name; plain values may lie among them."""
    return (
        isinstance(content, Mapping)
        and any(isinstance(value, Tensor) for value in content.values())
        and all(
            isinstance(name, str) and isinstance(value, Tensor | int | float | str | None)
            for name, value in content.items()
        )
    )


_WRAPPERS = re.compile(r"\b(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile and others put into names, wherever they wrap a part."""


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors without what wrappers put into their names, or before all of them: ``module.``, ``model.``, ..."""
    state = {_WRAPPERS.sub("", name): value for name, value in state.items()}
    while len(state) > 1:
        parts = [name.split(".") for name in state]
        if len({first for first, *_ in parts}) > 1 or any(
            len(part) < 2 or part[1].isdigit() for part in parts
        ):
            break
        state = {name.partition(".")[2]: value for name, value in state.items()}
    return state


def part_of(state: Mapping[str, Tensor], prefix: str, *, source: Path) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it; it says which others are left out. CheckpointError
    where there are none."""
    begin = f"{prefix}."
    found = {name.removeprefix(begin): value for name, value in state.items() if name.startswith(begin)}
    if not found:
        names = dict.fromkeys(name.partition(".")[0] for name in state)
        raise CheckpointError(
            f"{source} has nothing under {prefix}", hint=f"it has {', '.join(list(names)[:8])}"
        )
    others = dict.fromkeys(name.partition(".")[0] for name in state if not name.startswith(begin))
    _say_left(source, prefix, others)
    return found


def _asked_for(reason: str) -> str | None:
    """What a pickle asks for that torch does not read safely, in torch's many words."""
    found = re.search(
        r"(?:GLOBAL|class|function) '?([\w.]+)", reason.partition("WeightsUnpickler error")[2] or reason
    )
    return found[1] if found else None


def _refused(path: Path, what: str) -> CheckpointError:
    """The error for a pickle that holds ``what`` ("": nobody knows), which is not read."""
    if what:
        return CheckpointError(
            f"{path} is refused: it holds {what}, and nothing is read but tensors, numbers, text, lists and dicts",
            hint="save the state dict alone: torch.save(model.state_dict(), FILE)",
        )
    return CheckpointError(
        f"{path} is refused: it is no file of weights that torch.save wrote, or it is damaged",
        hint="fetch the file again, or save the state dict alone: torch.save(model.state_dict(), FILE)",
    )


def check_weight_file(path: Path) -> None:
    if path.is_dir():
        raise CheckpointError(
            f"{path} is a folder, a file of weights is needed",
            hint="name the .pth or .safetensors file in it",
        )
    if not path.is_file():
        raise CheckpointError(f"no weights at {path}", hint="check the path")
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise CheckpointError(f"{path} is empty", hint="fetch or write it again")
    if found := name_of_other_content(head):
        raise CheckpointError(
            f"{path} is {found} of {path.stat().st_size} bytes, not weights", hint=WAYS_OUT[found]
        )
