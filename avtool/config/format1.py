"""config.json as versions before format 2 wrote it: a model's arguments in one table, some under other names."""

from pathlib import Path
from typing import Any

from avtool.config.checkpoint import FORMAT, MEND, divided
from avtool.config.types import argument
from avtool.errors import CheckpointError
from avtool.registry import VIT

RENAMED = {"image_mask_ratio": "mask_ratio_image", "audio_mask_ratio": "mask_ratio_audio"}
OF_TRAINING = ("drop_path", "activation_checkpointing")
"""Arguments that change how a model trains and not what it computes."""


def upgraded(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """``content`` of format 1 and of a known kind in the form of format 2; a key of no known name stays in ``model``.

    CheckpointError where the spectrogram has other mel bands than the model.
    """
    model, spectrogram = content.get("model", {}), content.get("spectrogram", {})
    for name, section in (("model", model), ("spectrogram", spectrogram)):
        if not isinstance(section, dict):
            raise CheckpointError(
                f"{path}: {name} is {section!r:.60}: it should be a section with keys of its own", hint=MEND
            )
    arguments = {RENAMED.get(key, key): value for key, value in model.items() if key not in OF_TRAINING}
    if "way" in arguments:  # older still
        way = arguments.pop("way")
        arguments["encoding"] = "unimodal" if way == "two-pass" else way
    heard = {key: value for key, value in spectrogram.items() if key != "mels"}
    match arguments.get("audio_size"), spectrogram.get("mels"):
        case [bands, _], mels if mels not in (None, bands):
            raise CheckpointError(
                f"{path}: it disagrees with itself: spectrogram.mels is {mels}, model.audio_size has {bands} mel bands",
                hint=MEND,
            )
    return {
        **content,
        "format": FORMAT,
        **divided(content["kind"], arguments),
        "spectrogram": None if content["kind"] == VIT else heard,
    }


def called(dotted: str) -> str:
    """The name in format 1 of a key of format 2."""
    section, *names = dotted.split(".")
    if section not in ("model", "head") or not names:
        return dotted
    key = argument(*names)
    return f"model.{next((old for old, new in RENAMED.items() if new == key), key)}"
