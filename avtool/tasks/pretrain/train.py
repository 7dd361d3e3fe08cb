"""Pretraining by masked reconstruction, by contrast or by both: the losses, and what tells whether it learns."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avtool.config.model import Decoders
from avtool.config.schema import Recipe
from avtool.config.types import Section
from avtool.data.dataset import PreparedDataset
from avtool.distributed import World, all_gather_with_grad, of_batches
from avtool.errors import UsageError
from avtool.features import IMAGE_MEAN, IMAGE_STD, blank_frames, inputs_of, silence
from avtool.losses import contrastive_loss, masked_autoencoding_loss, reconstruction_loss
from avtool.metrics.embeddings import effective_rank, nearest_neighbour_hits, recall
from avtool.model.build import AUTOENCODER
from avtool.model.encoder import Tokens
from avtool.model.mae import MaskedAutoencoder, Reconstruction, patch_noise
from avtool.model.transformer import patchify, unpatchify
from avtool.report.pictures import Example, draw_reconstructions
from avtool.tasks.pretrain.recipe import Pretrain
from avtool.tasks.training import ALONE, Batches, Training

RANKED_CLIPS = 1000
"""At most so many clips' fusion tokens go into their effective rank: less than a second at any width."""
RECALLED = 10
"""Nearest clips of all held-out ones among which a clip's partner is looked for."""
CAPTION = (
    "What pretraining predicts of held-out clips, from what was not masked.",
    "Predictions are made in units of each patch's own mean and deviation. Both are taken from the target here: how "
    "bright or how loud a patch is as a whole is given, not predicted.",
)


class Pretraining(Training):
    """A masked autoencoder and the features before it. ``forward`` gives the loss of a batch and its parts.

    By ``pretrain.objective`` it learns to reconstruct what was masked; or, by a contrast, which sound of a batch
    belongs to which frame, from the mean tokens of the same visible patches; or both, as CAV-MAE does (arXiv
    2210.07839). For the contrast each modality is encoded with the other one blank: tokens that were encoded together
    know each other.

    A batch holds image uint8 (B, 3, H, W), waveform int16 (B, N), gain_db float32 (B,), index and epoch int64 (B,).
    """

    model: MaskedAutoencoder

    def __init__(
        self, recipe: Recipe, dataset: PreparedDataset | None = None, chosen: np.ndarray | None = None
    ) -> None:
        super().__init__(recipe, dataset, chosen)
        self.seed, self.batch_size = recipe.seed, recipe.train.batch_size
        self.options: Pretrain = recipe.options or Pretrain()
        self.masked, self.contrasted = (
            self.options.objective != "contrastive",
            self.options.objective != "masked",
        )
        self.unused_parameters, self.draws = (
            not self.masked,
            self.masked,
        )  # the decoders, and what they predict

    @classmethod
    def select_clips(cls, recipe: Recipe, dataset: PreparedDataset) -> tuple[np.ndarray, dict[str, int]]:
        """Every clip. UsageError where no frame ever meets another's sound."""
        if recipe.options and recipe.options.objective != "masked" and recipe.train.batch_size < 2:
            raise UsageError(
                "train.batch_size is 1: a frame's sound is told from the others of its batch, and there is none",
                hint="train.batch_size=2 or more, or pretrain.objective=masked",
            )
        return super().select_clips(recipe, dataset)

    @classmethod
    def model_config(cls, recipe: Recipe, dataset: PreparedDataset | None) -> tuple[str, Section]:
        """A masked autoencoder. It fits any data."""
        return AUTOENCODER, Decoders.of(recipe.model)

    def inputs(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The batch as the model takes it: frames (B, 3, H, W) and log-mels (B, 1, mels, frames), float32."""
        return inputs_of(self.log_mel, batch)

    def noise(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the masks are made of, (B, N) for each modality: a function of (seed, epoch, index)."""
        image, audio = patch_noise(self.model, batch["index"], seed=self.seed, epoch=batch["epoch"])
        return {"image_noise": image, "audio_noise": audio}

    def reconstruct(self, batch: dict[str, Tensor]) -> tuple[Reconstruction, Reconstruction]:
        """Image and audio reconstructions under the masks of ``noise``."""
        return self.model(*self.inputs(batch), **self.noise(batch))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """``loss`` and its parts, scalars: of the reconstruction ``image`` and ``audio``, and ``contrast``."""
        inputs, noise = self.inputs(batch), self.noise(batch)
        losses: dict[str, Tensor] = {}
        if self.masked:
            parts = self.model(*inputs, **noise)
            losses = masked_autoencoding_loss(*(reconstruction_loss(p.prediction, p.target) for p in parts))
        if not self.contrasted:
            return losses
        image_mask, audio_mask = self.model.masks(**noise)
        contrast = self.contrast(*self.apart(*inputs, image_mask.keep, audio_mask.keep))
        whole = losses["loss"] + self.options.contrast_weight * contrast if self.masked else contrast
        return losses | {"loss": whole, "contrast": contrast}

    def apart(
        self, image: Tensor, audio: Tensor, image_keep: Tensor | None = None, audio_keep: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Unit vectors (B, D) of the frames and of the sounds: their mean tokens, or those of the patches that are
        kept, each modality encoded with the other one blank."""
        encode = partial(self.model.encoder, image_keep=image_keep, audio_keep=audio_keep)
        seen, heard = encode(image, silence(audio)).image, encode(blank_frames(image), audio).audio
        frames, sounds = (F.normalize(tokens.float().mean(dim=1), dim=1) for tokens in (seen, heard))
        return frames, sounds

    def contrast(self, frames: Tensor, sounds: Tensor) -> Tensor:
        """The contrastive loss of unit vectors (B, D) of clips against the others of their batch, also of those that
        another process or thread holds. A scalar."""
        count, first = len(frames), 0
        all_frames, all_sounds = frames, sounds
        if count % self.batch_size:
            all_frames, first = all_gather_with_grad(frames)
            all_sounds, _ = all_gather_with_grad(sounds)
        losses = [
            (own.stop - own.start)
            * contrastive_loss(
                all_frames[own] @ all_sounds[batch].t(),
                all_sounds[own] @ all_frames[batch].t(),
                first=own.start - batch.start,
                temperature=self.options.temperature,
            )["loss"]
            for batch, own in of_batches(len(all_frames), first, count, self.batch_size)
        ]
        return torch.stack(losses).sum() / count

    def draw(self, batch: dict[str, Tensor], names: Sequence[str]) -> np.ndarray:
        """Masked input, prediction and target of each clip of ``batch``, uint8 (height, width, 3) RGB; masks as in
        ``measure``."""
        parts = self.reconstruct({**batch, "epoch": torch.zeros_like(batch["index"])})
        image, audio = self.inputs(batch)
        encoder = self.model.encoder
        grids = encoder.image_grid, encoder.audio_grid
        frames, mels = (
            filled_in(values, part, encoder.patch_size, grid)
            for values, part, grid in zip((image, audio), parts, grids, strict=True)
        )
        shown = (
            *(as_pictures(image), as_pictures(frames[0]), frames[1]),
            *(audio[:, 0], mels[0][:, 0], mels[1]),
        )
        columns = (part.cpu().numpy() for part in shown)
        examples = [Example(*of_clip) for of_clip in zip(names, *columns, strict=True)]
        return draw_reconstructions(examples, caption=CAPTION)

    def measure(self, held_out: Batches, reference: Batches, world: World = ALONE) -> dict[str, float]:
        """Measures over the clips of ``held_out``, whose batches also hold label int64 (B,), -1 for none.

        ``loss_image``, ``loss_audio`` and their sum ``loss``: masked reconstruction, masks drawn from (seed, epoch 0,
        index). ``floor``: what predicting each removed patch's mean would get on the same patches; ``share_of_floor``:
        ``loss`` over it. ``knn_STREAM``: share of held-out clips whose nearest clip of ``reference``, by cosine of the
        mean token, has the same label (k = 1); ``knn_floor``: share of the commonest label. ``clips``: how many.

        ``effective_rank_fusion``: directions in which the clips' mean fusion tokens differ, of at most ``RANKED_CLIPS``
        clips, where there are two. It falls to 0 where the fusion tokens say the same of every clip. Means, not the
        single tokens: those differ from each other by what is learned of each, whatever the clip, and would hide that.

        Where a contrast is learned, ``recall``: how often a clip's sound is among the ``RECALLED`` nearest of all
        held-out ones to its frame, and the other way round, by cosine of what is contrasted, all patches;
        ``recall_floor`` by lot. What nothing is learned for is not measured.
        """
        sums: dict[str, float] = defaultdict(float)
        apart: list[Tensor] = []
        for batch in held_out():
            count = len(batch["index"])
            sums["clips"] += count
            if self.contrasted:
                apart.append(torch.stack(self.apart(*self.inputs(batch)), dim=1).cpu())
            if not self.masked:
                continue
            parts = self.reconstruct({**batch, "epoch": torch.zeros_like(batch["index"])})
            for name, part in zip(("image", "audio"), parts, strict=True):
                sums[f"loss_{name}"] += count * reconstruction_loss(part.prediction, part.target).item()
                mean = torch.zeros_like(part.prediction)
                sums["floor"] += count * reconstruction_loss(mean, part.target).item()
        sums = world.all_reduce_sum(sums)
        clips = sums.pop("clips")
        result = {name: value / clips for name, value in sums.items()}
        if self.masked:
            result["loss"] = result["loss_image"] + result["loss_audio"]
            result["share_of_floor"] = result["loss"] / result["floor"]
        if self.contrasted:
            found = recall(*world.gather_rows(apart).numpy().swapaxes(0, 1), ranks=(RECALLED,))
            result["recall"] = float(np.mean([hits[RECALLED].mean() for hits in found]))
            result["recall_floor"] = min(1.0, RECALLED / clips)
        queries, labels = self._mean_features(held_out(), world)
        references, reference_labels = self._mean_features(reference(), world)
        if clips > 1:
            fusion = queries["fusion"]
            result["effective_rank_fusion"] = effective_rank(fusion[:: math.ceil(clips / RANKED_CLIPS)])
        known, usable = labels >= 0, reference_labels >= 0
        if known.any() and usable.any():
            for name, query in queries.items():
                hits = nearest_neighbour_hits(
                    query[known], labels[known], references[name][usable], reference_labels[usable]
                )
                result[f"knn_{name}"] = hits.float().mean().item()
            result["knn_floor"] = labels[known].bincount().max().item() / known.sum().item()
        return {**result, "clips": clips}

    def _mean_features(
        self, batches: Iterable[dict[str, Tensor]], world: World
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Mean tokens of whole clips, (N, D) for each stream, and their labels (N,), on the CPU: of those that all
        processes of ``world`` were given."""
        features: dict[str, list[Tensor]] = defaultdict(list)
        labels = []
        for batch in batches:
            for name, mean in mean_tokens(self.model.encoder(*self.inputs(batch))).items():
                features[name].append(mean.cpu())
            labels.append(batch["label"].cpu())
        return {
            name: world.gather_rows(features[name]) for name in (*Tokens._fields, "all")
        }, world.gather_rows(labels)

    @staticmethod
    def summarize(values: dict[str, float]) -> str:
        """Held-out measures in words, each with its floor."""
        parts = []
        if "loss" in values:
            share = f"{values['share_of_floor']:.3f} of what each patch's mean gets"
            parts.append(f"loss {values['loss']:.3f}, {share}")
        if "recall" in values:
            parts.append(f"recall@{RECALLED} {values['recall']:.1%} (by lot {values['recall_floor']:.1%})")
        accuracy = [
            f"{name.removeprefix('knn_')} {value:.1%}"
            for name, value in values.items()
            if name.startswith("knn_")
        ]
        if accuracy:
            parts.append(
                f"nearest-neighbour accuracy (knn, k = 1, among training clips): {', '.join(accuracy)}"
            )
        if "effective_rank_fusion" in values:
            parts.append(f"effective rank of fusion tokens {values['effective_rank_fusion']:.1f}")
        return "; ".join(parts)


def as_pictures(frames: Tensor) -> Tensor:
    """Frames as the model takes them (B, 3, H, W) -> uint8 (B, H, W, 3) RGB."""
    mean, std = (
        torch.tensor(values, device=frames.device).view(1, 3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD)
    )
    return ((frames * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def filled_in(
    values: Tensor, part: Reconstruction, patch_size: int, grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """``values`` (B, C, H, W), float32, with every removed patch as it was predicted, its own mean and deviation given
    back to it (the inverse of ``losses.normalize_patches``); and which places were removed, bool (B, H, W)."""
    patches, removed = patchify(values, patch_size), part.mask.removed.unsqueeze(-1)
    target = part.target.float()
    deviation = (target.var(dim=-1, keepdim=True) + 1e-6).sqrt()
    predicted = part.prediction.float() * deviation + target.mean(dim=-1, keepdim=True)
    filled = patches.scatter(1, removed.expand_as(predicted), predicted)
    where = part.mask.dense().unsqueeze(-1).expand(-1, -1, patch_size**2)
    return unpatchify(filled, patch_size, grid), unpatchify(where, patch_size, grid)[:, 0] > 0


def mean_tokens(tokens: Tokens) -> dict[str, Tensor]:
    """Each stream's mean token (B, D), and ``all``: the three side by side (B, 3 D), each of length 1."""
    means = {name: getattr(tokens, name).float().mean(dim=1) for name in Tokens._fields}
    means["all"] = torch.cat([nn.functional.normalize(mean, dim=1) for mean in means.values()], dim=1)
    return means
