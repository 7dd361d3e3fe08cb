"""What ``localize`` finds. Is it the sound? A clip's maps beside those of the same frames with silence and with another
sound."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from avtool.features import silence
from avtool.inputs import fit_window, white_noise, window_around
from avtool.media import read_waveform
from avtool.predict import Chosen
from avtool.tasks.localize.maps import choose_map, localization_map
from avtool.tasks.localize.pointing import kept_localization

OWN, SILENT, NOISE = "own sound", "silence", "white noise"


class Control(NamedTuple):
    """What maps do with a sound. ``marked``: the share of all their cells from the middle between the lowest and the
    highest value of the own sound's maps on; ``moved``: 1 - the correlation of a map's cells with those of the own
    sound's, the mean over maps: 0 where it does not matter what is heard. A constant map correlates with nothing."""

    marked: float
    moved: float


def controls_of(maps: dict[str, np.ndarray]) -> dict[str, Control]:
    """Of ``maps`` float32 (T, rows, columns) by sound, ``OWN`` among them."""
    own = maps[OWN].reshape(len(maps[OWN]), -1).astype(np.float64)
    middle = (own.min() + own.max()) / 2
    found = {}
    for name, values in maps.items():
        flat = values.reshape(own.shape).astype(np.float64)
        a, b = (part - part.mean(axis=1, keepdims=True) for part in (own, flat))
        norm = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
        alike = np.divide((a * b).sum(axis=1), norm, out=np.zeros(len(norm)), where=norm > 0)
        found[name] = Control(float((flat >= middle).mean()), 0.0 if name == OWN else float(1 - alike.mean()))
    return found


def in_words(name: str, control: Control) -> str:
    """A line about what maps do with a sound."""
    moved = "" if name == OWN else f"; moved by {control.moved:.2f} (0: not at all, 1: nothing in common)"
    return f"{name}: {control.marked:.1%} of the frame marked{moved}"


@dataclass(frozen=True)
class LocalizationResult:
    """What ``localize`` found. ``maps``: float32 (T, rows, columns) over the model's patches at ``times`` (T,) seconds,
    in the units of their ``kind`` (see ``avtool.tasks.localize.maps``), not normalised; by what was heard, "own sound"
    first. ``controls``: what they do with each sound, where that was asked for. ``model``: the checkpoint folder.
    ``warning``: what speaks against the map. Of a single frame also ``frame``, uint8 (H, W, 3) RGB, and ``map``,
    float32 (H, W), with the own sound."""

    maps: dict[str, np.ndarray]
    times: np.ndarray
    kind: str
    model: Path
    warning: str
    controls: dict[str, Control]
    frame: np.ndarray | None = None
    map: np.ndarray | None = None

    @property
    def time(self) -> float:
        """Of the (first) frame, in seconds; for a picture that of the middle of the sound."""
        return float(self.times[0])


class Sounds:
    """What is heard in place of a clip's own sound: nothing else, or with ``controls`` also silence and the sound of
    the file ``other``, from its beginning again where it ends first (None: white noise as loud as what it replaces).
    ``kind``: of map (None: the model's own)."""

    def __init__(self, chosen: Chosen, kind: str | None, *, controls: bool, other: Path | None) -> None:
        self.chosen, self.controls = chosen, controls
        self.kind = choose_map(chosen.module, kind)
        self.name, self.other = NOISE, None
        if other is not None:
            self.name = f"sound of {other.name}"
            self.other = read_waveform(other, sample_rate=chosen.config.rate)

    @torch.no_grad()
    def maps(
        self, views: list[np.ndarray], windows: list[np.ndarray], times: list[float]
    ) -> dict[str, np.ndarray]:
        """By sound the maps float32 (B, rows, columns) of the frames ``views`` uint8 (3, rows, columns), of which
        ``windows`` int16 (N,) around ``times`` in seconds are the own sounds."""
        heard = {OWN: windows}
        if self.controls:
            heard |= {SILENT: windows, self.name: list(map(self._instead, windows, times))}
        found = {}
        for name, sounds in heard.items():
            image, audio = self.chosen.inputs(views, sounds)
            audio = silence(audio) if name == SILENT else audio
            maps = localization_map(self.chosen.module, image, audio, kind=self.kind)
            found[name] = self.chosen.check_finite(maps, "maps").cpu().numpy()
        return found

    def _instead(self, window: np.ndarray, time: float) -> np.ndarray:
        if self.other is None:
            return white_noise(window, np.random.default_rng(round(time * 1000)))
        moment = round(time * self.chosen.config.rate) % len(self.other)
        start = window_around(moment, len(window), len(self.other))
        return fit_window(self.other[start:], len(window))

    def result(self, maps: dict[str, np.ndarray], times: Sequence[float]) -> LocalizationResult:
        """What ``maps`` by sound, at ``times`` in seconds, say."""
        kept = kept_localization(self.chosen.checkpoint, self.kind)
        return LocalizationResult(
            maps,
            np.asarray(times),
            self.kind,
            self.chosen.checkpoint,
            kept.warning() if kept else "",
            controls_of(maps) if len(maps) > 1 else {},
        )
