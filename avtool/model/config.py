"""config.json: what a checkpoint says of its model, and whether a model can be so."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from avtool.errors import CheckpointError
from avtool.features import LogMel, window_samples
from avtool.model.build import AUTOENCODER, KINDS, VIT, check_settings, complete_settings, key_faults
from avtool.model.localization import ENCODINGS, UNIMODAL

FORMAT = 1


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

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of the frames that the model was made for."""
        rows, columns = self.model["image_size"]
        return rows, columns

    @property
    def rate(self) -> int:
        """Samples a second of what it hears."""
        return self.spectrogram["sample_rate"]

    @property
    def window(self) -> int:
        """Samples that it hears at once."""
        return window_samples(self.model["audio_size"][1], self.spectrogram["hop"])

    def complete(self) -> Config:
        """The same with every default spelt out."""
        model = complete_settings(self.kind, self.model)
        if self.kind == VIT:
            return replace(self, model=model)
        spectrogram = {**_SPECTROGRAM, "mels": model["audio_size"][0], **self.spectrogram}
        return replace(self, model=model, spectrogram=spectrogram)

    @classmethod
    def read(cls, folder: Path) -> Config:
        """CheckpointError where config.json is missing or is not JSON, or a key or value in it is not what it should
        be."""
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
        if "format" in content and content["format"] != FORMAT:
            raise CheckpointError(
                f"{path}: format is {content['format']!r}; this version reads format {FORMAT}",
                hint="install the avtool version that wrote it",
            )
        model = content.get("model")
        if isinstance(model, dict) and "way" in model:  # as it was called
            model["encoding"] = {"two-pass": UNIMODAL}.get(way := model.pop("way"), way)
        if faults := key_faults(content, cls.__dataclass_fields__):
            raise CheckpointError(
                f"{path} does not fit this version: {faults}",
                hint="take the folder of an avtool run, or install the version that wrote it",
            )
        config = cls(**content)
        if fault := config.fault():
            raise CheckpointError(f"{path}: {fault}", hint="take an undamaged copy, or correct that file")
        return config

    def fault(self) -> str | None:
        """The first key or value that cannot be, in words; None where all can."""
        if not isinstance(self.kind, str) or self.kind not in (*KINDS, VIT):
            return f"unknown kind {self.kind!r:.60}; there are {', '.join((*KINDS, VIT))}"
        if not isinstance(self.origin, str):
            return f"origin is {self.origin!r:.60}, not text"
        for name in ("model", "spectrogram"):
            section = getattr(self, name)
            if not isinstance(section, dict):
                return f"{name} is {section!r:.60}, no table of keys and values"
            for key, value in section.items():
                if key in FORMS and not FORMS[key].holds(value):
                    return f"{name}.{key} is {value!r:.60}, not {FORMS[key].words}"
        return self._model_fault() or self._spectrogram_fault()

    def _model_fault(self) -> str | None:
        try:
            check_settings(self.kind, self.model)
        except ValueError as error:
            return f"model: {error}"
        for key in ("image_size", "audio_size"):
            patch = self.model["patch_size"]
            if any(side % patch for side in self.model.get(key, ())):
                return f"model.{key} is {list(self.model[key])}, which model.patch_size = {patch} does not divide"
        return None

    def _spectrogram_fault(self) -> str | None:
        if faults := key_faults(self.spectrogram, () if self.kind == VIT else _SPECTROGRAM):
            return f"spectrogram: {faults}"
        if self.kind != VIT and self.spectrogram["mels"] != (bands := self.model["audio_size"][0]):
            return (
                f"it disagrees with itself: spectrogram.mels is {self.spectrogram['mels']}, "
                f"model.audio_size has {bands} mel bands"
            )
        return None


_SPECTROGRAM = {name: given.default for name, given in inspect.signature(LogMel).parameters.items()}
"""The keys of a spectrogram, and their defaults."""


class Form(NamedTuple):
    """What a value in config.json has to be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def _is_whole(value: Any, least: int = 1) -> bool:
    return type(value) is int and value >= least  # True and False are integers too


def _are_whole(values: Any, count: int | None, least: int) -> bool:
    return (
        isinstance(values, list | tuple)
        and count in (None, len(values))
        and all(_is_whole(value, least) for value in values)
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


_WHOLE = Form("a whole number of at least 1", _is_whole)
_SIZE = Form("two whole numbers of at least 1, as [128, 192]", lambda value: _are_whole(value, 2, 1))
_RATIO = Form("a number above 0", lambda value: _is_number(value) and value > 0)
_SHARE = Form("a number between 0 and 1", lambda value: _is_number(value) and 0 < value < 1)
FORMS = {
    "image_size": _SIZE,
    "audio_size": _SIZE,
    "patch_size": _WHOLE,
    "channels": _WHOLE,
    "dim": _WHOLE,
    "depth": _WHOLE,
    "heads": _WHOLE,
    "mlp_ratio": _RATIO,
    "fusion": Form("text, as factorized", lambda value: isinstance(value, str)),
    "fusion_layers": Form(
        "all, none or a list of layers, as [0, 2]",
        lambda value: value in ("all", "none") or _are_whole(value, None, 0),
    ),
    "fusion_tokens": Form(
        "three whole numbers of at least 0, as [16, 8, 8]", lambda value: _are_whole(value, 3, 0)
    ),
    "fusion_attn_ratio": _RATIO,
    "fusion_mlp_ratio": _RATIO,
    "drop_path": Form("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1),
    "activation_checkpointing": Form("true or false", lambda value: isinstance(value, bool)),
    "decoder_dim": _WHOLE,
    "decoder_depth": _WHOLE,
    "decoder_heads": _WHOLE,
    "image_mask_ratio": _SHARE,
    "audio_mask_ratio": _SHARE,
    "classes": _WHOLE,
    "encoding": Form("unimodal or joint", lambda value: value in ENCODINGS),
    "width": _WHOLE,
    "blank_share": Form("a number above 0 and at most 1", lambda value: _is_number(value) and 0 < value <= 1),
    "sample_rate": _WHOLE,
    "n_fft": _WHOLE,
    "hop": _WHOLE,
    "mels": _WHOLE,
}
"""Every key of ``model`` and of ``spectrogram``."""


def read_model_config(folder: Path) -> Config:
    """``Config.read`` of a model that has an ``encoder``: CheckpointError for the encoder of one modality alone."""
    config = Config.read(folder)
    if config.kind == VIT:
        raise CheckpointError(
            f"{folder} holds the encoder of one modality alone, a starting point for pretraining",
            hint=f"avtool pretrain --recipe factorized init.image={folder} (or init.audio), or name another model",
        )
    return config
