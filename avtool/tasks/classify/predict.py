"""What a clip is of: the Python API behind ``avtool classify``."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from avtool.clip import PICTURE, SOUND
from avtool.devices import resolve_device
from avtool.predict import Chosen, Clips, Failed, choose_model
from avtool.tasks.names import ClassNames

HEADS = {"": "mean", PICTURE: "audio", SOUND: "image"}
"""Which prediction holds, by what a clip lacks."""


@dataclass(frozen=True)
class ClassificationResult:
    """What ``classify`` says of a clip. ``probabilities`` float64 (C,) of its classes, from the logits' mean over
    windows; ``over_time`` (W, C) those of each window, of ``times`` (W, 2) from start to end in seconds. ``names`` of
    the classes: their numbers where the model has no names. ``lacks``: picture or sound, where the clip has none and
    the head of the other one alone has predicted."""

    clip: Path
    names: Sequence[str]
    probabilities: np.ndarray
    times: np.ndarray
    over_time: np.ndarray
    lacks: str = ""

    def top(self, count: int, window: int | None = None) -> list[tuple[str, float]]:
        """The ``count`` likeliest classes of the clip, or of one ``window``, with their probabilities."""
        chosen = self.probabilities if window is None else self.over_time[window]
        order = np.argsort(-chosen, kind="stable")[:count]
        return [(self.names[k], float(chosen[k])) for k in order]


def classify(
    clips: Sequence[Path],
    *,
    audio: Path | None = None,
    model: Path | Chosen | None = None,
    every: float | None = None,
    device: str = "auto",
    failed: Failed | None = None,
) -> Iterator[ClassificationResult]:
    """The classes of each of ``clips``, one after the other: videos, or one picture with the sound file ``audio``. Of a
    sound or a picture alone, or a video without sound, the head of what there is predicts, with the other one blank.

    A clip longer than the model's window is heard in windows, one ``every`` so many seconds (None: half a window).
    Probabilities are a softmax over classes, or of each class alone where the model was trained on clips of several.
    ``model``: a run, checkpoint or converted folder (None: see ``avtool.places.find_model``), or what ``choose_model``
    gave.

    A clip that cannot be used is told to ``failed`` and left out, or raised where that is None. The weights are loaded
    once the first clip is found to be usable. AvtoolError where the model is no classifier.
    """
    chosen = choose_model(model, device=resolve_device(device), task="classify")
    half = chosen.config.window / chosen.config.rate / 2
    return _classified(Clips(clips, audio, every or half, failed, alone=True), chosen)


def _classified(clips: Clips, chosen: Chosen) -> Iterator[ClassificationResult]:
    names = ClassNames.of(chosen.checkpoint, count=chosen.config.head.classes)
    share: Callable[..., Tensor] = torch.sigmoid if names.several else partial(torch.softmax, dim=-1)
    for clip, times, results, lacks in clips.compute(chosen, _logits):
        logits = torch.from_numpy(results[HEADS[lacks]]).double()
        whole, each = share(logits.mean(dim=0)).numpy(), share(logits).numpy()
        yield ClassificationResult(clip, names.names, whole, times, each, lacks)


def _logits(model: nn.Module, image: Tensor, audio: Tensor) -> dict[str, Tensor]:
    """The predictions of windows (W, C), of each head and fused."""
    return model(image, audio)._asdict()
