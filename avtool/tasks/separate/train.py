"""Separation: what of a mixture belongs to one picture, learned by mixing clips whose own sounds are known."""

import math
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from avtool.config.schema import Recipe
from avtool.config.types import Section
from avtool.data.dataset import PreparedDataset
from avtool.data.parts import labelled
from avtool.data.views import DrawnViews, FixedViews, MixtureViews, PartnerViews, draw_others, draws
from avtool.distributed import World
from avtool.errors import DataError, TrainingError
from avtool.features import LogMel, normalize_frames, to_float_waveform
from avtool.losses import binary_masks, magnitude_weights, published_ratio_mask, ratio_masks, separation_loss
from avtool.metrics.separation import bss_eval
from avtool.tasks.separate.recipe import Separate
from avtool.tasks.settings import drawn_views, fixed_views
from avtool.tasks.training import ALONE, Batches, Training

_MIXTURES = 0x3E15  # sets the draws of fixed mixtures apart from those of training


class Mixtures(NamedTuple):
    """B mixtures of S clips: ``images`` (B, S, 3, H, W) normalised, ``waveforms`` (B, S, N) whose sum is ``mixture``
    (B, N), and their log10 mel powers ``sources`` (B, S, mel, frames) and ``heard`` (B, 1, mel, frames)."""

    images: Tensor
    waveforms: Tensor
    mixture: Tensor
    sources: Tensor
    heard: Tensor


class Separation(Training):
    """A separator and its loss on mixtures (DeepAVFusion, arXiv 2312.01017, section 4; mix-and-separate is of Zhao et
    al., arXiv 1804.03160).

    A sample is a clip and others of other classes, their sounds summed as they are. Every one of their pictures asks
    for its own mask of the same mixture: N predictions that only the picture can tell apart, so that what all of them
    share teaches nothing.
    """

    monitor: ClassVar[str] = "sdr_improvement"
    unused_parameters = True

    def __init__(self, recipe: Recipe, dataset: PreparedDataset, chosen: np.ndarray) -> None:
        super().__init__(recipe, dataset, chosen)
        self.options: Separate = recipe.options
        check_classes(dataset, chosen, self.options.sources, what="to train on")

    @classmethod
    def model_config(cls, recipe: Recipe, dataset: PreparedDataset) -> tuple[str, Section]:
        """A separator. TrainingError for a spectrogram that cannot be turned back into sound, DataError where the data
        has too few classes to mix."""
        if 2 * recipe.spectrogram.hop > recipe.spectrogram.n_fft:
            raise TrainingError(
                f"a spectrogram with spectrogram.hop {recipe.spectrogram.hop} cannot be turned back into sound: its "
                f"windows of spectrogram.n_fft {recipe.spectrogram.n_fft} overlap by less than half",
                hint="start from a model with a shorter spectrogram.hop",
            )
        check_classes(
            dataset, np.arange(len(dataset)), recipe.options.sources, what=f"of split {dataset.split}"
        )
        return super().model_config(recipe, dataset)

    @classmethod
    def select_clips(cls, recipe: Recipe, dataset: PreparedDataset) -> tuple[np.ndarray, dict[str, int]]:
        """Clips with exactly one label: what else sounds in a clip would be nobody's."""
        return labelled(dataset)

    def training_views(self, recipe: Recipe, dataset: PreparedDataset, chosen: np.ndarray) -> DrawnViews:
        """A random window, frame, crop and flip of a clip and of others of other classes; loudness stays as it is."""
        views = drawn_views(recipe, dataset, gain_db=0.0)
        return PartnerViews(views, chosen, partners=self.options.sources - 1, other_class=True)

    def evaluation_views(
        self, recipe: Recipe, dataset: PreparedDataset, chosen: np.ndarray
    ) -> tuple[FixedViews, np.ndarray]:
        """A fixed mixture for each of the clips. DataError where they are of too few classes."""
        mixtures = fixed_mixtures(dataset, chosen, self.options.sources, seed=recipe.seed)
        return MixtureViews(fixed_views(recipe, dataset), mixtures), np.arange(len(mixtures))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss`` of the masks of all sources."""
        mixtures = mix(self.log_mel, batch)
        return {"loss": self.loss(mask_logits(self.model, mixtures), mixtures)}

    def loss(self, logits: Tensor, mixtures: Mixtures) -> Tensor:
        """The loss of ``logits`` (B, S, mel, frames), a scalar."""
        heard = mixtures.heard.expand_as(mixtures.sources)
        weight = magnitude_weights(heard) if self.options.weighted else None
        return separation_loss(logits, self.targets(mixtures.sources, heard), weight)

    def targets(self, sources: Tensor, heard: Tensor) -> Tensor:
        """What the masks should be: all (B, S, mel, frames), log10 mel powers in."""
        if self.options.target == "ratio":
            return ratio_masks(sources)
        if self.options.target == "binary":
            return binary_masks(sources)
        return published_ratio_mask(sources, heard)

    def measure(self, held_out: Batches, reference: Batches, world: World = ALONE) -> dict[str, float]:
        """Means over the sources of fixed mixtures: ``sdr_improvement`` over the mixture in dB, ``exchanged`` the same
        with another source's picture, ``floor`` the SDR of the mixture itself; ``silent``, how many sources have no SDR
        and are left out of these; ``loss``; ``clips``, of which each is the first of a mixture."""
        scores, sums = [], {"loss": 0.0, "clips": 0.0}
        for batch in held_out():
            mixtures = mix(self.log_mel, batch)
            logits = mask_logits(self.model, mixtures).float()
            count = len(mixtures.mixture)
            sums["loss"] += count * self.loss(logits, mixtures).item()
            sums["clips"] += count
            found = self.log_mel.masked(mixtures.mixture, logits.sigmoid())
            itself = mixtures.mixture.unsqueeze(1).expand_as(found)
            rivals = torch.stack([found, found.roll(1, dims=1), itself], dim=1)
            scores.append(bss_eval(mixtures.waveforms, rivals).sdr.transpose(1, 2).flatten(0, 1))
        own, exchanged, floor = world.gather_rows(scores).t().contiguous()
        sums = world.all_reduce_sum(sums)
        return {
            "sdr_improvement": (own - floor).nanmean().item(),
            "exchanged": (exchanged - floor).nanmean().item(),
            "floor": floor.nanmean().item(),
            "silent": floor.isnan().sum().item(),
            "loss": sums["loss"] / sums["clips"],
            "clips": sums["clips"],
        }

    @staticmethod
    def summarize(values: dict[str, float]) -> str:
        """Held-out measures in words, with their floor."""
        loss = f"; loss {values['loss']:.4f}"
        if silent := values["silent"]:
            loss = f"; {silent:.0f} sources of mixtures with a silent one left out{loss}"
        if math.isnan(values["floor"]):
            return f"no SDR, for no mixture has two sources that sound{loss}"
        return (
            f"SDR {values['sdr_improvement']:+.2f} dB over the mixture itself ({values['floor']:.2f} dB), with "
            f"pictures exchanged {values['exchanged']:+.2f} dB{loss}"
        )


def mix(log_mel: LogMel, batch: dict[str, Tensor]) -> Mixtures:
    """The mixtures of a batch with partners (see ``avtool.data.views``)."""
    images = torch.cat([batch["image"].unsqueeze(1), batch["other_image"]], dim=1)
    sounds = torch.cat([batch["waveform"].unsqueeze(1), batch["other_waveform"]], dim=1)
    count = sounds.shape[:2]
    waveforms = to_float_waveform(sounds.flatten(0, 1)).unflatten(0, count)
    mixture = waveforms.sum(dim=1)
    heard = log_mel(torch.cat([mixture, waveforms.flatten(0, 1)]))
    return Mixtures(
        images=normalize_frames(images.flatten(0, 1)).unflatten(0, count),
        waveforms=waveforms,
        mixture=mixture,
        sources=heard[count[0] :, 0].unflatten(0, count),
        heard=heard[: count[0]],
    )


def mask_logits(model: nn.Module, mixtures: Mixtures) -> Tensor:
    """Mask logits (B, S, mel, frames) of the mixtures, one for each picture."""
    count = mixtures.images.shape[:2]
    heard = mixtures.heard.unsqueeze(1).expand(-1, count[1], -1, -1, -1).flatten(0, 1)
    return model(mixtures.images.flatten(0, 1), heard).squeeze(1).unflatten(0, count)


def check_classes(dataset: PreparedDataset, clips: np.ndarray, sources: int, *, what: str) -> None:
    """DataError where ``clips`` of ``dataset`` are of fewer classes than a mixture has ``sources``."""
    classes = {dataset.label_id(int(i)) for i in clips} - {-1}
    if len(classes) < sources:
        raise DataError(
            f"{dataset.folder} has {len(classes)} classes among its {len(clips)} clips {what}; a mixture of {sources} "
            "clips needs as many",
            hint="use data with more classes" + (", or set separate.sources=2" if sources > 2 else ""),
        )


def fixed_mixtures(dataset: PreparedDataset, clips: np.ndarray, sources: int, *, seed: int) -> np.ndarray:
    """For each of ``clips`` (M,) the mixture of it and others of them, each of another first label: int64 (M, sources).

    A function of ``seed`` and the clips. DataError where they are of too few classes.
    """
    check_classes(dataset, clips, sources, what="to measure separation on")
    labels = np.array([dataset.label_id(int(i)) for i in clips])
    others = [
        draw_others(labels, label, sources - 1, draws(seed, _MIXTURES, int(clip)))
        for clip, label in zip(clips, labels, strict=True)
    ]
    return np.column_stack([clips, clips[np.array(others)]])
