"""Protocol ``negative-audio`` of localization and segmentation: is nothing marked when nothing in view sounds?

Every frame is judged with its own sound and with sounds that nothing in view makes, under one threshold. Where the data
know of a frame that nothing in view makes its own sound, that is one of these.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from avtool.data import parts
from avtool.data.dataset import PreparedDataset
from avtool.data.views import FixedViews, NegativeViews
from avtool.errors import NotFinite
from avtool.features import LogMel, inputs_of, silence, to_float_waveform
from avtool.metrics.localization import ANOTHER_CLASS, EVALUATION_SIZE, centred_disc, exchange_sounds
from avtool.metrics.negatives import balanced_threshold, separation_auc
from avtool.tasks.context import Context
from avtool.tasks.table import CEILING, CONTROL, FLOOR, MODEL, UNTRAINED, Row, Table

PROTOCOL = "negative-audio"
OWN, SILENT, NOISE, OFF_SCREEN = "own sound", "silence", "noise", "off-screen sound"
EMPTY = "own sound, nothing in view makes it"
VALIDATION, HELD_OUT = "validation", 0.1
"""The split that the threshold is chosen on; where there is none, the share of the training recordings that fine-tuning
holds out where nothing else is said."""
DISC_LEVEL = 0.5
DRAWS = 200
WORDS = (
    "a pixel is marked where the map reaches a threshold, the same for all sounds: it tells frames in which something "
    "is marked with their own sound from those with each other sound with the highest balanced accuracy on {count} "
    "samples of split {split}, {which}; marked: mean share of the frame; AUC: of the map's maximum, own sound against "
    "that one; noise: white, as loud as the clip; maps at "
    f"{EVALUATION_SIZE[0]}x{EVALUATION_SIZE[1]}, upsampled bilinearly"
)
Maps = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
"""Frames and log-mels as a model takes them -> maps (B, rows, columns) by name, of any scale. Names that end in
``UNTRAINED`` are controls."""


class Samples(NamedTuple):
    """Frames to judge: ``numbers`` int64 (N,) of ``views`` and the ``clips`` int64 (N,) of ``dataset`` they are of."""

    dataset: PreparedDataset
    views: FixedViews
    numbers: np.ndarray
    clips: np.ndarray

    def part(self, kept: np.ndarray) -> Self:
        """Those that are ``kept``, bool (N,)."""
        return self._replace(numbers=self.numbers[kept], clips=self.clips[kept])

    def recordings(self) -> list[str]:
        """What each was recorded in."""
        return [self.dataset.recording(int(i)) for i in self.clips]


def validation_clips(context: Context) -> tuple[PreparedDataset, np.ndarray, str]:
    """The clips to choose a threshold on, and which these are in words. DataError where all clips are judged."""
    dataset, clips = context.unjudged(VALIDATION, "train", purpose="to choose a threshold on")
    if dataset.split == VALIDATION:
        return dataset, clips, "all of it"
    held_out = parts.held_out(*parts.recordings(dataset, clips), HELD_OUT)
    if not held_out.any():
        which = "all that are not judged, for its classes have too few recordings to hold any out"
        return dataset, clips, which
    return dataset, clips[held_out], f"the {HELD_OUT:.0%} of its recordings that fine-tuning holds out"


def negative_table(
    context: Context,
    maps: Maps,
    log_mel: LogMel,
    judged: Samples,
    validation: Samples,
    *,
    which: str,
    task: str,
    truth: np.ndarray,
    left_out: Mapping[str, int],
    level: Callable[[float], float] = float,
) -> list[Table]:
    """The table of the ``judged`` samples under the thresholds chosen on ``validation``, as ``which`` says in words:
    every map with each sound, beside a blind disc, a constant map and the ``truth``, which covers the shares (N,) of
    the frames. Where that is 0, nothing in view makes the own sound, which is one more that no map should answer. None
    ([]) but on rank 0. ``level``: of a threshold, as it is shown."""
    if PROTOCOL not in context.shared:
        context.shared[PROTOCOL] = _thresholds(context, maps, log_mel, validation)
    thresholds: dict[str, float] = context.shared[PROTOCOL]
    there = truth > 0
    sounding, empty = judged.part(there), judged.part(~there)
    every, notes = _heard(context, maps, log_mel, sounding, thresholds)
    for name, found in _heard(context, maps, log_mel, empty, thresholds, alone=True)[0].items():
        every.setdefault(name, {})[EMPTY] = found[OWN]
    if not context.world.main:
        return []
    recordings, others = sounding.recordings(), empty.recordings()
    everything = [*recordings, *others]
    context.predictions["negative-audio clips"] = sounding.clips
    if others:
        context.predictions["negative-audio empty clips"] = empty.clips
    context.predictions |= {
        f"{part}: {name}, {sound}": value[:, column]
        for name, found in every.items()
        for sound, value in found.items()
        for column, part in enumerate(("maximum", "marked"))
    }

    def row(name: str, role: str, own: np.ndarray, heard: np.ndarray, of: Sequence[str] = recordings) -> Row:
        """The row of a sound: maximum and marked share of every sample with it, ``heard`` (N, 2), and with its own."""
        known = np.flatnonzero(~np.isnan(heard[:, 0]))
        own, heard, names = own[known, 0], heard[known], [of[int(i)] for i in known]
        measures = {"marked": context.measured(heard[:, 1], names)}
        if not name.endswith(OWN) and recordings:
            auc = context.measured_whole(
                lambda chosen: separation_auc(own[chosen], heard[chosen, 0]), names, draws=DRAWS
            )
            measures["AUC"] = auc
        return Row(name, role, measures)

    def row_of_empty(name: str, role: str, own: np.ndarray, heard: np.ndarray) -> Row:
        """The same of the empty samples, ``heard`` (M, 2), which are others than those of ``own`` (N, 2)."""
        measures = {"marked": context.measured(heard[:, 1], others)}
        scores, first = np.concatenate([own[:, 0], heard[:, 0]]), len(own)
        if recordings:
            measures["AUC"] = context.measured_whole(
                lambda chosen: separation_auc(
                    scores[chosen[chosen < first]], scores[chosen[chosen >= first]]
                ),
                everything,
                draws=DRAWS,
            )
        return Row(name, role, measures)

    rows = []
    for name, found in every.items():
        role, own = CONTROL if name.endswith(UNTRAINED) else MODEL, found.get(OWN, np.zeros((0, 2)))
        for sound, heard in found.items():
            make = row_of_empty if sound == EMPTY else row
            rows.append(make(f"{name}, {sound}", role, own, heard))
    disc = (centred_disc(EVALUATION_SIZE) >= DISC_LEVEL).mean()
    for name, share in (("a centred disc", disc), ("a constant map", 1.0)):
        blind = np.tile([1.0, share], (len(everything), 1))
        rows.append(row(f"{name}, any sound", FLOOR, blind, blind, everything))
    ideal, names = np.stack([there, truth], axis=1), others
    if recordings:
        ideal, names = ideal[there], recordings
        rows.append(row(f"the truth itself, {OWN}", CEILING, ideal, ideal))
    rows.append(row("the truth itself, any other sound", CEILING, ideal, np.zeros_like(ideal), names))
    at = ", ".join(f"{name} {level(value):.3g}" for name, value in thresholds.items())
    words = WORDS.format(count=len(validation.numbers), split=validation.dataset.split, which=which)
    notes = [f"Thresholds: {at}; a centred disc {DISC_LEVEL:g}.", *notes]
    return [context.table(task, PROTOCOL, words, rows, everything, left_out=left_out, notes=notes)]


def _thresholds(context: Context, maps: Maps, log_mel: LogMel, validation: Samples) -> dict[str, float]:
    """By map, on every rank."""
    thresholds = {
        name: balanced_threshold(
            found[OWN][:, 0], [value[:, 0] for sound, value in found.items() if sound != OWN]
        )
        for name, found in _heard(context, maps, log_mel, validation, {})[0].items()
    }
    return context.world.gather(thresholds)[0]


def _heard(
    context: Context,
    maps: Maps,
    log_mel: LogMel,
    samples: Samples,
    thresholds: Mapping[str, float],
    *,
    alone: bool = False,
) -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
    """By map and sound, the map's maximum and the share of the frame that reaches its threshold, float64 (N, 2), NaN
    where a sample has no such sound; and notes on the sounds. On rank 0, elsewhere there are none. ``alone``: of the
    samples' own sounds."""
    if not len(samples.numbers):
        return {}, []
    others, notes = ({}, []) if alone else _other_sounds(samples, seed=context.seed)
    places = np.arange(len(samples.numbers))
    missing = {name: other < 0 for name, other in others.items()}
    filled = [np.where(missing[name], places, other) for name, other in others.items()]
    views = NegativeViews(
        samples.views, samples.numbers, np.stack([places, *filled], axis=1)[:, 1:], context.seed
    )

    def compute(batch: dict[str, Tensor]) -> dict[tuple[str, str], Tensor]:
        image, own = inputs_of(log_mel, batch)
        heard = {OWN: own} if alone else {OWN: own, SILENT: silence(own)}
        for k, name in enumerate(() if alone else (NOISE, *others)):
            heard[name] = log_mel(to_float_waveform(batch["other_waveform"][:, k]))
        found = {}
        for sound, audio in heard.items():
            for name, grid in maps(image, audio).items():
                found[name, sound] = _summary(grid, thresholds.get(name, float("inf")))
        return found

    every: dict[str, dict[str, np.ndarray]] = {}
    for (name, sound), values in context.each(views, places, compute).items():
        values[missing.get(sound, False)] = np.nan
        every.setdefault(name, {})[sound] = values
    return every, notes


def _summary(maps: Tensor, threshold: float) -> Tensor:
    """The maximum of each of the ``maps`` (B, rows, columns) at the evaluation size, and the share of its pixels that
    reach ``threshold``: float64 (B, 2). NotFinite."""
    if not maps.isfinite().all():
        raise NotFinite("a map holds values that are not finite")
    fine = F.interpolate(
        maps.unsqueeze(1).double(), EVALUATION_SIZE, mode="bilinear", align_corners=False
    ).flatten(1)
    return torch.stack([fine.amax(dim=1), (fine >= threshold).double().mean(dim=1)], dim=1)


def _other_sounds(samples: Samples, *, seed: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """By name, whose sound each sample is given, places int64 (N,), -1 for none; and notes on them."""
    dataset, clips = samples.dataset, samples.clips
    labels = [dataset.record(int(i)).label_ids for i in clips]
    exchange = exchange_sounds(labels, samples.recordings(), clips.tolist(), seed=seed)
    notes, others = list(exchange.notes), {}
    if exchange.sounds is not None:
        others[exchange.called] = exchange.sounds
    in_view = _in_view(dataset, clips)
    if in_view is None:
        return others, [*notes, f"No row with {OFF_SCREEN}: the data do not say what is in view."]
    has = np.zeros_like(in_view)
    for i, own in enumerate(labels):
        has[i, list(own)] = True
    if exchange.called == ANOTHER_CLASS:
        silent = int((has[exchange.sounds] & in_view).any(axis=1).sum())
        notes.append(
            f"With {ANOTHER_CLASS}, {silent} frames show an object of that class: no map need be empty there."
        )
    generator = np.random.default_rng(seed)
    off_screen = np.full(len(clips), -1)
    sounding = has.any(axis=1)
    for i, seen in enumerate(in_view | has):
        fits = np.flatnonzero(sounding & ~has[:, seen].any(axis=1))
        if len(fits):
            off_screen[i] = generator.choice(fits)
    if without := int((off_screen < 0).sum()):
        notes.append(
            f"{without} frames have no {OFF_SCREEN}: an object of every other sound's class is in view."
        )
    if without < len(clips):
        others[OFF_SCREEN] = off_screen
    return others, notes


def _in_view(dataset: PreparedDataset, clips: np.ndarray) -> np.ndarray | None:
    """Of which classes an object is in view, sounding or not: bool (N, classes); None where the data do not say so of
    every clip, as synth's ``view`` does."""
    number = {name: k for k, name in enumerate(dataset.classes)}
    in_view = np.zeros((len(clips), len(number)), bool)
    for i, clip in enumerate(clips):
        view = dataset.facts(int(clip)).get("view")
        if not isinstance(view, list) or not all(
            isinstance(thing, dict) and "kind" in thing for thing in view
        ):
            return None
        in_view[i, [number[thing["kind"]] for thing in view if thing["kind"] in number]] = True
    return in_view
