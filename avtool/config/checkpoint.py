"""config.json: what a checkpoint says of its model, in the sections that recipes have too (format 2)."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, create_model

from avtool.config.model import Encoder, Spectrogram, Vit
from avtool.config.types import Section, flat, keys, nested, section_in
from avtool.errors import CheckpointError
from avtool.registry import VIT, kinds, resolve

FORMAT: Literal[2] = 2


class Config(Section):
    """What config.json holds.

    ``kind`` is one of ``avtool.registry.kinds``, or ``vit``. ``model`` is the encoder's section of a recipe, ``head``
    the section that the kind's task names, and ``spectrogram`` a recipe's, None for the encoder of one modality.
    ``origin`` says in words where the weights come from. Every key is written, and has to be there where one is read.
    ``config_of`` has the class for each kind, which knows the types of these sections.
    """

    format: Literal[2] = FORMAT
    """which form config.json has"""
    kind: str
    """what is built, as autoencoder"""
    origin: str
    """where the weights come from"""
    model: Any
    """the encoder"""
    head: Any
    """what stands on it"""
    spectrogram: Any
    """how sound becomes a log-mel"""

    @property
    def settings(self) -> dict[str, Any]:
        """The keyword arguments of ``avtool.model.build``: the encoder's and those of what stands on it."""
        return flat(self.model) | flat(self.head)

    @property
    def log_mel(self) -> dict[str, Any]:
        """The keyword arguments of ``LogMel``."""
        return {**flat(self.spectrogram), "mels": self.model.audio_size[0]}

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of the frames that the model was made for."""
        return self.model.image_size

    @property
    def rate(self) -> int:
        """Samples a second of what it hears."""
        return self.spectrogram.sample_rate

    @property
    def window(self) -> int:
        """Samples that it hears at once."""
        return self.spectrogram.window(self.model.audio_size[1])


@cache
def config_of(kind: str) -> type[Config]:
    """The class of config.json of a ``kind`` of models."""
    types: tuple[Any, ...] = (Vit, Section, None)
    if kind != VIT:
        types = (Encoder, resolve(kinds()[kind].head), Spectrogram)
    sections = dict(zip(("model", "head", "spectrogram"), types, strict=True))
    fields: dict[str, Any] = {
        name: (section, Field(description=Config.model_fields[name].description))
        for name, section in sections.items()
    }
    return create_model("Config", __base__=Config, **fields)


def divided(kind: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of config.json that hold the keyword ``arguments`` of a ``kind`` of model and of its ``LogMel``;
    what is of none of them stays in ``model``."""
    left = dict(arguments)
    found: dict[str, Any] = {}
    for name in ("spectrogram", "head", "model"):
        section = section_in(config_of(kind).model_fields[name].annotation)
        found[name] = section and nested(section, left)
    return {**found, "model": {**found["model"], **left}}


def read_config(folder: Path) -> Config:
    """What config.json in ``folder`` says of any kind of model. CheckpointError where it is missing or is not JSON, or
    a key or value in it is not what it should be."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no config.json", hint="name a folder that avtool wrote")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}", hint="take an undamaged copy") from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} is no table of keys and values", hint="take the config.json of an avtool run"
        )
    if "format" in content and content["format"] not in (1, FORMAT):
        raise CheckpointError(
            f"{path}: format is {content['format']!r}; this version reads formats 1 and {FORMAT}",
            hint="install the avtool version that wrote it",
        )
    kind = content.get("kind")
    if not isinstance(kind, str) or kind not in (*kinds(), VIT):
        what = f"unknown kind {kind!r:.60}" if "kind" in content else "kind is missing"
        raise CheckpointError(f"{path}: {what}; there are {', '.join((*kinds(), VIT))}", hint=MEND)
    called: Callable[[str], str] = str
    if content.get("format") == 1:
        from avtool.config import format1

        content, called = format1.upgraded(content, path), format1.called
    wanted = config_of(kind)
    missing = ", ".join(map(called, _missing(wanted, content)))
    try:
        config = wanted.model_validate(content)
    except ValidationError as error:
        from avtool.config.values import explain

        wrong = explain(error, content, dict(keys(wanted)), called=called)
        if wrong.unknown or not missing:  # a default in the place of what is missing may be what does not fit
            raise CheckpointError(f"{path}: {wrong.message}", hint=f"{wrong.hint}; {MEND}") from error
    if missing:
        raise CheckpointError(f"{path} lacks {missing}", hint=MEND)
    return config


MEND = "take an undamaged copy, install the avtool version that wrote it, or correct that file"


LATER = {"map_scale", "map_shifts", "rank", "decoder_width"}
"""Keys that older checkpoints lack: their models do what the default says."""


def _missing(section: type[Section], values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The keys of ``section`` that have no value."""
    for name, field in section.model_fields.items():
        if name not in values and not field.exclude and name not in LATER:
            yield prefix + name
        elif (inner := section_in(field.annotation)) and isinstance(values.get(name), dict):
            yield from _missing(inner, values[name], f"{prefix}{name}.")


def read_model_config(folder: Path) -> Config:
    """``read_config`` of a model that has an ``encoder``: CheckpointError for the encoder of one modality alone."""
    config = read_config(folder)
    if config.kind == VIT:
        raise CheckpointError(
            f"{folder} holds the encoder of one modality alone, a starting point for pretraining",
            hint=f"avtool pretrain --recipe factorized init.image={folder} (or init.audio), or name another model",
        )
    return config
