"""Classification: three linear heads on pooled tokens, fine-tuned with the encoder or as a probe of a frozen one."""

from collections import defaultdict
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from avtool.config.schema import Recipe
from avtool.config.types import Classes, Section
from avtool.data.dataset import PreparedDataset
from avtool.data.parts import labelled
from avtool.data.views import DrawnViews, PartnerViews
from avtool.distributed import World
from avtool.errors import DataError
from avtool.features import blank_frames, inputs_of, silence
from avtool.losses import inverse_frequency, multi_label_loss, single_label_loss, smoothed
from avtool.metrics.classification import average_precision, macro, top_k_correct
from avtool.model.heads import AudioVisualClassifier, ClassLogits, LinearProbe, start_at_log_odds
from avtool.model.mae import sample_noise
from avtool.tasks.classify.recipe import Classify
from avtool.tasks.names import ClassNames
from avtool.tasks.settings import drawn_views
from avtool.tasks.training import ALONE, Batches, Training

DRAWS = 10
"""Numbers drawn for a sample beside its path noise: five for mixing, one for blanking, four for masks."""


class Classification(Training):
    """A classifier or linear probe and its loss (DeepAVFusion, arXiv 2312.01017, section 4).

    A batch holds what ``TrainingViews`` gives and, where clips are mixed, a partner under ``other_``. With
    ``multi_label`` the targets are every label of a clip, else its only one.
    """

    monitor: ClassVar[str] = "score"
    drops_patches = True

    def __init__(self, recipe: Recipe, dataset: PreparedDataset, chosen: np.ndarray) -> None:
        super().__init__(recipe, dataset, chosen)
        self.options: Classify = recipe.options
        self.seed, self.depth = recipe.seed, recipe.model.depth
        self.register_buffer("labels", labels_of(dataset), persistent=False)
        self.class_names = ClassNames(tuple(dataset.classes), several=self.options.multi_label)
        of_chosen = self.labels[torch.from_numpy(chosen)]
        counts = of_chosen[of_chosen >= 0].bincount(minlength=len(dataset.classes))
        if (counts > 0).sum() < 2:
            only = dataset.classes[int(counts.argmax())]
            raise DataError(
                f"every clip to train on in {dataset.folder} is of class {only!r}: there is nothing to tell apart",
                hint="choose another data.split, or prepare data of more classes",
            )
        weight = inverse_frequency(counts) if self.options.class_weights else None
        self.register_buffer("weight", weight, persistent=False)
        if self.options.prior_bias:
            self._start_at_odds(counts / len(chosen))

    model: AudioVisualClassifier | LinearProbe
    labels: Tensor
    weight: Tensor | None

    def targets(self, index: Tensor) -> Tensor:
        """The labels of clips ``index`` (B,): float32 (B, C), 1 where a clip has the class."""
        return one_hot(self.labels[index], self.config.head.classes)

    @classmethod
    def model_config(cls, recipe: Recipe, dataset: PreparedDataset) -> tuple[str, Section]:
        """Heads for the classes of ``dataset``. DataError where it has fewer than two."""
        if len(dataset.classes) < 2:
            known = f"one class, {dataset.classes[0]!r}" if dataset.classes else "no classes"
            raise DataError(
                f"{dataset.folder} has {known}: there is nothing to tell apart",
                hint="prepare data with labels",
            )
        kind = "linear_probe" if recipe.options.probe else "classifier"
        return kind, Classes(classes=len(dataset.classes))

    @classmethod
    def select_clips(cls, recipe: Recipe, dataset: PreparedDataset) -> tuple[np.ndarray, dict[str, int]]:
        """Clips with a label; where a clip has one class, those with exactly one."""
        usable, left_out = labelled(dataset, several=recipe.options.multi_label)
        if not len(usable):
            where = f"no clip of split {dataset.split} of {dataset.folder} has"
            if "with several labels" in left_out:
                raise DataError(f"{where} exactly one label", hint="classify.multi_label=true")
            raise DataError(f"{where} a label", hint="prepare data with labels, or choose another data.split")
        return usable, left_out

    def _start_at_odds(self, shares: Tensor) -> None:
        """Biases with which the first predictions are the classes' ``shares`` of the clips, kept away from 0 and 1."""
        shares = shares.clamp(1e-4, 1 - 1e-4)
        if self.options.multi_label:
            start_at_log_odds(self.model, shares)
            return
        for head in (self.model.image_head, self.model.audio_head, self.model.fusion_head):
            head.bias.data.copy_(shares.log())

    def training_views(self, recipe: Recipe, dataset: PreparedDataset, chosen: np.ndarray) -> DrawnViews:
        """A random window, frame, crop, flip and gain; two of them where clips are mixed."""
        views = drawn_views(recipe, dataset)
        return PartnerViews(views, chosen, partners=1) if self.mixes else views

    @property
    def mixes(self) -> bool:
        """Whether two clips make a sample."""
        return self.options.mixup > 0 or self.options.cutmix > 0

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss`` on the mean of the three heads' logits."""
        image, audio = inputs_of(self.log_mel, batch)
        targets = self.targets(batch["index"])
        noise = sample_noise(
            batch["index"], seed=self.seed, epoch=batch["epoch"], count=6 * self.depth + DRAWS
        )
        path_noise, drawn = noise.split([6 * self.depth, DRAWS], dim=1)
        if self.mixes:
            own = {"image": image, "audio": audio, "targets": targets}
            image, audio, targets = mix(own, self._partner(batch), drawn, self.options)
        image, audio = blanked(image, audio, drawn[:, 5], self.options.modality_dropout)
        audio = masked(audio, drawn[:, 6:], self.options.spectrogram_masks)
        image_keep, audio_keep = self.kept_patches(batch)
        path_noise = path_noise.unflatten(1, (self.depth, 6))
        logits = self.model(
            image, audio, image_keep=image_keep, audio_keep=audio_keep, path_noise=path_noise
        ).mean
        targets = smoothed(targets, self.options.label_smoothing)
        loss = multi_label_loss if self.options.multi_label else single_label_loss
        return {"loss": loss(logits, targets, self.weight)}

    def _partner(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        other = {
            name.removeprefix("other_"): value[:, 0]
            for name, value in batch.items()
            if name.startswith("other_")
        }
        image, audio = inputs_of(self.log_mel, other)
        return {"image": image, "audio": audio, "targets": self.targets(other["index"])}

    def measure(self, held_out: Batches, reference: Batches, world: World = ALONE) -> dict[str, float]:
        """``score``: top-1, or mAP where clips have several classes, of the mean of the heads; each head's as
        ``score_HEAD``; ``floor``: what naming the commonest class, or a random order, gets; ``loss``; ``clips``."""
        logits: dict[str, list[Tensor]] = defaultdict(list)
        indices = []
        for batch in held_out():
            found: ClassLogits = self.model(*inputs_of(self.log_mel, batch))
            for name, value in found._asdict().items():
                logits[name].append(value.float())
            indices.append(batch["index"])
        targets = self.targets(world.gather_rows(indices).to(self.labels.device))
        whole = {name: world.gather_rows(logits[name]).to(targets.device) for name in ClassLogits._fields}
        scores = {name: self._score(value, targets) for name, value in whole.items()}
        loss = multi_label_loss if self.options.multi_label else single_label_loss
        shares = targets.mean(dim=0)
        floor = shares[shares > 0].mean() if self.options.multi_label else shares.max()
        return {
            "score": scores.pop("mean"),
            **{f"score_{name}": value for name, value in scores.items()},
            "floor": floor.item(),
            "loss": loss(whole["mean"], targets).item(),
            "clips": float(len(targets)),
        }

    def _score(self, logits: Tensor, targets: Tensor) -> float:
        scores, truth = logits.cpu().numpy(), targets.cpu().numpy()
        if self.options.multi_label:
            return macro(average_precision(scores, truth > 0)).mean
        return float(top_k_correct(scores, truth.argmax(axis=1), 1).mean())

    def summarize(self, values: dict[str, float]) -> str:
        """Held-out measures in words, with their floor."""
        what = "mAP" if self.options.multi_label else "top-1"
        heads = ", ".join(f"{name} {values[f'score_{name}']:.1%}" for name in ("image", "audio", "fusion"))
        return f"{what} {values['score']:.1%} (floor {values['floor']:.1%}); by head: {heads}"


def labels_of(dataset: PreparedDataset) -> Tensor:
    """Every label of every clip: int64 (N, L), filled up with -1; L is the largest number of labels, at least 1."""
    of_clips = [dataset.record(i).label_ids for i in range(len(dataset))]
    labels = torch.full((len(of_clips), max(1, *map(len, of_clips))), -1)
    for row, ids in zip(labels, of_clips, strict=True):
        row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
    return labels


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Labels (B, L), -1 for none -> float32 (B, C), 1 for each class that is among them."""
    padded = torch.zeros(len(labels), classes + 1, device=labels.device)
    return padded.scatter_(1, labels.where(labels >= 0, classes), 1.0)[:, :classes]


def mix(
    own: dict[str, Tensor], partner: dict[str, Tensor], noise: Tensor, options: Classify
) -> tuple[Tensor, Tensor, Tensor]:
    """Image, audio and targets of samples mixed with their partners: mixup (arXiv 1710.09412) or cutmix (arXiv
    1905.04899), each for half of the samples where both are on.

    ``image`` (B, 3, H, W), ``audio`` (B, 1, mel, frames) and ``targets`` (B, C) of both; ``noise`` (B, 6) uniform
    decides all that is drawn. The same share is kept of both modalities, as a weight, or as area of the image and
    length of the sound.
    """
    cuts = noise[:, 0] < (0.5 if options.mixup and options.cutmix else float(options.cutmix > 0))
    alpha = torch.where(cuts, options.cutmix, options.mixup)
    keep = beta_quantile(noise[:, 1], alpha)
    image_share = keep.masked_fill(cuts, 1)
    pictures = _blend(own["image"], partner["image"], image_share)
    sounds = _blend(own["audio"], partner["audio"], image_share)
    box = _box_mask(pictures, keep, noise[:, 2:4]) & cuts.view(-1, 1, 1, 1)
    span = _span_mask(sounds, keep, noise[:, 4]) & cuts.view(-1, 1, 1, 1)
    pictures = torch.where(box, partner["image"], pictures)
    sounds = torch.where(span, partner["audio"], sounds)
    return pictures, sounds, _blend(own["targets"], partner["targets"], keep)


def blanked(image: Tensor, audio: Tensor, noise: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Image (B, 3, H, W) and audio (B, 1, mel, frames) of which a ``share`` of the samples loses one: half of these the
    picture, half the sound, as uniform ``noise`` (B,) decides. So that either is learned from, not the easier alone."""
    no_image, no_audio = (noise < share / 2), (share / 2 <= noise) & (noise < share)
    image = torch.where(no_image.view(-1, 1, 1, 1), blank_frames(image), image)
    return image, torch.where(no_audio.view(-1, 1, 1, 1), silence(audio), audio)


def masked(audio: Tensor, noise: Tensor, share: float) -> Tensor:
    """Audio (B, 1, mel, frames) in which a range of bands and a span of time are silent, each of 0 to ``share`` of all,
    as uniform ``noise`` (B, 4) decides (SpecAugment, arXiv 1904.08779)."""
    if not share:
        return audio
    bands = _span(audio.shape[2], share * noise[:, 0], noise[:, 1]).view(len(audio), 1, -1, 1)
    times = _span(audio.shape[3], share * noise[:, 2], noise[:, 3]).view(len(audio), 1, 1, -1)
    return torch.where(bands | times, silence(audio), audio)


def _blend(own: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    share = share.view(-1, *(1,) * (own.ndim - 1))
    return share * own + (1 - share) * partner


def beta_quantile(uniform: Tensor, alpha: Tensor) -> Tensor:
    """Draws (B,) of Beta(alpha, alpha) from uniform ones, by its distribution on a grid of 1,024 points, which are
    denser towards 0 and 1 as the draws are; for alpha = 1 they are ``uniform`` itself."""
    steps = (torch.arange(1024, device=uniform.device, dtype=torch.float64) + 0.5) / 1024
    grid = (steps * torch.pi / 2).sin().square()
    # - 0.5: the grid's own density
    logarithm = (alpha.double().view(-1, 1) - 0.5) * (grid * (1 - grid)).log()
    below = logarithm.softmax(dim=1).cumsum(dim=1)
    place = torch.searchsorted(below, uniform.double().view(-1, 1).contiguous()).squeeze(1).clamp(max=1023)
    return torch.where(alpha == 1, uniform, grid[place].float())


def _box_mask(image: Tensor, keep: Tensor, at: Tensor) -> Tensor:
    """Where the partner's picture is shown: a box of the share 1 - ``keep`` of the area, bool (B, 1, H, W)."""
    height, width = image.shape[2:]
    side = (1 - keep).sqrt().view(-1, 1, 1)
    y = (torch.arange(height, device=image.device) + 0.5).view(1, -1, 1) / height
    x = (torch.arange(width, device=image.device) + 0.5).view(1, 1, -1) / width
    top, left = (at[:, i].view(-1, 1, 1) * (1 - side) for i in (0, 1))
    return ((y >= top) & (y < top + side) & (x >= left) & (x < left + side)).unsqueeze(1)


def _span_mask(audio: Tensor, keep: Tensor, at: Tensor) -> Tensor:
    """When the partner's sound is heard: a span of the share 1 - ``keep`` of the time, bool (B, 1, 1, frames)."""
    return _span(audio.shape[3], 1 - keep, at).view(len(audio), 1, 1, -1)


def _span(size: int, share: Tensor, at: Tensor) -> Tensor:
    """A span of the ``share`` (B,) of ``size`` places, ``at`` 0 (B,) at their beginning, at 1 at their end: bool (B,
    size)."""
    place = (torch.arange(size, device=share.device) + 0.5) / size
    start = at * (1 - share)
    return (place >= start.unsqueeze(1)) & (place < (start + share).unsqueeze(1))
