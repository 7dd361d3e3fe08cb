"""Where a sound comes from: maps over image patches, of any pretrained encoder or of a model fine-tuned for them.

Inputs are those of the encoder: ``image`` (B, 3, H, W) ImageNet-normalised, ``audio`` (B, 1, mel, frames)
log10 mel power. Every map is float32 (B, rows, columns) over the grid of patches, higher where the sound is
located. Adding a kind of map is one function and one line in ``MAPS``.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avtool.errors import UsageError
from avtool.features import silence
from avtool.model.encoder import AudioVisualEncoder, encoder_of
from avtool.model.fusion import FusionBlock
from avtool.model.localization import LocalizationModel
from avtool.model.transformer import grid_of
from avtool.model.unet import SegmentationModel

ATTENTION_SHARE = 1 / 3
"""Of the layers with a fusion block, the share, from the last one back, whose attention makes the map."""


def attention_layers(encoder: AudioVisualEncoder) -> list[int]:
    """The last third of the layers that have a fusion block, at least one; ValueError where there is none."""
    fused = sorted(int(layer) for layer in encoder.fusion_blocks)
    if not fused:
        raise ValueError("an encoder without fusion blocks has no attention from sound to image")
    return fused[-max(1, round(len(fused) * ATTENTION_SHARE)) :]


def attention_map(encoder: AudioVisualEncoder, image: Tensor, audio: Tensor) -> Tensor:
    """What the fusion tokens of the last layers attend to in the image; a map sums to 1.

    The mean over ``attention_layers``, heads and queries of ``FusionBlock.image_weights``: factorized, what
    the image-aggregating tokens attend to, weighted by how the fusion tokens use them; dense, the image half
    p_i of the factored softmax over pairs; token, attention to the image tokens, renormalised without the
    audio's share.
    """
    chosen = attention_layers(encoder)
    weights = []
    for layer, tokens in enumerate(encoder.layers(image, audio)):
        if layer in chosen:
            block = encoder.fusion_blocks[str(layer)]
            assert isinstance(block, FusionBlock)
            weights.append(block.image_weights(tokens.fusion, tokens.image, tokens.audio).mean(dim=(1, 2)))
        if layer == chosen[-1]:
            break
    return _on_grid(encoder, image, torch.stack(weights).mean(dim=0))


def difference_map(encoder: AudioVisualEncoder, image: Tensor, audio: Tensor) -> Tensor:
    """How far the sound moves each image token: |x(audio) - x(silence)| after the final norm.

    Silence is digital silence through the same log-mel: log10(1e-7) everywhere.
    """
    moved = encoder(image, audio).image - encoder(image, silence(audio)).image
    return _on_grid(encoder, image, moved.norm(dim=-1))


def cosine_map(encoder: AudioVisualEncoder, image: Tensor, audio: Tensor) -> Tensor:
    """Cosine of each image token with the mean audio token, after the final norms; in -1 to 1."""
    tokens = encoder(image, audio)
    sound = tokens.audio.mean(dim=1, keepdim=True)
    return _on_grid(encoder, image, F.cosine_similarity(tokens.image, sound, dim=-1))


def _on_grid(encoder: AudioVisualEncoder, image: Tensor, values: Tensor) -> Tensor:
    return values.float().unflatten(1, grid_of(image.shape[2], image.shape[3], encoder.patch_size))


class Map(NamedTuple):
    """A kind of map: how it is computed, and what it is in words."""

    compute: Callable[..., Tensor]
    words: str


MAPS = {
    "attention": Map(attention_map, "attention of the last layers' queries over image patches"),
    "difference": Map(difference_map, "difference of image tokens between the sound and silence"),
    "cosine": Map(cosine_map, "cosine of image tokens with the mean audio token"),
}
"""Maps of any encoder, without training for them: computed from encoder, image and audio."""


def trained_map(model: LocalizationModel, image: Tensor, audio: Tensor) -> Tensor:
    """The scores of a fine-tuned localizer's patches."""
    return model(image, audio).float()


def decoder_map(model: SegmentationModel, image: Tensor, audio: Tensor) -> Tensor:
    """The probability of each pixel that something sounds there: of the one class, or of any but the background."""
    logits = model(image, audio).float()
    return logits[:, 0].sigmoid() if logits.shape[1] == 1 else 1 - logits.softmax(dim=1)[:, 0]


TRAINED = {
    "trained": Map(trained_map, "fine-tuned scores of image patches"),
    "decoder": Map(decoder_map, "the segmentation decoder's probability that a pixel sounds"),
}
"""Maps of models that were fine-tuned for them: computed from model, image and audio."""
OF_MODEL: dict[type[nn.Module], str] = {LocalizationModel: "trained", SegmentationModel: "decoder"}
EVERY = (*MAPS, *TRAINED)


def choose_map(model: nn.Module, kind: str | None) -> str:
    """``kind``, or where None what ``model`` was fine-tuned for, ``attention`` for another with fusion blocks, else
    ``cosine``. ``model`` is an encoder or what stands on one.

    UsageError for a kind that is unknown or that would not hear the sound in this model: fusion tokens are
    read one fusion block after they have read the sound, so ``attention`` and ``difference`` need two of
    them.
    """
    own, encoder = OF_MODEL.get(type(model)), encoder_of(model)
    hears = len(encoder.fusion_blocks) >= 2
    if kind is None:
        return own or ("attention" if hears else "cosine")
    if kind not in EVERY:
        raise UsageError(f"there is no map {kind!r}", hint=f"choose one of {', '.join(EVERY)}")
    if kind in TRAINED:
        if kind != own:
            task = "localize" if kind == "trained" else "segment"
            hint = f"avtool finetune {task} --recipe tiny-{task} --from RUN trains one"
            raise UsageError(f"this model has no {kind} map", hint=hint)
        return kind
    if kind != "cosine" and not hears:
        found = {0: "no fusion blocks", 1: "a single fusion block"}[len(encoder.fusion_blocks)]
        what = f"this model has {found}, so its {kind} map ignores the sound"
        raise UsageError(what, hint="use --map cosine")
    return kind


def words_of(kind: str) -> str:
    """What a kind of map is."""
    return (MAPS | TRAINED)[kind].words


@torch.no_grad()
def localization_map(model: nn.Module, image: Tensor, audio: Tensor, *, kind: str) -> Tensor:
    """The map of a ``kind`` of ``EVERY``: float32 (B, rows, columns), without gradient. ``model`` is an encoder or what
    stands on one."""
    if kind in TRAINED:
        return TRAINED[kind].compute(model, image, audio)
    return MAPS[kind].compute(encoder_of(model), image, audio)
