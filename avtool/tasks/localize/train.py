"""Localization: maps trained by contrast between a frame's own sound and others, without labels and without boxes."""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from avtool.config.schema import Recipe
from avtool.data.dataset import PreparedDataset
from avtool.data.loader import batches_in_order, spread_over
from avtool.data.views import (
    DrawnViews,
    FixedViews,
    MixtureViews,
    PartnerViews,
    SilencedViews,
    TrainingViews,
)
from avtool.distributed import World, all_gather_with_grad, of_batches
from avtool.errors import DataError, NotFinite, UsageError
from avtool.features import inputs_of
from avtool.losses import candidates_loss, contrastive_loss, pool_cells, sigmoid_loss
from avtool.model.localization import UNIMODAL, LocalizationModel
from avtool.progress import say
from avtool.tasks.localize.clusters import SAMPLE, SoundClusters, describe
from avtool.tasks.localize.recipe import Localize
from avtool.tasks.settings import drawn_views, fixed_views
from avtool.tasks.training import ALONE, Batches, Training

GROUP = 32
"""Sounds that a held-out frame's own is told from, unimodal: consecutive clips, whatever the batches are."""

DESCRIBED_AT_ONCE = 32
"""Sounds that are read and described together before they are clustered."""

HEARD = 4
"""While frames learn from clusters, the audio encoder learns from one in so many sounds of a batch: naming a sound's
cluster is learned from few."""

FLOOR = 0.5
"""The share of other sounds that a guess scores below a frame's own."""


class Localization(Training):
    """A localizer and its contrastive multiple-instance loss: a pair scores as high as the best of its cells.

    ``unimodal``: every frame of a batch against every sound, each encoded with the other modality blank. ``joint``: a
    frame with ``candidates`` sounds and a sound with as many frames, each pair a forward pass of its own.
    """

    monitor: ClassVar[str] = "score"
    unused_parameters = True
    group = GROUP
    drops_patches = True
    model: LocalizationModel

    def __init__(self, recipe: Recipe, dataset: PreparedDataset, chosen: np.ndarray) -> None:
        super().__init__(recipe, dataset, chosen)
        self.options: Localize = recipe.options
        self.batch_size = recipe.train.batch_size
        self.clusters: SoundClusters | None = None
        if wanted := self.options.clusters:
            if len(chosen) < wanted.count:
                raise DataError(
                    f"localize.clusters.count is {wanted.count}, but there are {len(chosen)} clips to train on",
                    hint=f"localize.clusters.count={len(chosen)} or less, or use more data",
                )
            features = 3 * self.log_mel.mels
            self.clusters = SoundClusters(count=wanted.count, features=features, width=self.options.width)

    def look_at_clips(self, recipe: Recipe, dataset: PreparedDataset, chosen: np.ndarray) -> dict[str, Any]:
        """Find the clusters of the sounds of at most ``SAMPLE`` clips, spread over all, in their evaluation views; how
        pure they are."""
        if self.clusters is None:
            return {}
        clips = spread_over(chosen, SAMPLE)
        batches = batches_in_order(fixed_views(recipe, dataset), clips, batch_size=DESCRIBED_AT_ONCE)
        described = torch.cat([describe(inputs_of(self.log_mel, batch)[1]) for batch in batches])
        of_clips = [dataset.record(clip).label_ids for clip in clips]
        labels = np.array([of_clip[0] if len(of_clip) == 1 else -1 for of_clip in of_clips])
        found = self.clusters.find(described, labels, seed=recipe.seed)
        say(str(found))
        return {"clusters": found._asdict()}

    @classmethod
    def select_clips(cls, recipe: Recipe, dataset: PreparedDataset) -> tuple[np.ndarray, dict[str, int]]:
        """Every clip: neither labels nor boxes are needed. UsageError where no frame ever meets another's sound."""
        if recipe.options.encoding == UNIMODAL and recipe.train.batch_size < 2:
            raise UsageError(
                "train.batch_size is 1: a frame's sound is told from the others of its batch, and there is none",
                hint="train.batch_size=2 or more, or localize.encoding=joint",
            )
        return np.arange(len(dataset)), {}

    def training_views(self, recipe: Recipe, dataset: PreparedDataset, chosen: np.ndarray) -> DrawnViews:
        """A random window, frame, crop, flip and gain; joint: of other clips as well. A share of
        ``negatives`` has silence or noise in place of its sound."""
        alone = drawn_views(recipe, dataset)
        views: TrainingViews | PartnerViews = alone
        if self.options.encoding != UNIMODAL:
            views = PartnerViews(alone, chosen, partners=self.options.candidates - 1)
        return SilencedViews(views, share, recipe.seed) if (share := self.options.negatives) else views

    def evaluation_views(
        self, recipe: Recipe, dataset: PreparedDataset, chosen: np.ndarray
    ) -> tuple[FixedViews, np.ndarray]:
        """The clips' own evaluation views; joint: with those of the clips after them."""
        views = fixed_views(recipe, dataset)
        if self.options.encoding == UNIMODAL:
            return views, chosen
        partners = [np.roll(chosen, -shift) for shift in range(self.options.candidates)]
        return MixtureViews(views, np.stack(partners, axis=1)), np.arange(len(chosen))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss`` and its two directions: ``image``, which sound belongs to a frame, and ``audio``, which frame to a
        sound; with ``negatives`` also ``presence``, which of all pairs are a frame and its own sound."""
        belongs = ~batch["negative"] if "negative" in batch else None
        if self.options.encoding == UNIMODAL:
            return self.contrast(*inputs_of(self.log_mel, batch), *self.kept_patches(batch), belongs=belongs)
        scores = {name: self.candidate_scores(batch, name) for name in ("image", "audio")}
        temperature = self.options.temperature
        sides = {
            name: candidates_loss(found, temperature=temperature, belongs=belongs)
            for name, found in scores.items()
        }
        losses = {"loss": (sides["image"] + sides["audio"]) / 2, **sides}
        if belongs is None:
            return losses
        own = F.pad(belongs.unsqueeze(1), (0, self.options.candidates - 1))
        return self.with_presence(losses, scores["image"], own)

    def with_presence(self, losses: dict[str, Tensor], scores: Tensor, own: Tensor) -> dict[str, Tensor]:
        """``losses`` with that of the ``scores`` of frames with sounds, of which ``own`` are a frame's own, both
        (B, C)."""
        presence = sigmoid_loss(scores, own, temperature=self.options.temperature)
        return losses | {"loss": losses["loss"] + presence, "presence": presence}

    def contrast(
        self,
        image: Tensor,
        audio: Tensor,
        image_keep: Tensor | None = None,
        audio_keep: Tensor | None = None,
        *,
        belongs: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Unimodal: the contrastive losses of clips against the others of their batch, also of those that another
        process or thread holds. ``belongs``, bool (B,): whose sound is the frame's own (None: everyone's).

        In the share of the steps that learns from clusters a sound is the vector of its cluster, silence and noise,
        which are of none, a vector of zeros; and ``clusters``, 1 - its cosine with what the audio encoder gives, is
        added to the loss."""
        patches = self.model.patches(image, audio, image_keep)
        first, count, learned = 0, len(patches), dict[str, Tensor]()
        if self.clusters is None or not self.options.clusters or self.progress >= self.options.clusters.share:
            sounds = self.model.sounds(image, audio, audio_keep)
        else:
            sounds, heard = self.clusters(audio), slice(None, None, HEARD)
            if belongs is not None:
                sounds = sounds * belongs.unsqueeze(1)
            keep = None if audio_keep is None else audio_keep[heard]
            named = self.model.sounds(image[heard], audio[heard], keep)
            known = sounds[heard].square().sum(dim=1)
            learned["clusters"] = (known - (named.float() * sounds[heard]).sum(dim=1)).mean()
        if count % self.batch_size:
            patches, first = all_gather_with_grad(patches)
            sounds, first = all_gather_with_grad(sounds)
        losses = []
        for batch, own in of_batches(len(patches), first, count, self.batch_size):
            scores = self.scores(patches[own], sounds[batch])
            others = None if own == batch else self.scores(patches[batch], sounds[own]).t()
            place = own.start - batch.start
            of_own = None if belongs is None else belongs[own.start - first : own.stop - first]
            found = contrastive_loss(
                scores, others, first=place, temperature=self.options.temperature, belongs=of_own
            )
            if of_own is not None:
                pairs = torch.zeros_like(scores, dtype=torch.bool)
                pairs.diagonal(place).copy_(of_own)
                found = self.with_presence(found, scores, pairs)
            losses.append({name: value * len(scores) / count for name, value in found.items()})
        parts = {name: torch.stack([loss[name] for loss in losses]).sum() for name in losses[0]} | learned
        return parts | {"loss": sum(learned.values(), parts["loss"])}

    def scores(self, patches: Tensor, sounds: Tensor) -> Tensor:
        """``patches`` (B, N, W) of frames and ``sounds`` (M, W), unit vectors -> scores (B, M) of all pairs."""
        cells = torch.einsum("bnw,mw->bmn", patches.float(), sounds.float())
        return pool_cells(cells, pooling=self.options.pooling, temperature=self.options.temperature)

    def candidate_scores(self, batch: dict[str, Tensor], fixed: str) -> Tensor:
        """Joint: scores (B, K) of the ``fixed`` modality of each clip with K of the other one, its own first."""
        own = dict(zip(("image", "audio"), inputs_of(self.log_mel, batch), strict=True))
        flat = {name: value.flatten(0, 1) for name, value in batch.items() if name.startswith("other_")}
        others = dict(zip(("image", "audio"), inputs_of(self.log_mel, flat, "other_"), strict=True))
        count, candidates = len(own["image"]), self.options.candidates
        pairs = []
        for name, value in own.items():
            if name == fixed:
                both = value.unsqueeze(1).expand(-1, candidates, *value.shape[1:])
            else:
                both = torch.cat([value.unsqueeze(1), others[name].unflatten(0, (count, -1))], dim=1)
            pairs.append(both.flatten(0, 1))
        keeps = self.kept_patches(batch)
        kept = [None if keep is None else keep.repeat_interleave(candidates, dim=0) for keep in keeps]
        cells = self.model.pair_cells(*pairs, *kept).float()
        scores = pool_cells(cells, pooling=self.options.pooling, temperature=self.options.temperature)
        return scores.unflatten(0, (count, -1))

    def measure(self, held_out: Batches, reference: Batches, world: World = ALONE) -> dict[str, float]:
        """``score``: the share of other sounds that a held-out frame scores below its own, ties by half, over all its
        pairs; ``floor``: by lot alone; ``first``: how often its own is above all others, ties by lot; ``clips``.
        Unimodal: among ``GROUP`` consecutive clips; joint: among the candidates.

        Weights are chosen by ``score``: over a few hundred clips, most of which share their class with some of the
        others, ``first`` is nearly all noise."""
        groups = list(self._paired_scores(held_out))
        sums = dict.fromkeys(("above", "first", "pairs", "clips"), 0.0)
        for paired, scores in groups:
            if not scores.isfinite().all():
                raise NotFinite("a score is not finite")
            own = paired.unsqueeze(1)
            beaten, level = (own > scores).sum(dim=1), (own == scores).sum(dim=1)  # level: its own too
            others = scores.shape[1] - 1
            sums["above"] += (beaten + (level - 1) / 2).sum().item()
            sums["first"] += ((beaten + level > others) / level).sum().item()
            sums["pairs"] += len(own) * others
            sums["clips"] += len(own)
        sums = world.all_reduce_sum(sums)
        return {
            "score": sums["above"] / sums["pairs"] if sums["pairs"] else FLOOR,
            "floor": FLOOR,
            "first": sums["first"] / sums["clips"],
            "clips": sums["clips"],
        }

    def _paired_scores(self, held_out: Batches) -> Iterator[tuple[Tensor, Tensor]]:
        """Scores (G,) of the true pairs and (G, M) of all that a frame is shown, group by group."""
        if self.options.encoding != UNIMODAL:
            for batch in held_out():
                scores = self.candidate_scores(batch, "image")
                yield scores[:, 0], scores
            return
        patches, sounds = [], []
        for batch in held_out():
            image, audio = inputs_of(self.log_mel, batch)
            patches.append(self.model.patches(image, audio).float())
            sounds.append(self.model.sounds(image, audio).float())
        if not patches:
            return
        for part in zip(torch.cat(patches).split(GROUP), torch.cat(sounds).split(GROUP), strict=True):
            scores = self.scores(*part)
            yield scores.diagonal(), scores

    @staticmethod
    def summarize(values: dict[str, float]) -> str:
        """Held-out measures in words, with their floor."""
        return (
            f"a frame scores its own sound above {values['score']:.1%} of the others (floor {values['floor']:.0%}), "
            f"above all of them in {values['first']:.1%} of the frames"
        )
