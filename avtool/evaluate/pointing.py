"""Evaluation of a model on prepared data: how well its maps point, beside the controls a result needs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from avtool.checkpoint import load_model
from avtool.data.dataset import PreparedDataset
from avtool.data.loader import collate
from avtool.data.views import EvaluationViews, centre_crop, crop_boxes
from avtool.devices import resolve_device
from avtool.errors import DataError
from avtool.features import LogMel, normalize_frames, to_float_waveform, window_samples
from avtool.files import atomic_file
from avtool.metrics.localization import (
    EVALUATION_SIZE,
    binomial_error,
    boxes_to_mask,
    centred_disc,
    exchange_by_class,
    pointing,
)
from avtool.model.build import build_encoder
from avtool.model.config import Config
from avtool.model.encoder import AudioVisualEncoder
from avtool.places import CHECKPOINTS, resolve_checkpoint
from avtool.progress import progress_bar
from avtool.tasks.maps import choose_map, localization_map

LOCALIZATION_JSON = "localization.json"
BATCH_SIZE = 32


@dataclass(frozen=True)
class Localization:
    """Protocol ``pointing`` on one split: shares of ``clips`` images whose highest cell lies inside the
    boxes.

    ``score``: the model's maps of a ``kind``. Controls: ``untrained``, the same model with random weights;
    ``exchanged``, the same weights with the sound of a clip of another class; ``disc``, a centred disc that
    sees and hears nothing; ``anywhere``, a point at random, which is the boxes' mean area. ``left_out`` clips
    have no truth in view, or nothing else.
    """

    checkpoint: str
    kind: str
    data: str
    split: str
    clips: int
    left_out: int
    score: float
    untrained: float
    exchanged: float
    disc: float
    anywhere: float
    protocol: str = "pointing"

    @property
    def error(self) -> float:
        """Binomial standard error of the score."""
        return binomial_error(self.score, self.clips)

    def controls(self) -> dict[str, float]:
        """What the score stands beside, by what was done."""
        return {
            "untrained weights": self.untrained,
            "another class's sound": self.exchanged,
            "a centred disc": self.disc,
            "a point at random": self.anywhere,
        }

    def warning(self) -> str:
        """A sentence where the score is not more than a standard error above every control, else nothing."""
        name, best = max(self.controls().items(), key=lambda control: control[1])
        if self.score > best + self.error:
            return ""
        return (
            f"Not above its controls: on {self.clips} clips of {self.data} ({self.split}) this kind of map "
            f"points to what sounds in {self.score:.1%}, {name} in {best:.1%}."
        )


def evaluate_localization(
    model: Path,
    data: Path,
    *,
    kind: str | None = None,
    split: str = "test",
    device: str = "auto",
    seed: int = 0,
) -> Localization:
    """Point at what sounds in the clips of prepared ``data``, and run the controls.

    ``model`` is a run, a checkpoint or a converted folder, ``kind`` one of ``avtool.tasks.maps.MAPS``
    (None: the model's own). What is seen is the evaluation view: the square in the middle of the frame that
    the boxes were drawn on, and the sound around it. ``seed`` draws the untrained weights and the exchange of
    sounds. DataError where the clips have no boxes or no labels.
    """
    checkpoint = resolve_checkpoint(model)
    target = resolve_device(device)
    dataset = PreparedDataset(data, split)
    truth, chosen = _truth(dataset)
    exchange = exchange_by_class([dataset.record(i).label_ids for i in chosen], seed=seed)
    others = chosen[exchange]
    trained, log_mel, config = load_model(checkpoint, device=target)
    kind = choose_map(trained.encoder, kind)
    untrained = _untrained(config, seed).to(target)
    views = _views(dataset, trained.encoder, log_mel)
    found: dict[str, list[np.ndarray]] = {"score": [], "untrained": [], "exchanged": []}
    with progress_bar("pointing", total=len(chosen), unit="clips") as bar:
        for first in range(0, len(chosen), BATCH_SIZE):
            part = slice(first, first + BATCH_SIZE)
            image, own = _inputs(views, chosen[part], log_mel, target)
            _, other = _inputs(views, others[part], log_mel, target)
            for name, encoder, sound in (
                ("score", trained.encoder, own),
                ("untrained", untrained, own),
                ("exchanged", trained.encoder, other),
            ):
                found[name].append(localization_map(encoder, image, sound, kind=kind).cpu().numpy())
            bar.advance(len(image))
    blind = np.broadcast_to(centred_disc(EVALUATION_SIZE), truth.shape)
    return Localization(
        checkpoint=checkpoint.name,
        kind=kind,
        data=dataset.name,
        split=split,
        clips=len(chosen),
        left_out=len(dataset) - len(chosen),
        **{name: pointing(np.concatenate(maps), truth) for name, maps in found.items()},
        disc=pointing(blind, truth),
        anywhere=float(truth.mean()),
    )


def _truth(dataset: PreparedDataset) -> tuple[np.ndarray, np.ndarray]:
    """Masks (B, 224, 224) of the clips where one can point right and wrong, and those clips' numbers (B,)."""
    masks, chosen = [], []
    for i in range(len(dataset)):
        record = dataset.record(i)
        size = record.width, record.height
        mask = boxes_to_mask(EVALUATION_SIZE, crop_boxes(record.boxes, centre_crop(*size), *size))
        if mask.any() and not mask.all():
            masks.append(mask)
            chosen.append(i)
    if not chosen:
        raise DataError(
            f"{dataset.folder}: no clip of split {dataset.split} has boxes to point at",
            hint="prepare data with boxes: avtool prepare synth",
        )
    return np.stack(masks), np.array(chosen)


def _untrained(config: Config, seed: int) -> AudioVisualEncoder:
    """The same encoder with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = build_encoder(config.model)
        encoder.reset_parameters()
    return encoder.eval()


def _views(dataset: PreparedDataset, encoder: AudioVisualEncoder, log_mel: LogMel) -> EvaluationViews:
    """Frames and windows of sound of the size that the encoder was made for."""
    rows, columns = (side * encoder.patch_size for side in encoder.image_grid)
    samples = window_samples(encoder.audio_grid[1] * encoder.patch_size, log_mel.hop)
    return EvaluationViews(dataset, image_size=(rows, columns), window_samples=samples)


def _inputs(
    views: EvaluationViews, clips: np.ndarray, log_mel: LogMel, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames and log-mels of some clips, as the encoder takes them."""
    batch = collate([views.sample(int(i)) for i in clips])
    return (
        normalize_frames(batch["image"].to(device)),
        log_mel(to_float_waveform(batch["waveform"].to(device))),
    )


def _place(checkpoint: Path) -> Path:
    """Where the evaluation of a checkpoint is kept: in its run, or in its folder where it is of no run."""
    folder = checkpoint.parent.parent if checkpoint.parent.name == CHECKPOINTS else checkpoint
    return folder / LOCALIZATION_JSON


def keep_localization(model: Path, result: Localization) -> Path:
    """Write localization.json beside the model, where ``avtool localize`` finds its warning; returns its
    path.
    """
    path = _place(resolve_checkpoint(model))
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")
    return path


def kept_localization(model: Path, kind: str) -> Localization | None:
    """What was kept beside the model for this checkpoint and kind of map, if anything. DataError where
    broken.
    """
    checkpoint = resolve_checkpoint(model)
    path = _place(checkpoint)
    if not path.is_file():
        return None
    try:
        result = Localization(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is broken: {error}", hint=f"remove {path}") from error
    return result if (result.checkpoint, result.kind) == (checkpoint.name, kind) else None
