"""Models from flat settings, as they stand in a checkpoint's config.json."""

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import nn

from avtool.model.encoder import AudioVisualEncoder, VisionTransformer
from avtool.model.fusion import FusionBlock
from avtool.model.mae import MaskedAutoencoder
from avtool.model.transformer import Block
from avtool.registry import TASKS, resolve

AUTOENCODER, VIT = "autoencoder", "vit"
KINDS = {kind: place for task in TASKS.values() for kind, place in task.kinds.items()}
"""Place of what stands on an encoder, by the ``kind`` in config.json: the tasks' own. Besides there is ``vit``, one
modality's encoder alone."""
OF_TRAINING = ("drop_path", "activation_checkpointing")
"""Settings that change how a model trains and not what it computes: they may be missing."""


def task_of(kind: str) -> str:
    """The task that models of a ``kind`` are evaluated for where nothing else is said."""
    task = next(task for task in TASKS.values() if kind in task.kinds)
    return task.evaluated_by or task.name


def _parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """Keyword arguments and their defaults (``inspect.Parameter.empty`` where there is none)."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name != "encoder"
    }


def known_settings(kind: str) -> dict[str, Any]:
    """The keys of a model of this ``kind`` and their defaults. ValueError for an unknown kind."""
    if kind == VIT:
        return {key: value for key, value in _parameters(VisionTransformer).items() if key not in OF_TRAINING}
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; there are {', '.join([*KINDS, VIT])}")
    return _parameters(AudioVisualEncoder) | _parameters(resolve(KINDS[kind]))


def complete_settings(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` with the defaults of the keys that are not in it, so that what is built never rests on them."""
    defaults = {
        key: value
        for key, value in known_settings(kind).items()
        if value is not inspect.Parameter.empty and key not in OF_TRAINING
    }
    return {**defaults, **settings}


def key_faults(given: Collection[str], known: Collection[str], *, may_miss: Collection[str] = ()) -> str:
    """Unknown and missing keys in words, or nothing."""
    unknown = [
        key + "".join(f" (did you mean {near}?)" for near in difflib.get_close_matches(key, known, n=1))
        for key in given
        if key not in known
    ]
    missing = [key for key in known if key not in given and key not in may_miss]
    parts = (("unknown keys ", unknown), ("missing keys ", missing))
    return "; ".join(what + ", ".join(keys) for what, keys in parts if keys)


def check_settings(kind: str, settings: Mapping[str, Any]) -> None:
    """ValueError that names unknown and missing keys, and widths that the heads do not divide."""
    known = known_settings(kind)
    if faults := key_faults(settings, known, may_miss=OF_TRAINING):
        raise ValueError(faults)
    fused = settings.get("fusion_layers", "none") not in ("none", [])
    widths = {"dim": 1.0, **({"dim x fusion_attn_ratio": settings["fusion_attn_ratio"]} if fused else {})}
    split = [(name, int(settings["dim"] * ratio), "heads") for name, ratio in widths.items()]
    if "decoder_heads" in settings:
        split.append(("decoder_dim", settings["decoder_dim"], "decoder_heads"))
    for name, width, heads in split:
        if settings[heads] < 1 or width % settings[heads]:
            raise ValueError(f"{name} = {width} is not divided by {heads} = {settings[heads]}")


def build_encoder(settings: Mapping[str, Any]) -> AudioVisualEncoder:
    """The encoder alone of any kind's settings but ``vit``'s, without weights of its own."""
    return AudioVisualEncoder(
        **{key: settings[key] for key in _parameters(AudioVisualEncoder) if key in settings}
    )


def build_model(kind: str, settings: Mapping[str, Any]) -> nn.Module:
    """A model from the keyword arguments of ``AudioVisualEncoder`` and of what stands on it, in one flat mapping.

    Its weights are whatever torch puts there: load them, or call ``reset_parameters``. ValueError for unknown keys.
    """
    if unknown := settings.keys() - known_settings(kind).keys():
        raise ValueError(f"unknown keys {', '.join(sorted(unknown))}")
    if kind == VIT:
        return VisionTransformer(**settings, drop_path=[0.0] * settings["depth"])
    head = _parameters(resolve(KINDS[kind]))
    return resolve(KINDS[kind])(
        encoder=build_encoder(settings), **{key: settings[key] for key in head if key in settings}
    )


def build_autoencoder(settings: Mapping[str, Any]) -> MaskedAutoencoder:
    """``build_model`` of a masked autoencoder."""
    model = build_model(AUTOENCODER, settings)
    assert isinstance(model, MaskedAutoencoder)
    return model


def random_model(kind: str, settings: Mapping[str, Any], *, seed: int) -> nn.Module:
    """``build_model`` with random weights, drawn from ``seed`` alone; torch's own generator is left as it is."""
    with torch.random.fork_rng(devices=[]):
        model: Any = build_model(kind, settings)
        torch.manual_seed(seed)
        if hasattr(model, "reset_head"):
            model.encoder.reset_parameters()
            model.reset_head()
        else:
            model.reset_parameters()
    return model


def build_empty_model(kind: str, settings: Mapping[str, Any]) -> nn.Module:
    """``build_model`` on the meta device: shapes and names without memory, for loading weights into."""
    with torch.device("meta"):
        return build_model(kind, settings)


def build_empty(settings: Mapping[str, Any]) -> MaskedAutoencoder:
    """``build_autoencoder`` on the meta device, also for counting."""
    with torch.device("meta"):
        return build_autoencoder(settings)


def compile_blocks(model: nn.Module, *, backend: str = "inductor") -> None:
    """Let torch.compile make the kernels of every transformer and fusion block in ``model``, in place.

    Layers of one shape share their kernels, so that it takes as long as compiling one layer of each kind: the blocks
    are where the time goes, and the graph of a whole model took ten times as long to compile.
    """
    for module in model.modules():
        if isinstance(module, (Block, FusionBlock)):
            module.compile(dynamic=False, backend=backend)


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, trained or not; the encoders' fixed positions are none."""
    return sum(parameter.numel() for parameter in module.parameters())
