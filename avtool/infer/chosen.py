"""The model that a command on one's own clips runs: which it is, and what it was trained on."""

from __future__ import annotations

from pathlib import Path

from avtool.errors import CheckpointError
from avtool.model.config import Config, read_model_config
from avtool.places import find_model, run_of
from avtool.progress import say, warn
from avtool.tracking import read_run_facts


def choose_model(model: Path | None) -> tuple[Path, Config]:
    """The checkpoint folder that ``model`` (None: see ``avtool.places.find_model``) means and its config.json, once it
    is said which it is, where it was found and what it was trained on. AvtoolError where it cannot be used."""
    checkpoint, found = find_model(model)
    say(f"model {checkpoint} (from {found})")
    config = read_model_config(checkpoint)
    say(f"  {config.origin}{_trained_on(checkpoint)}")
    return checkpoint, config


def _trained_on(checkpoint: Path) -> str:
    """Number, place and sum of the clips that the run of a checkpoint was trained on, as far as its run.json says."""
    run = run_of(checkpoint)
    try:
        data = read_run_facts(run).get("data") if run is not None else None
    except CheckpointError as error:
        warn(error.message)  # the weights are no worse for it
        return ""
    if not isinstance(data, dict) or not {"trained_on", "folder", "checksum"} <= data.keys():
        return ""
    return (
        f"; trained on {data['trained_on']} clips of {data['folder']}, checksum {str(data['checksum'])[:12]}"
    )
